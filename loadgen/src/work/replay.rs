//! A trace played as cache-aside: get each object; on a miss set one of the trace's size.
//!
//! Requests for one object keep the order of the trace: while an object's get, or the set that follows a miss, is on its
//! way, the next request for it waits, and with it everything behind. Timestamps are not waited for.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::BufReader;

use super::keys::{KeySpace, write_digits};
use super::random::Random;
use super::routes::Routes;
use super::trace::{Record, TraceError, TraceReader};
use super::values::Values;
use super::{Ask, Op, Work, set_of};
use crate::engine::Waiting;
use crate::protocol::{Answered, Outcome, Refusal, Request};

/// What a replay has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplayTotals {
    /// Records asked for and answered.
    pub(crate) requests: u64,
    /// Of those, found.
    pub(crate) hits: u64,
    /// Bytes of the records, by the trace.
    pub(crate) bytes: u64,
    /// Bytes of those found.
    pub(crate) hit_bytes: u64,
    /// Records that missed and could not be stored: larger than the server takes.
    pub(crate) too_large: u64,
}

/// The replay of one trace.
#[derive(Debug)]
pub(crate) struct Replay {
    reader: TraceReader<BufReader<File>>,
    /// The record to be asked for next.
    head: Option<Record>,
    has_ended: bool,
    /// Objects with a request on its way, or a set to come.
    busy: HashSet<u64>,
    /// Missed objects, to be set by the connection that missed them.
    missed: Vec<VecDeque<(u64, u32)>>,
    routes: Routes,
    values: Values,
    value_bytes_max: u32,
    ttl_ms: u64,
    key: Box<[u8]>,
    /// What was found.
    pub(crate) totals: ReplayTotals,
    /// Why the trace could not be played to its end.
    pub(crate) error: Option<TraceError>,
}

impl Replay {
    /// Plays `first` and what `reader` gives after it. Objects of more than `value_bytes_max` are asked for, and not set.
    #[expect(clippy::too_many_arguments, reason = "all are named in one place, where the command's options are read")]
    pub(crate) fn new(
        first: Record,
        reader: TraceReader<BufReader<File>>,
        keys: &KeySpace,
        value_bytes_max: u32,
        ttl_ms: u64,
        seed: u64,
        routes: Routes,
        depth: usize,
    ) -> Self {
        let connections = routes.classes().len();
        Self {
            reader,
            head: Some(first),
            has_ended: false,
            busy: HashSet::with_capacity(connections * depth * 2),
            missed: (0..connections).map(|_| VecDeque::with_capacity(depth)).collect(),
            routes,
            values: Values::new(value_bytes_max, &mut Random::new(seed, 0)),
            value_bytes_max,
            ttl_ms,
            key: keys.blank(),
            totals: ReplayTotals::default(),
            error: None,
        }
    }

    fn read_head(&mut self) {
        if self.head.is_some() || self.has_ended {
            return;
        }
        match self.reader.next_record() {
            Ok(head) => self.head = head,
            Err(error) => self.error = Some(error),
        }
        self.has_ended = self.head.is_none();
    }
}

impl Work for Replay {
    fn next(&mut self, connection: usize, _now_ns: u64) -> Option<Ask> {
        if let Some((object, value_bytes)) = self.missed[connection].pop_front() {
            write_digits(object, &mut self.key);
            return Some(Ask { value_bytes, ttl_ms: self.ttl_ms, ..Ask::of(Op::Set, object) });
        }
        self.read_head();
        let head = self.head?;
        if self.busy.contains(&head.object) {
            return None;
        }
        write_digits(head.object, &mut self.key);
        if !self.routes.allows(connection, &self.key) {
            return None;
        }
        self.head = None;
        self.busy.insert(head.object);
        Some(Ask { value_bytes: head.size_bytes, ..Ask::of(Op::Get, head.object) })
    }

    fn request(&mut self, _connection: usize, ask: &Ask) -> Request<'_> {
        // `next` has left the key's bytes behind.
        match ask.op {
            Op::Set => set_of(&self.key, &self.values, ask),
            _ => Request::Get { key: &self.key },
        }
    }

    fn done(&mut self, connection: usize, waiting: &Waiting, answered: Answered<'_>, _now_ns: u64) {
        let outcome = answered.outcome;
        let Ask { op, key: object, value_bytes, .. } = waiting.ask;
        if op == Op::Get {
            let is_hit = outcome == Outcome::Hit;
            self.totals.requests += 1;
            self.totals.bytes += u64::from(value_bytes);
            self.totals.hits += u64::from(is_hit);
            self.totals.hit_bytes += if is_hit { u64::from(value_bytes) } else { 0 };
            if outcome == Outcome::Miss && value_bytes <= self.value_bytes_max {
                self.missed[connection].push_back((object, value_bytes));
                return;
            }
            self.totals.too_large += u64::from(outcome == Outcome::Miss);
        } else if outcome == Outcome::Refused(Refusal::TooLarge) {
            self.totals.too_large += 1;
        }
        self.busy.remove(&object);
    }

    fn reads_values(&self) -> bool {
        false
    }

    fn is_exhausted(&self) -> bool {
        self.has_ended && self.busy.is_empty()
    }
}
