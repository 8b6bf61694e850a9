//! Results of writes that are not idempotent, kept so that a repeat is answered and not applied again.
//!
//! A session numbers such writes in sending order. The table keeps the latest results of all sessions in one bounded
//! first-in-first-out ring; when a result leaves it, its session remembers up to which number results are forgotten. So a
//! repeat gets its first result, or `OutcomeUnknown`, and is never applied twice. A session is forgotten whole only after
//! [`SESSION_IDLE_MIN`] without a write, which is longer than a client may go on repeating one.

use std::collections::{HashMap, VecDeque};

use quoit_wire::{RetryToken, Status, Version};

use crate::time::{Duration, Instant};

/// Results kept per core. 64 Ki of them take about 5 MiB; at 100,000 counted writes a second they last 0.6 s.
pub const RESULTS_MAX: usize = 64 << 10;
/// Sessions kept per core.
pub const SESSIONS_MAX: usize = 16 << 10;
/// A session younger than this is never forgotten; clients repeat a write for at most this long (protocol, "Retries").
pub const SESSION_IDLE_MIN: Duration = Duration::from_secs(60);

/// The part of a reply that a repeat gets again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteResult {
    /// How the write ended.
    pub status: Status,
    /// The version it made, or the one that stood in its way.
    pub version: Version,
    /// A counter's new value.
    pub counter: Option<i64>,
}

/// What the table knows of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// Never seen: apply it, then [`RetryTable::record`] its result.
    New,
    /// Applied before, with this result.
    Repeat(WriteResult),
    /// Possibly applied before; its result is forgotten.
    Forgotten,
    /// The table is full of sessions in use: refuse the write.
    Full,
}

#[derive(Debug, Default)]
struct Session {
    /// Results up to this number are forgotten.
    forgotten: u32,
    results: HashMap<u32, WriteResult>,
    used: Instant,
}

/// The results of one core.
#[derive(Debug, Default)]
pub struct RetryTable {
    sessions: HashMap<u64, Session>,
    order: VecDeque<RetryToken>,
    idle_check: VecDeque<u64>,
    /// A whole session was forgotten at some time, so an unknown one that repeats may be it.
    has_forgotten: bool,
}

impl RetryTable {
    /// What is known of `token`; makes room for its session. `is_repeat` says that the client has sent it before.
    pub fn recall(&mut self, now: Instant, token: RetryToken, is_repeat: bool) -> Recall {
        if !self.sessions.contains_key(&token.session) {
            if is_repeat && self.has_forgotten {
                return Recall::Forgotten;
            }
            if self.sessions.len() >= SESSIONS_MAX && !self.forget_idle(now) {
                return Recall::Full;
            }
            self.sessions.insert(token.session, Session::default());
            self.idle_check.push_back(token.session);
        }
        let Some(session) = self.sessions.get_mut(&token.session) else { return Recall::Full };
        session.used = now;
        if token.number <= session.forgotten {
            return Recall::Forgotten;
        }
        session.results.get(&token.number).map_or(Recall::New, |result| Recall::Repeat(*result))
    }

    /// Keeps the result of a write that [`Self::recall`] called new.
    pub fn record(&mut self, token: RetryToken, result: WriteResult) {
        if self.order.len() >= RESULTS_MAX
            && let Some(oldest) = self.order.pop_front()
            && let Some(session) = self.sessions.get_mut(&oldest.session)
        {
            session.results.remove(&oldest.number);
            session.forgotten = session.forgotten.max(oldest.number);
        }
        if let Some(session) = self.sessions.get_mut(&token.session) {
            session.results.insert(token.number, result);
            self.order.push_back(token);
        }
    }

    /// Results kept now.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Forgets one idle session, looking at a bounded number of them; false when those are all in use.
    fn forget_idle(&mut self, now: Instant) -> bool {
        const LOOKED_AT_MAX: usize = 16;
        for _ in 0..LOOKED_AT_MAX.min(self.idle_check.len()) {
            let Some(candidate) = self.idle_check.pop_front() else { return false };
            match self.sessions.get(&candidate) {
                Some(session) if now.since(session.used) < SESSION_IDLE_MIN => self.idle_check.push_back(candidate),
                _ => {
                    self.sessions.remove(&candidate);
                    self.has_forgotten = true;
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(session: u64, number: u32) -> RetryToken {
        RetryToken { session, number }
    }

    fn result(sequence: u64) -> WriteResult {
        WriteResult { status: Status::Ok, version: Version::new(1, sequence), counter: None }
    }

    #[test]
    fn a_repeat_gets_the_first_result() {
        let mut table = RetryTable::default();
        assert_eq!(table.recall(Instant::ORIGIN, token(7, 1), false), Recall::New);
        table.record(token(7, 1), result(5));
        assert_eq!(table.recall(Instant::ORIGIN, token(7, 1), false), Recall::Repeat(result(5)));
        assert_eq!(table.recall(Instant::ORIGIN, token(7, 2), false), Recall::New);
        assert_eq!(table.recall(Instant::ORIGIN, token(8, 1), false), Recall::New);
    }

    #[test]
    fn a_forgotten_result_is_never_mistaken_for_a_new_write() {
        let mut table = RetryTable::default();
        for number in 1..=(RESULTS_MAX as u32 + 10) {
            assert_eq!(table.recall(Instant::ORIGIN, token(1, number), false), Recall::New);
            table.record(token(1, number), result(u64::from(number)));
        }
        assert_eq!(table.len(), RESULTS_MAX);
        for number in 1..=10 {
            assert_eq!(table.recall(Instant::ORIGIN, token(1, number), false), Recall::Forgotten);
        }
        assert_eq!(table.recall(Instant::ORIGIN, token(1, 11), false), Recall::Repeat(result(11)));
    }

    #[test]
    fn sessions_in_use_are_kept_and_idle_ones_make_room() {
        let mut table = RetryTable::default();
        for session in 0..SESSIONS_MAX as u64 {
            assert_eq!(table.recall(Instant::ORIGIN, token(session, 1), false), Recall::New);
        }
        let soon = Instant::ORIGIN + Duration::from_secs(1);
        assert_eq!(table.recall(soon, token(u64::MAX, 1), false), Recall::Full);
        let later = Instant::ORIGIN + SESSION_IDLE_MIN;
        assert_eq!(table.recall(later, token(u64::MAX, 1), false), Recall::New);
        assert_eq!(table.sessions.len(), SESSIONS_MAX);
    }
}
