//! Requests that wait for their vnode: it is between two primaries, or its right to answer is being renewed.
//!
//! That takes some milliseconds, so they are kept here, in order, rather than sent back to be asked again: when the vnode is
//! served they are carried out, when it is another node's they are told so at once. Who comes later waits behind them. What
//! is kept is bounded in number, bytes and time, and counts as the core's buffers do; past that a request is answered
//! `Overloaded`. Requests for several keys, and large values, do not wait.

use std::collections::{BTreeMap, VecDeque};

use quoit_wire::request_head;
use quoit_wire::topology::vnode_of;

use super::core::Core;
use super::held::Asker;
use super::limits::{WAITING_MAX, WAITING_SHARE, WAITING_TIME_MAX};
use super::mesh::Batch;
use crate::shard::{Outcome, Output, ReplyLimits, Route, Shard};
use crate::time::{Duration, Instant};

/// The waiting requests of one core.
#[derive(Debug)]
pub(super) struct Waiting {
    by_vnode: BTreeMap<u16, VecDeque<Request>>,
    len: usize,
    /// Bytes of their frames.
    bytes: usize,
    bytes_max: usize,
    pub counters: WaitingCounters,
}

/// A request that waits.
#[derive(Debug)]
struct Request {
    asker: Asker,
    since: Instant,
    hash: u64,
    frame: Vec<u8>,
}

/// Plain integers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitingCounters {
    /// Requests that have waited and were answered.
    pub served: u64,
    /// Requests that have waited in vain.
    pub expired: u64,
}

impl Waiting {
    /// None yet; they may take their share of `buffer_bytes_max`.
    pub(super) fn new(buffer_bytes_max: usize) -> Self {
        Self {
            by_vnode: BTreeMap::new(),
            len: 0,
            bytes: 0,
            bytes_max: buffer_bytes_max / WAITING_SHARE,
            counters: WaitingCounters::default(),
        }
    }

    /// Requests that wait.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of their frames.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long the first of them may still wait.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let first = self.by_vnode.values().filter_map(VecDeque::front).map(|request| request.since).min()?;
        Some((first + WAITING_TIME_MAX).since(now))
    }

    /// Keeps a request that `shard` can't carry out yet. Cold, so that who has no such requests has nothing of it in the way.
    #[cold]
    pub(super) fn keep(&mut self, shard: &mut Shard, now: Instant, asker: Asker, hash: u64, frame: &[u8]) {
        let vnode = vnode_of(hash, shard.topology().vnode_bits) as u16;
        let request = Request { asker, since: now, hash, frame: frame.to_vec() };
        self.len += 1;
        self.bytes += frame.len();
        self.by_vnode.entry(vnode).or_default().push_back(request);
        shard.set_waiting(vnode, true);
        shard.set_may_defer(self.has_room());
    }

    fn has_room(&self) -> bool {
        self.len < WAITING_MAX && self.bytes < self.bytes_max
    }

    /// Takes the first request of a vnode out, if there is one and `takes` it.
    fn take(&mut self, vnode: u16, takes: impl Fn(&Request) -> bool) -> Option<Request> {
        let requests = self.by_vnode.get_mut(&vnode)?;
        requests.front().filter(|request| takes(request))?;
        let request = requests.pop_front()?;
        self.len -= 1;
        self.bytes -= request.frame.len();
        Some(request)
    }
}

impl Core {
    /// Carries out the requests whose vnodes can be asked again, and answers those that have waited for too long; whether
    /// there were any.
    pub(super) fn serve_waiting(&mut self) -> bool {
        if self.waiting.len == 0 {
            return false;
        }
        let now = self.now.instant();
        let mut batches = Vec::new();
        let mut had_any = false;
        for vnode in self.waiting.by_vnode.keys().copied().collect::<Vec<_>>() {
            let has_to_wait = self.shard.has_to_wait(now, vnode);
            self.shard.set_waiting(vnode, false);
            let is_over = |request: &Request| !has_to_wait || now.since(request.since) >= WAITING_TIME_MAX;
            while let Some(request) = self.waiting.take(vnode, is_over) {
                had_any = true;
                self.serve(now, &request, has_to_wait, &mut batches);
            }
            match self.waiting.by_vnode.get(&vnode) {
                Some(requests) if requests.is_empty() => drop(self.waiting.by_vnode.remove(&vnode)),
                _ => self.shard.set_waiting(vnode, true),
            }
        }
        self.send_batches(batches);
        self.shard.set_may_defer(self.waiting.has_room());
        had_any
    }

    /// Answers one request that has waited: as it is carried out now, or that its time is over.
    fn serve(&mut self, now: Instant, request: &Request, is_expired: bool, batches: &mut Vec<(usize, Batch)>) {
        let Request { asker, hash, ref frame, .. } = *request;
        let Ok(Some(head)) = request_head(frame, self.options.value_bytes_max) else {
            unreachable!("its head was read before it was kept");
        };
        let mut output = Output::default();
        self.counters.answered += 1;
        // What is kept as bytes, or goes to another core, must not lie in the arena.
        let limits = ReplyLimits { pin_bytes_min: usize::MAX, ..self.reply_limits() };
        self.shard.set_may_defer(false);
        let outcome = if is_expired {
            self.waiting.counters.expired += 1;
            self.shard.answer_later(&head, &mut output);
            Outcome::Done
        } else if self.shard.route(hash) != Route::Here {
            self.waiting.counters.served += 1;
            self.shard.answer_moved(&head, &mut output);
            Outcome::Done
        } else {
            self.waiting.counters.served += 1;
            self.shard.execute_frame(now, head, frame, hash, limits, &mut output)
        };
        match outcome {
            Outcome::Pending(ticket) => self.hold(ticket, asker, &head, &mut output.bytes, 0),
            Outcome::Done => self.answer(asker, &output.bytes, batches),
            Outcome::Later => unreachable!("it may not be deferred again"),
        }
    }
}
