//! Replies that wait for a commit, and which keys they depend on.
//!
//! A hit, a miss or a failed condition that rests on an uncommitted `one` or `all` write waits as the write itself does
//! (C4). What a key rests on is the latest such write of it; hashes stand for keys, so two keys of one hash wait for each
//! other, which does no harm.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::time::Instant;

/// A reply that waits: [`super::Copies::poll_release`] names it when its fate is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Something for each ticket of a core.
pub type TicketMap<V> = HashMap<Ticket, V, BuildHasherDefault<Spread>>;

/// Hashes numbers of this core's own making, which nobody outside can choose to collide more than they do anyway: one
/// multiplication (Knuth, The Art of Computer Programming, volume 3, section 6.4).
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // The map takes its bits from both ends of the product.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// What a waiting reply's wait came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// All it rests on is committed: send it.
    Committed,
    /// That will not be known here any more: a write is answered `OutcomeUnknown`, a read `Moved`.
    Abandoned,
}

/// How far a vnode must be committed: up to which write on one other copy, and up to which on every one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Writes up to this number are on one other in-sync copy.
    pub one: u64,
    /// Writes up to this number are on every in-sync copy.
    pub all: u64,
}

impl Commit {
    /// Whether this much is enough for `wanted`.
    pub const fn covers(self, wanted: Self) -> bool {
        wanted.one <= self.one && wanted.all <= self.all
    }

    fn join(&mut self, other: Self) {
        self.one = self.one.max(other.one);
        self.all = self.all.max(other.all);
    }
}

/// One vnode's share of a waiting reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) ticket: Ticket,
    pub(super) commit: Commit,
    pub(super) since: Instant,
}

/// The uncommitted writes of one vnode, by key.
#[derive(Default)]
pub(super) struct Uncommitted {
    by_hash: HashMap<u64, Commit, BuildHasherDefault<Spread>>,
    /// What to forget when it is committed, in the order of the writes.
    order: VecDeque<(u64, Commit)>,
    /// The latest clear: every key rests on it.
    clear: Commit,
}

impl Uncommitted {
    /// A write of a key that has to be committed.
    pub(super) fn write(&mut self, hash: u64, commit: Commit) {
        self.by_hash.entry(hash).or_default().join(commit);
        self.order.push_back((hash, commit));
    }

    /// Writes that are not committed yet.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// A flush that has to be committed.
    pub(super) fn clear(&mut self, commit: Commit) {
        self.clear.join(commit);
    }

    /// What a reply on this key rests on.
    pub(super) fn dependency(&self, hash: u64) -> Commit {
        let mut commit = self.by_hash.get(&hash).copied().unwrap_or_default();
        commit.join(self.clear);
        commit
    }

    /// Forgets what is committed.
    pub(super) fn settle(&mut self, committed: Commit) {
        while let Some((hash, commit)) = self.order.front().copied()
            && committed.covers(commit)
        {
            self.order.pop_front();
            if self.by_hash.get(&hash).is_some_and(|latest| committed.covers(*latest)) {
                self.by_hash.remove(&hash);
            }
        }
    }
}

/// The waiting replies of a core.
#[derive(Default)]
pub(super) struct Tickets {
    next: u64,
    /// Vnodes that each reply still waits for.
    waiting: TicketMap<usize>,
    released: VecDeque<(Ticket, Release)>,
}

impl Tickets {
    /// A reply that waits for `vnodes` vnodes.
    pub(super) fn issue(&mut self, vnodes: usize) -> Ticket {
        self.next += 1;
        self.waiting.insert(Ticket(self.next), vnodes);
        Ticket(self.next)
    }

    /// Replies that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// One vnode's part of a wait is over.
    pub(super) fn release(&mut self, ticket: Ticket, release: Release) {
        let Some(vnodes) = self.waiting.get_mut(&ticket) else { return };
        *vnodes -= 1;
        if *vnodes == 0 || release == Release::Abandoned {
            self.waiting.remove(&ticket);
            self.released.push_back((ticket, release));
        }
    }

    /// The next reply whose fate is known.
    pub(super) fn poll(&mut self) -> Option<(Ticket, Release)> {
        self.released.pop_front()
    }
}
