//! Big values beside the workload that is measured: one more connection that sets and gets them without a pause.
//!
//! It has one request on its way at a time, over a few keys that no other workload draws. Nothing of it is in the
//! latencies; its bytes are counted apart.

use super::keys::{KeySpace, write_digits};
use super::random::Random;
use super::values::Values;
use super::{Ask, Op, Work, set_of};
use crate::engine::Waiting;
use crate::protocol::{Answered, Request};

/// The stream of random numbers that the values are made of; threads have those from 0 on.
const VALUES_STREAM: u64 = u64::MAX;

/// What goes on beside.
#[derive(Clone, Debug)]
pub(crate) struct BesideOptions {
    /// Bytes of each value.
    pub(crate) value_bytes: u32,
    /// The key space of the workload, for the length of keys.
    pub(crate) keys: KeySpace,
    /// Everything random follows from it.
    pub(crate) seed: u64,
}

/// A workload, and big values on the last connection of its thread.
#[derive(Debug)]
pub(crate) struct Beside<W> {
    work: W,
    /// The connection of the big values.
    connection: usize,
    value_bytes: u32,
    values: Values,
    key: Box<[u8]>,
    /// The thread's own key.
    number: u64,
    is_waiting: bool,
    sets_next: bool,
}

impl<W: Work> Beside<W> {
    /// `work` on all connections of `thread` before `connection`.
    pub(crate) fn new(work: W, options: &BesideOptions, thread: u64, connection: usize) -> Self {
        Self {
            work,
            connection,
            value_bytes: options.value_bytes,
            values: Values::new(options.value_bytes, &mut Random::new(options.seed, VALUES_STREAM)),
            key: options.keys.blank(),
            number: thread,
            is_waiting: false,
            sets_next: true,
        }
    }
}

impl<W: Work> Work for Beside<W> {
    #[inline]
    fn next(&mut self, connection: usize, now_ns: u64) -> Option<Ask> {
        if connection != self.connection {
            return self.work.next(connection, now_ns);
        }
        if self.is_waiting {
            return None;
        }
        self.is_waiting = true;
        write_digits(self.number, &mut self.key);
        // Another first letter than any key of a workload or counter.
        self.key[0] = b'+';
        let op = if self.sets_next { Op::Set } else { Op::Get };
        Some(Ask { value_bytes: self.value_bytes, is_aside: true, ..Ask::of(op, self.number) })
    }

    #[inline]
    fn request(&mut self, connection: usize, ask: &Ask) -> Request<'_> {
        match ask.op {
            _ if connection != self.connection => self.work.request(connection, ask),
            Op::Set => set_of(&self.key, &self.values, ask),
            _ => Request::Get { key: &self.key },
        }
    }

    #[inline]
    fn done(&mut self, connection: usize, waiting: &Waiting, answered: Answered<'_>, now_ns: u64) {
        if connection != self.connection {
            return self.work.done(connection, waiting, answered, now_ns);
        }
        self.is_waiting = false;
        self.sets_next = !self.sets_next;
    }

    fn reads_values(&self) -> bool {
        self.work.reads_values()
    }

    fn is_exhausted(&self) -> bool {
        self.work.is_exhausted()
    }
}
