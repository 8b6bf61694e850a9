//! Verification: every reply is checked against what was written before it.
//!
//! Each key belongs to one generator thread and is written over one of its connections; all connections of the thread
//! that may ask for it read it. `history` knows what may be read, `stamp` makes values whose every byte can be checked.
//! Through the native client, over a cluster with faults, a write may end in doubt: what it alone can explain is excused, and
//! counted. In the end every key is looked at once more.

mod history;
#[cfg(test)]
mod history_tests;
mod stamp;

use std::collections::HashMap;

use super::keys::{KeySpace, write_digits};
use super::mix::{MixOptions, write_counter_key};
use super::random::Random;
use super::routes::Routes;
use super::zipf::Zipf;
use super::{Ask, Op, Work};
use crate::engine::Waiting;
use crate::protocol::{Answered, Outcome, Request};
use history::{CounterHistory, EXPIRED_ALLOWANCE_NS, Floors, KeyHistory, Seen, Terms, VersionHistory, Violation};
use stamp::Stamp;

pub(crate) use stamp::STAMP_BYTES;

/// Violations that are told in words; all are counted.
const VIOLATIONS_TOLD_MAX: usize = 10;
/// Draws for one request before a connection waits for its next turn.
const DRAWS_MAX: usize = 4096;
/// How long after its expiry an item may still be read in a cluster: a failover ends a time to live late by the replication
/// delay, which is at most the time after which a silent copy is dropped, and 100 ms (C12).
const EXPIRED_ALLOWANCE_CLUSTER_NS: u64 = 600_000_000;

/// What is verified.
#[derive(Clone, Debug)]
pub(crate) struct VerifyOptions {
    /// The mix; its ratios, popularity and lengths.
    pub(crate) mix: MixOptions,
    /// Whether the server may drop live items. If not, a miss of one is a violation.
    pub(crate) evicts: bool,
    /// Whether requests go through the native client, which may send them more than once.
    pub(crate) through_client: bool,
    /// Distinguishes this run from those before it.
    pub(crate) run: u32,
}

/// The workload of one generator thread.
#[derive(Debug)]
pub(crate) struct Verify {
    options: VerifyOptions,
    /// The keys of this thread: every `threads`-th, from `thread` on.
    local: KeySpace,
    thread: u64,
    threads: u64,
    zipf: Option<Zipf>,
    routes: Routes,
    random: Random,
    writer: u64,
    keys: Vec<KeyHistory>,
    counters: Vec<CounterHistory>,
    /// Through the client: the versions seen of each key.
    versions: Vec<VersionHistory>,
    /// The writes in doubt of each key that has some.
    in_doubt: HashMap<u64, Vec<Doubt>>,
    /// How far the look at every key is, once it has begun.
    last_look: Option<u64>,
    /// The connection that writes each key.
    writer_of: Vec<u32>,
    /// The keys each connection writes, popular ones first.
    own_keys: Vec<Vec<u32>>,
    key: Box<[u8]>,
    counter_key: Box<[u8]>,
    value: Vec<u8>,
    /// Promises broken.
    pub(crate) violations: u64,
    /// The first of them, in words.
    pub(crate) violations_told: Vec<String>,
    /// What a write in doubt explains.
    pub(crate) excused: u64,
}

/// A write that ended without an answer.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    number: u32,
    /// It deletes the item, or lets it expire.
    takes_away: bool,
}

impl Verify {
    /// The verification of thread `thread` of `threads`; there are at least as many keys as threads.
    pub(crate) fn new(options: VerifyOptions, routes: Routes, thread: u64, threads: u64) -> Self {
        let keys = options.mix.keys.len();
        let local = options.mix.keys.shared_out(keys / threads + u64::from(thread < keys % threads));
        let mut verify = Self {
            zipf: (options.mix.zipf > 0.0).then(|| Zipf::new(local.len(), options.mix.zipf)),
            thread,
            threads,
            random: Random::new(options.mix.seed, thread),
            writer: (u64::from(options.run) << 32) | thread,
            keys: vec![KeyHistory::default(); local.len() as usize],
            counters: vec![CounterHistory::default(); local.len() as usize],
            versions: vec![VersionHistory::default(); if options.through_client { local.len() as usize } else { 0 }],
            in_doubt: HashMap::new(),
            last_look: None,
            writer_of: vec![0; local.len() as usize],
            own_keys: vec![Vec::new(); routes.classes().len()],
            key: local.blank(),
            counter_key: local.blank(),
            value: Vec::with_capacity(options.mix.value_bytes.most as usize),
            violations: 0,
            violations_told: Vec::with_capacity(VIOLATIONS_TOLD_MAX),
            excused: 0,
            local,
            routes,
            options,
        };
        verify.share_out_writing();
        verify
    }

    /// From here on every key that was written is read once, every counter counted once more, and that is all.
    pub(crate) fn begin_last_look(&mut self) {
        self.last_look = Some(0);
    }

    /// The next of that look.
    fn look_at_next(&mut self, place: u64) -> Option<Ask> {
        let keys = self.local.len();
        for place in place..2 * keys {
            self.last_look = Some(place + 1);
            let local = place % keys;
            let is_counter = place >= keys;
            let is_used = if is_counter {
                self.counters[local as usize].is_used()
            } else {
                self.keys[local as usize].is_written()
            };
            if is_used {
                write_digits(self.global(local), &mut self.key);
                return Some(if is_counter { self.ask_increment(local) } else { self.ask_get(0, local) });
            }
        }
        None
    }

    /// Gives each key to one of the connections that may ask for it.
    fn share_out_writing(&mut self) {
        let mut allowed = Vec::with_capacity(self.own_keys.len());
        for rank in 0..self.local.len() {
            let local = self.local.at_rank(rank);
            write_digits(self.global(local), &mut self.key);
            allowed.clear();
            allowed.extend((0..self.own_keys.len()).filter(|&connection| self.routes.allows(connection, &self.key)));
            if let Some(&connection) = allowed.get((rank % allowed.len().max(1) as u64) as usize) {
                self.writer_of[local as usize] = connection as u32;
                self.own_keys[connection].push(local as u32);
            }
        }
    }

    /// The number of a key of this thread among all keys.
    const fn global(&self, local: u64) -> u64 {
        local * self.threads + self.thread
    }

    fn draw_rank(&mut self) -> u64 {
        match &self.zipf {
            Some(zipf) => zipf.draw(&mut self.random),
            None => self.random.below(self.local.len()),
        }
    }

    /// A key that the connection may read.
    fn draw_readable(&mut self, connection: usize) -> Option<u64> {
        for _ in 0..DRAWS_MAX {
            let rank = self.draw_rank();
            let local = self.local.at_rank(rank);
            write_digits(self.global(local), &mut self.key);
            if self.routes.allows(connection, &self.key) {
                return Some(local);
            }
        }
        None
    }

    /// A key that the connection writes.
    fn draw_own(&mut self, connection: usize) -> Option<u64> {
        let rank = self.draw_rank();
        let own = &self.own_keys[connection];
        let position = u128::from(rank) * own.len() as u128 / u128::from(self.local.len());
        let local = u64::from(*own.get(position as usize)?);
        write_digits(self.global(local), &mut self.key);
        Some(local)
    }

    fn ask_get(&mut self, connection: usize, local: u64) -> Ask {
        let keeps_order = !self.options.through_client;
        let on_writers_connection = keeps_order && self.writer_of[local as usize] as usize == connection;
        let floors = self.keys[local as usize].read_sent(on_writers_connection);
        let mark = (u64::from(floors.sent) << 32) | u64::from(floors.acknowledged);
        Ask { mark, ..Ask::of(Op::Get, local) }
    }

    fn ask_set(&mut self, connection: usize, local: u64, now_ns: u64) -> Ask {
        let history = &mut self.keys[local as usize];
        // Half of the sets expire, at any time up to the one asked for.
        let expires = self.options.mix.ttl_ms != 0 && self.random.below(2) == 0;
        if !history.may_write_next(self.options.through_client) || (expires && !history.may_expire_next()) {
            return self.ask_get(connection, local);
        }
        let ttl_ms = if expires { 1 + self.random.below(self.options.mix.ttl_ms) } else { 0 };
        let mark = u64::from(history.set_sent(ttl_ms, now_ns));
        let value_bytes = self.options.mix.value_bytes.draw(&mut self.random);
        Ask { value_bytes, ttl_ms, mark, ..Ask::of(Op::Set, local) }
    }

    fn ask_increment(&mut self, local: u64) -> Ask {
        let mark = u64::from(self.counters[local as usize].increment_sent());
        Ask { mark, ..Ask::of(Op::Increment, local) }
    }

    /// Whether a write in doubt explains what looks wrong: it may be carried out at any time.
    fn is_excused(&self, local: u64, violation: &Violation) -> bool {
        let Some(doubts) = self.in_doubt.get(&local) else { return false };
        match violation {
            Violation::Stale { number, .. } => doubts.iter().any(|doubt| doubt.number == *number),
            Violation::Lost { .. } => doubts.iter().any(|doubt| doubt.takes_away),
            _ => false,
        }
    }

    fn judge(&mut self, local: u64, result: Result<(), Violation>) {
        let Err(violation) = result else { return };
        if self.is_excused(local, &violation) {
            self.excused += 1;
            return;
        }
        self.violations += 1;
        if self.violations_told.len() < VIOLATIONS_TOLD_MAX {
            self.violations_told.push(format!("key {:x}: {violation}", self.global(local)));
        }
    }
}

impl Work for Verify {
    fn next(&mut self, connection: usize, now_ns: u64) -> Option<Ask> {
        if let Some(place) = self.last_look {
            return self.look_at_next(place);
        }
        let draw = self.random.unit();
        let MixOptions { set_ratio, delete_ratio, increment_ratio, .. } = self.options.mix;
        let below_deletes = set_ratio + delete_ratio;
        let below_increments = below_deletes + increment_ratio;
        if draw >= below_increments {
            let local = self.draw_readable(connection)?;
            return Some(self.ask_get(connection, local));
        }
        let Some(local) = self.draw_own(connection) else {
            // A connection with no key of its own reads.
            let local = self.draw_readable(connection)?;
            return Some(self.ask_get(connection, local));
        };
        Some(if draw < set_ratio {
            self.ask_set(connection, local, now_ns)
        } else if draw >= below_deletes {
            if self.options.through_client && !self.counters[local as usize].is_idle() {
                return Some(self.ask_get(connection, local));
            }
            self.ask_increment(local)
        } else if self.keys[local as usize].may_write_next(self.options.through_client) {
            let mark = u64::from(self.keys[local as usize].delete_sent());
            Ask { mark, ..Ask::of(Op::Delete, local) }
        } else {
            self.ask_get(connection, local)
        })
    }

    fn request(&mut self, _connection: usize, ask: &Ask) -> Request<'_> {
        // `next` has left the key's bytes behind.
        match ask.op {
            Op::Get | Op::MultiGet => Request::Get { key: &self.key },
            Op::Delete => Request::Delete { key: &self.key },
            Op::Increment => {
                write_counter_key(&self.key, &mut self.counter_key);
                Request::Increment { key: &self.counter_key }
            }
            Op::Set => {
                let stamp = Stamp { key: self.global(ask.key), writer: self.writer, number: ask.mark as u32 };
                stamp.write(ask.value_bytes as usize, &mut self.value);
                Request::Set { key: &self.key, value: &self.value, ttl_ms: ask.ttl_ms, client_flags: 0 }
            }
        }
    }

    fn done(&mut self, _connection: usize, waiting: &Waiting, answered: Answered<'_>, now_ns: u64) {
        let ask = &waiting.ask;
        let Answered { outcome, version, value } = answered;
        let (key, counter) = (&mut self.keys[ask.key as usize], &mut self.counters[ask.key as usize]);
        let VerifyOptions { evicts, through_client, .. } = self.options;
        let expired_late_ns = if through_client { EXPIRED_ALLOWANCE_CLUSTER_NS } else { EXPIRED_ALLOWANCE_NS };
        let terms = Terms { evicts, expired_late_ns };
        let result = match (ask.op, outcome) {
            (Op::Get, Outcome::Hit | Outcome::Miss) => {
                let floors = Floors { acknowledged: ask.mark as u32, sent: (ask.mark >> 32) as u32 };
                let seen = if outcome == Outcome::Hit { Seen::Value(value) } else { Seen::Miss };
                let identity = (self.writer, ask.key * self.threads + self.thread);
                key.read_answered(floors, seen, identity, waiting.intended_ns, now_ns, terms)
            }
            (Op::Get | Op::MultiGet, _) => {
                key.read_refused();
                Ok(())
            }
            (Op::Set | Op::Delete, Outcome::InDoubt) => {
                key.write_in_doubt();
                let takes_away = ask.op == Op::Delete || ask.ttl_ms > 0;
                self.in_doubt.entry(ask.key).or_default().push(Doubt { number: ask.mark as u32, takes_away });
                Ok(())
            }
            (Op::Set | Op::Delete, outcome) => {
                let carried_out = !matches!(outcome, Outcome::Refused(_));
                key.write_answered(ask.mark as u32, carried_out, now_ns)
            }
            (Op::Increment, Outcome::Counted(value)) => counter.increment_answered(ask.mark as u32, value, evicts),
            (Op::Increment, Outcome::InDoubt) => {
                counter.increment_in_doubt();
                Ok(())
            }
            (Op::Increment, _) => {
                counter.increment_refused();
                Ok(())
            }
        };
        self.judge(ask.key, result);
        if ask.op != Op::Increment && version != 0 && through_client {
            let versions = &mut self.versions[ask.key as usize];
            let result = versions.answered(version, ask.op != Op::Get, waiting.intended_ns, now_ns);
            self.judge(ask.key, result);
        }
    }

    fn reads_values(&self) -> bool {
        true
    }

    fn is_exhausted(&self) -> bool {
        self.last_look.is_some_and(|place| place >= 2 * self.local.len())
    }
}
