//! Results of writes that are not idempotent, kept so that a repeat is answered and not applied again.
//!
//! A session numbers such writes in sending order. The table keeps the latest results of all sessions in one bounded
//! first-in-first-out ring; when a result leaves it, its session remembers up to which number results are forgotten. So a
//! repeat gets its first result, or `OutcomeUnknown`, and is never applied twice. A session is forgotten whole only after
//! [`SESSION_IDLE_MIN`] without a write, which is longer than a client may go on repeating one.
//!
//! Results belong to the vnode they were made in: they travel with its records, and with the vnode when it moves (C13).

use std::collections::{HashMap, VecDeque};

use quoit_wire::peer::KeptResult;
use quoit_wire::{RetryToken, Status, Version};

use crate::cluster::planted::{Fault, is_planted};
use crate::time::{Duration, Instant};

/// Results kept per core. 64 Ki of them take about 5 MiB; at 100,000 counted writes a second they last 0.6 s.
pub const RESULTS_MAX: usize = 64 << 10;
/// Sessions kept per core.
pub const SESSIONS_MAX: usize = 16 << 10;
/// A session younger than this is never forgotten; clients repeat a write for at most this long (protocol, "Retries").
pub const SESSION_IDLE_MIN: Duration = Duration::from_secs(60);

/// Bytes of an entry in a saved state; see [`RetryTable::entries`].
pub(crate) const RETRY_ENTRY_BYTES: usize = 32;
/// The vnode of a result that a saved state brought: a node that restarts is no copy of anything, so it goes nowhere.
const NO_VNODE: u32 = u32::MAX;
/// Entries that are no result.
const ENTRY_SESSION: u8 = 0xFF;
const ENTRY_HAS_FORGOTTEN: u8 = 0xFE;

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
    /// Every result, oldest first, with its vnode.
    order: VecDeque<(RetryToken, u32)>,
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

    /// Keeps the result of a write in `vnode` that [`Self::recall`] called new.
    pub fn record(&mut self, token: RetryToken, vnode: u32, result: WriteResult) {
        if self.order.len() >= RESULTS_MAX
            && let Some((oldest, _)) = self.order.pop_front()
            && let Some(session) = self.sessions.get_mut(&oldest.session)
        {
            session.results.remove(&oldest.number);
            session.forgotten = session.forgotten.max(oldest.number);
        }
        if let Some(session) = self.sessions.get_mut(&token.session) {
            session.results.insert(token.number, result);
            self.order.push_back((token, vnode));
        }
    }

    /// The result kept for `token`, without a look at how it came to be asked for.
    pub fn kept(&self, token: RetryToken) -> Option<WriteResult> {
        self.sessions.get(&token.session)?.results.get(&token.number).copied()
    }

    /// Keeps a result that another copy of `vnode` made.
    pub fn learn(&mut self, now: Instant, vnode: u16, kept: &KeptResult) {
        if is_planted(Fault::ForgottenResults) {
            return;
        }
        match self.recall(now, kept.token, false) {
            Recall::New => {
                let result = WriteResult { status: kept.status, version: kept.version, counter: kept.counter };
                self.record(kept.token, u32::from(vnode), result);
            }
            Recall::Repeat(_) | Recall::Forgotten => {}
            // A repeat of it is not told from one of a session that was forgotten.
            Recall::Full => self.has_forgotten = true,
        }
    }

    /// Forgets the results kept for `vnode`: they are of a history that is not the vnode's. Cost: a look at all of the core's.
    pub fn forget_vnode(&mut self, vnode: u16) {
        let sessions = &mut self.sessions;
        self.order.retain(|(token, owner)| {
            let stays = *owner != u32::from(vnode);
            if !stays && let Some(session) = sessions.get_mut(&token.session) {
                session.results.remove(&token.number);
            }
            stays
        });
    }

    /// The results kept for `vnode`, oldest first. Cost: a look at all of the core's.
    pub fn of_vnode(&self, vnode: u16) -> Vec<KeptResult> {
        let tokens = self.order.iter().filter(|(_, owner)| *owner == u32::from(vnode)).map(|(token, _)| *token);
        let kept = |token| {
            let WriteResult { status, version, counter } = self.kept(token)?;
            Some(KeptResult { token, status, version, counter })
        };
        tokens.filter_map(kept).collect()
    }

    /// Results kept now.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// What a saved state holds of the table: sessions first, then their results, oldest first.
    ///
    /// ```text
    /// 0                   1           4        8         16        24
    /// ┌───────────────────┬───────────┬────────┬─────────┬─────────┬─────────┐
    /// │ status,           │ counter   │ number │ session │ version │ counter │
    /// │ or what else it is│ if 1, u8  │ u32    │ u64     │ u64     │ i64     │
    /// └───────────────────┴───────────┴────────┴─────────┴─────────┴─────────┘
    /// ```
    pub(crate) fn entries(&self) -> Vec<[u8; RETRY_ENTRY_BYTES]> {
        let entry = |kind, number: u32, session: u64, result: Option<&WriteResult>| {
            let mut entry = [0; RETRY_ENTRY_BYTES];
            let counter = result.and_then(|result| result.counter);
            (entry[0], entry[1]) = (kind, u8::from(counter.is_some()));
            entry[4..8].copy_from_slice(&number.to_le_bytes());
            entry[8..16].copy_from_slice(&session.to_le_bytes());
            entry[16..24].copy_from_slice(&result.map_or(0, |result| result.version.as_u64()).to_le_bytes());
            entry[24..].copy_from_slice(&counter.unwrap_or(0).to_le_bytes());
            entry
        };
        let mut entries = Vec::with_capacity(1 + self.sessions.len() + self.order.len());
        if self.has_forgotten {
            entries.push(entry(ENTRY_HAS_FORGOTTEN, 0, 0, None));
        }
        entries.extend(self.sessions.iter().map(|(id, session)| entry(ENTRY_SESSION, session.forgotten, *id, None)));
        for (token, _) in &self.order {
            let result = self.sessions.get(&token.session).and_then(|session| session.results.get(&token.number));
            entries.extend(result.map(|result| entry(result.status as u8, token.number, token.session, Some(result))));
        }
        entries
    }

    /// Takes in an entry of a saved state; false when it is none. What finds no room counts as forgotten.
    pub(crate) fn take_in(&mut self, now: Instant, entry: &[u8; RETRY_ENTRY_BYTES]) -> bool {
        let long = |at: usize| entry[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
        let (number, session) = (long(0) >> 32, long(8));
        let token = RetryToken { session, number: number as u32 };
        match entry[0] {
            ENTRY_HAS_FORGOTTEN => self.has_forgotten = true,
            ENTRY_SESSION => {
                if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&session) {
                    self.has_forgotten = true;
                    return true;
                }
                let known = self.sessions.entry(session).or_insert_with(|| {
                    self.idle_check.push_back(session);
                    Session::default()
                });
                known.forgotten = known.forgotten.max(token.number);
                known.used = now;
            }
            status => {
                let Some(status) = Status::ALL.iter().copied().find(|known| *known as u8 == status) else {
                    return false;
                };
                let counter = (entry[1] == 1).then_some(long(24) as i64);
                self.record(token, NO_VNODE, WriteResult { status, version: Version::from_u64(long(16)), counter });
            }
        }
        true
    }

    /// Empties the table; that there was something is remembered.
    pub(crate) fn forget_all(&mut self) {
        *self = Self { has_forgotten: self.has_forgotten || !self.sessions.is_empty(), ..Self::default() };
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
        table.record(token(7, 1), 0, result(5));
        assert_eq!(table.recall(Instant::ORIGIN, token(7, 1), false), Recall::Repeat(result(5)));
        assert_eq!(table.recall(Instant::ORIGIN, token(7, 2), false), Recall::New);
        assert_eq!(table.recall(Instant::ORIGIN, token(8, 1), false), Recall::New);
    }

    #[test]
    fn a_repeat_gets_the_first_result_after_a_restart_too() {
        let mut table = RetryTable::default();
        let counted = WriteResult { counter: Some(-4), ..result(9) };
        for number in 1..=(RESULTS_MAX as u32 + 3) {
            table.recall(Instant::ORIGIN, token(1, number), false);
            table.record(token(1, number), 0, if number % 2 == 0 { counted } else { result(u64::from(number)) });
        }
        table.recall(Instant::ORIGIN, token(2, 1), false);
        let mut restarted = RetryTable::default();
        assert!(table.entries().iter().all(|entry| restarted.take_in(Instant::ORIGIN, entry)));
        assert_eq!(restarted.len(), table.len());
        for number in [1, 3, 4, 5, 6, RESULTS_MAX as u32 + 3, RESULTS_MAX as u32 + 4] {
            let recalled = restarted.recall(Instant::ORIGIN, token(1, number), true);
            assert_eq!(recalled, table.recall(Instant::ORIGIN, token(1, number), true), "{number}");
        }
        restarted.forget_all();
        assert_eq!(restarted.recall(Instant::ORIGIN, token(1, 6), true), Recall::Forgotten);
        assert!(!restarted.take_in(Instant::ORIGIN, &[200; RETRY_ENTRY_BYTES]), "no such status");
    }

    #[test]
    fn results_go_where_their_vnode_goes() {
        let (mut source, mut target) = (RetryTable::default(), RetryTable::default());
        for number in 1..=10 {
            assert_eq!(source.recall(Instant::ORIGIN, token(7, number), false), Recall::New);
            source.record(token(7, number), number % 2, result(u64::from(number)));
        }
        let moved = source.of_vnode(1);
        assert_eq!(moved.iter().map(|kept| kept.token.number).collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
        moved.iter().for_each(|kept| target.learn(Instant::ORIGIN, 1, kept));
        assert_eq!(target.recall(Instant::ORIGIN, token(7, 3), true), Recall::Repeat(result(3)));
        assert_eq!(target.recall(Instant::ORIGIN, token(7, 4), true), Recall::New, "of another vnode");
    }

    #[test]
    fn a_forgotten_result_is_never_mistaken_for_a_new_write() {
        let mut table = RetryTable::default();
        for number in 1..=(RESULTS_MAX as u32 + 10) {
            assert_eq!(table.recall(Instant::ORIGIN, token(1, number), false), Recall::New);
            table.record(token(1, number), 0, result(u64::from(number)));
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
