//! Requests that wait for their vnode: it is between two primaries, or its right to answer is being renewed.
//!
//! That takes some milliseconds, so they are kept here, in order, rather than sent back to be asked again: when the vnode is
//! served they are carried out, when it is another node's they are told so at once. Who comes later waits behind them. What
//! is kept is bounded in number, bytes and time, and counts as the core's buffers do; past that a request is answered
//! `Overloaded`. A large set waits with its value where it was received, in the arena, whose bound for values that are not
//! published yet is its own. Requests for several keys do not wait: of their keys each that would have to is answered
//! `Overloaded`, the others at once, and who asked asks again for those alone.

use std::collections::{BTreeMap, VecDeque};

use quoit_wire::request_head;
use quoit_wire::topology::vnode_of;

use super::core::Core;
use super::held::Asker;
use super::limits::{WAITING_MAX, WAITING_SHARE, WAITING_TIME_MAX};
use super::mesh::Batch;
use crate::shard::{LargeSet, Outcome, Output, ReplyLimits, Route, Shard};
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
    kept: Kept,
}

/// What is kept of a request.
#[derive(Debug)]
pub(super) enum Kept {
    /// All of it.
    Frame(Vec<u8>),
    /// A set whose value lies in the arena.
    LargeSet(Box<LargeSet>),
}

/// Plain integers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitingCounters {
    /// Requests that have waited and were answered.
    pub served: u64,
    /// Requests that have waited in vain.
    pub expired: u64,
}

impl Kept {
    /// A request that is a whole frame.
    pub(super) fn frame(frame: &[u8]) -> Self {
        Self::Frame(frame.to_vec())
    }

    /// Bytes beside the arena.
    fn bytes(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.len(),
            Self::LargeSet(set) => set.front_bytes(),
        }
    }
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
    pub(super) fn keep(&mut self, shard: &mut Shard, now: Instant, asker: Asker, hash: u64, kept: Kept) {
        let vnode = vnode_of(hash, shard.topology().vnode_bits) as u16;
        let request = Request { asker, since: now, hash, kept };
        self.len += 1;
        self.bytes += request.kept.bytes();
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
        self.bytes -= request.kept.bytes();
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
                self.serve(now, request, has_to_wait, &mut batches);
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
    fn serve(&mut self, now: Instant, request: Request, is_expired: bool, batches: &mut Vec<(usize, Batch)>) {
        let Request { asker, hash, kept, .. } = request;
        let head = match &kept {
            Kept::LargeSet(set) => set.head(),
            Kept::Frame(frame) => match request_head(frame, self.options.value_bytes_max) {
                Ok(Some(head)) => head,
                _ => unreachable!("its head was read before it was kept"),
            },
        };
        let mut output = Output::default();
        self.counters.answered += 1;
        // What is kept as bytes, or goes to another core, must not lie in the arena.
        let limits = ReplyLimits { pin_bytes_min: usize::MAX, ..self.reply_limits() };
        self.shard.set_may_defer(false);
        let is_here = self.shard.route(hash) == Route::Here;
        match is_expired {
            true => self.waiting.counters.expired += 1,
            false => self.waiting.counters.served += 1,
        }
        let outcome = match kept {
            Kept::Frame(frame) if is_here && !is_expired => {
                self.shard.execute_frame(now, head, &frame, hash, limits, &mut output)
            }
            Kept::LargeSet(set) if is_here && !is_expired => {
                let published = self.shard.publish_large_set(now, set, limits, &mut output);
                published.unwrap_or(Outcome::Later)
            }
            kept => {
                if let Kept::LargeSet(set) = kept {
                    self.shard.abandon_large_set(*set);
                }
                match is_expired {
                    true => self.shard.answer_later(&head, &mut output),
                    false => self.shard.answer_moved(&head, &mut output),
                }
                Outcome::Done
            }
        };
        match outcome {
            Outcome::Pending(ticket) => self.hold(ticket, asker, &head, &mut output.bytes, 0),
            Outcome::Done => self.answer(asker, &output.bytes, batches),
            Outcome::Later => unreachable!("it may not be deferred again"),
        }
    }
}
