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
pub struct Ticket {
    place: u32,
    generation: u32,
}

impl Ticket {
    /// A number that no other waiting reply of the core has, and no larger than it must be: a place in a list.
    pub const fn place(self) -> usize {
        self.place as usize
    }
}

/// Hashes numbers of this core's own making, which nobody outside can choose to collide more than they do anyway: one
/// multiplication (Knuth, The Art of Computer Programming, volume 3, section 6.4).
#[derive(Clone, Copy, Debug, Default)]
struct Spread(u64);

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
    /// What to forget when it is committed, in the order of the writes.
    order: VecDeque<(u64, Commit)>,
    /// What each key in `order` rests on, once these are too many to be looked through; until there are none again.
    by_hash: HashMap<u64, Commit, BuildHasherDefault<Spread>>,
    /// The latest clear: every key rests on it.
    clear: Commit,
}

/// Uncommitted writes of a vnode that are looked through for a key. Mostly there are few, and keeping a map costs more.
const LOOKED_THROUGH_MAX: usize = 16;

impl Uncommitted {
    /// A write of a key that has to be committed.
    pub(super) fn write(&mut self, hash: u64, commit: Commit) {
        self.order.push_back((hash, commit));
        if !self.by_hash.is_empty() {
            self.by_hash.entry(hash).or_default().join(commit);
        } else if self.order.len() > LOOKED_THROUGH_MAX {
            self.order.iter().for_each(|(hash, commit)| self.by_hash.entry(*hash).or_default().join(*commit));
        }
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
        let mut commit = self.clear;
        if self.by_hash.is_empty() {
            self.order.iter().filter(|(other, _)| *other == hash).for_each(|(_, own)| commit.join(*own));
        } else {
            commit.join(self.by_hash.get(&hash).copied().unwrap_or_default());
        }
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
    places: Vec<WaitingReply>,
    free: Vec<u32>,
    waiting: usize,
    released: VecDeque<(Ticket, Release)>,
}

#[derive(Clone, Copy)]
struct WaitingReply {
    generation: u32,
    /// Vnodes that it still waits for; none once its fate is known.
    vnodes: u32,
}

impl Tickets {
    /// A reply that waits for `vnodes` vnodes, at least one.
    pub(super) fn issue(&mut self, vnodes: usize) -> Ticket {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(WaitingReply { generation: 0, vnodes: 0 });
            self.places.len() as u32 - 1
        });
        let reply = &mut self.places[place as usize];
        *reply = WaitingReply { generation: reply.generation.wrapping_add(1), vnodes: vnodes as u32 };
        self.waiting += 1;
        Ticket { place, generation: reply.generation }
    }

    /// Replies that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// One vnode's part of a wait is over.
    pub(super) fn release(&mut self, ticket: Ticket, release: Release) {
        let Some(reply) = self.places.get_mut(ticket.place()) else { return };
        if reply.generation != ticket.generation || reply.vnodes == 0 {
            return;
        }
        reply.vnodes -= 1;
        if reply.vnodes == 0 || release == Release::Abandoned {
            reply.vnodes = 0;
            self.waiting -= 1;
            self.released.push_back((ticket, release));
        }
    }

    /// The next reply whose fate is known. Its ticket's place is another's from now on.
    pub(super) fn poll(&mut self) -> Option<(Ticket, Release)> {
        let (ticket, release) = self.released.pop_front()?;
        self.free.push(ticket.place);
        Some((ticket, release))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_s_place_is_given_to_another_only_when_its_fate_was_told() {
        let mut tickets = Tickets::default();
        let (one, two) = (tickets.issue(2), tickets.issue(1));
        tickets.release(one, Release::Committed);
        assert_eq!((tickets.poll(), tickets.len()), (None, 2), "one vnode is not all of them");
        tickets.release(two, Release::Committed);
        tickets.release(two, Release::Abandoned);
        let three = tickets.issue(1);
        assert_ne!(three.place(), two.place());
        assert_eq!(tickets.poll(), Some((two, Release::Committed)));
        let four = tickets.issue(1);
        assert_eq!(four.place(), two.place());
        // What comes late for the one that had the place before.
        tickets.release(two, Release::Abandoned);
        assert_eq!((tickets.poll(), tickets.len()), (None, 3));
        tickets.release(one, Release::Abandoned);
        assert_eq!(tickets.poll(), Some((one, Release::Abandoned)));
    }

    #[test]
    fn a_key_rests_on_its_latest_write_whether_there_are_few_or_many() {
        let one = |number| Commit { one: number, all: 0 };
        let commit_of = |number| if number % 3 == 0 { Commit { one: 0, all: number } } else { one(number) };
        let mut uncommitted = Uncommitted::default();
        for number in 1..=100u64 {
            uncommitted.write(number % 10, commit_of(number));
            for hash in 0..10 {
                let mut wanted = Commit::default();
                for own in (1..=number).filter(|number| number % 10 == hash) {
                    wanted.join(commit_of(own));
                }
                assert_eq!(uncommitted.dependency(hash), wanted, "{number} writes");
            }
        }
        uncommitted.settle(Commit { one: 95, all: 95 });
        assert_eq!((uncommitted.len(), uncommitted.dependency(5)), (5, Commit::default()));
        assert_eq!(uncommitted.dependency(6), Commit { one: 86, all: 96 });
        uncommitted.settle(Commit { one: 100, all: 100 });
        assert!(uncommitted.by_hash.is_empty() && uncommitted.len() == 0);
        uncommitted.clear(one(101));
        assert_eq!(uncommitted.dependency(5), one(101));
    }
}
