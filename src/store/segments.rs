//! Segments: the arena cut into pieces of equal size, what each is used for, and the chains they form.
//!
//! Invariants: a segment has one role; a segment of items is in exactly one chain; a pinned segment is never free.
//! Segment 0 is never handed out, so that offset 0 means "no item". This file knows nothing of policies, nor of items:
//! it keeps what they share, and does not look at it.

use std::cell::Cell;

use super::arena::{Arena, LINE_BYTES};
use super::item::Shared;
use super::sparse::Sparse;

/// Bytes of a segment. The longest key (64 KiB) and its record must fit into one; larger ones would make a reclaim step
/// coarse in small arenas (32 MiB is 256 of these), smaller ones waste more at their ends.
pub(super) const SEGMENT_BYTES: usize = 128 << 10;
/// Cache lines of a segment.
pub(super) const SEGMENT_LINES: usize = SEGMENT_BYTES / LINE_BYTES;
/// Bytes of a block, the unit of large values. Smaller: longer lists of blocks; larger: more of a value lies in its record.
pub(super) const BLOCK_BYTES: usize = 8 << 10;
/// Blocks of a segment.
pub(super) const BLOCKS_PER_SEGMENT: usize = SEGMENT_BYTES / BLOCK_BYTES;
/// Bytes that one arena can address: an index entry has 36 bits for an item's place.
pub(super) const ARENA_BYTES_MAX: usize = 1 << 36;
/// Pinned segments are at most this part of the arena.
const PINNED_PART: usize = 8;

/// Number of a segment in its arena.
pub(super) type SegmentId = u32;

/// No segment: the end of a chain.
pub(super) const NO_SEGMENT: SegmentId = 0;
/// An expiry that never comes.
pub(super) const NEVER_MS: u64 = u64::MAX;

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing.
    Free,
    /// Items, appended.
    Items,
    /// Blocks of large values.
    Blocks,
    /// Pages of the index.
    Pages,
    /// Ghosts: fingerprints of evicted items.
    Ghosts,
}

/// One segment's books.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) role: Role,
    /// Items: the queue it belongs to.
    pub(super) queue: u8,
    /// Items: still appended to.
    pub(super) is_open: bool,
    /// Blocks: one bit for each block in use, and for each that belongs to a value still arriving.
    pub(super) blocks_used: u16,
    pub(super) blocks_reserved: u16,
    /// Items: bytes appended. Pages: place among the segments of its size class.
    pub(super) written: u32,
    /// Items: bytes of items that the index still points to.
    pub(super) live: u32,
    /// The store's flush epoch when the segment was taken: an older one means that everything in it was flushed.
    pub(super) flush_epoch: u32,
    /// Neighbours in its chain.
    pub(super) previous: SegmentId,
    pub(super) next: SegmentId,
    /// Items: bounds on the expiries within, in milliseconds; [`NEVER_MS`] and 0 when nothing in it expires.
    pub(super) expires_min: u64,
    pub(super) expires_max: u64,
    /// Items: what it says for all of them.
    pub(super) shared: Shared,
    pins: Cell<u32>,
}

impl Segment {
    const fn new(role: Role, flush_epoch: u32) -> Self {
        Self {
            role,
            queue: 0,
            is_open: false,
            blocks_used: 0,
            blocks_reserved: 0,
            written: 0,
            live: 0,
            flush_epoch,
            previous: NO_SEGMENT,
            next: NO_SEGMENT,
            expires_min: NEVER_MS,
            expires_max: 0,
            shared: Shared::NONE,
            pins: Cell::new(0),
        }
    }
}

/// A doubly linked list of segments, oldest first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    pub(super) head: SegmentId,
    pub(super) tail: SegmentId,
    pub(super) length: usize,
}

/// The arena together with the books of its segments: what every structure of the store takes its memory from.
pub(super) struct Memory {
    pub(super) arena: Arena,
    pub(super) segments: Segments,
}

/// The table of segments and the free ones.
pub(super) struct Segments {
    table: Vec<Segment>,
    /// Sealed segments of items by their dead bytes.
    sparse: Sparse,
    role_counts: [usize; 5],
    /// Given back, most recently used last: their pages are resident, so they are handed out first.
    free: Vec<SegmentId>,
    /// From here on no segment was ever used.
    fresh: SegmentId,
    pinned: Cell<usize>,
}

impl Segments {
    /// `count` segments beside the unused first one.
    pub(super) fn new(count: usize) -> Self {
        let table = (0..=count).map(|_| Segment::new(Role::Free, 0)).collect();
        let mut role_counts = [0; 5];
        role_counts[Role::Free as usize] = count;
        let sparse = Sparse::new(count);
        Self { table, sparse, role_counts, free: Vec::with_capacity(count), fresh: 1, pinned: Cell::new(0) }
    }

    /// Segments that can be handed out at most.
    pub(super) fn count(&self) -> usize {
        self.table.len() - 1
    }

    /// Segments that have `role` now.
    #[inline]
    pub(super) fn role_count(&self, role: Role) -> usize {
        self.role_counts[role as usize]
    }

    /// All segments that were ever used have numbers below this.
    pub(super) fn fresh(&self) -> SegmentId {
        self.fresh
    }

    /// Segments that can be handed out now.
    #[inline]
    pub(super) fn free_count(&self) -> usize {
        self.free.len() + self.table.len() - self.fresh as usize
    }

    /// One segment's books.
    #[inline]
    pub(super) fn get(&self, id: SegmentId) -> &Segment {
        &self.table[id as usize]
    }

    /// One segment's books.
    #[inline]
    pub(super) fn get_mut(&mut self, id: SegmentId) -> &mut Segment {
        &mut self.table[id as usize]
    }

    /// Takes a free segment for `role`; its bytes are whatever was there before.
    pub(super) fn take(&mut self, role: Role, flush_epoch: u32) -> Option<SegmentId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if (self.fresh as usize) < self.table.len() => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        let segment = self.get_mut(id);
        debug_assert!(segment.role == Role::Free && segment.pins.get() == 0);
        *segment = Segment::new(role, flush_epoch);
        self.role_counts[Role::Free as usize] -= 1;
        self.role_counts[role as usize] += 1;
        Some(id)
    }

    /// Gives a segment back. It must be in no chain and not pinned.
    pub(super) fn give(&mut self, id: SegmentId) {
        let segment = self.get_mut(id);
        assert!(segment.role != Role::Free && segment.pins.get() == 0, "a segment is freed once, and not while pinned");
        let role = std::mem::replace(&mut segment.role, Role::Free);
        self.role_counts[role as usize] -= 1;
        self.role_counts[Role::Free as usize] += 1;
        self.sparse.forget(id);
        self.free.push(id);
    }

    /// Nothing is appended to a segment of items any more.
    pub(super) fn seal(&mut self, id: SegmentId) {
        let segment = self.get_mut(id);
        segment.is_open = false;
        let dead_bytes = segment.written - segment.live;
        self.sparse.set(id, dead_bytes as usize);
    }

    /// An item of `bytes` bytes was appended to an open segment.
    #[inline]
    pub(super) fn enliven(&mut self, id: SegmentId, bytes: usize) {
        let segment = self.get_mut(id);
        segment.live += bytes as u32;
        segment.written += bytes as u32;
    }

    /// An item of `bytes` bytes died; the live bytes that are left.
    #[inline]
    pub(super) fn deaden(&mut self, id: SegmentId, bytes: usize) -> u32 {
        let segment = self.get_mut(id);
        segment.live -= bytes as u32;
        let Segment { live, written, is_open, .. } = *segment;
        if !is_open {
            self.sparse.set(id, (written - live) as usize);
        }
        live
    }

    /// A sealed, unpinned segment of items with about the most dead bytes of all, and at least `dead_bytes_min`.
    pub(super) fn sparsest(&self, dead_bytes_min: usize) -> Option<SegmentId> {
        self.sparse.sparsest(dead_bytes_min, |id| self.is_pinned(id))
    }

    /// A segment is no candidate any more: it was flushed.
    pub(super) fn forget_candidate(&mut self, id: SegmentId) {
        self.sparse.forget(id);
    }

    /// Whether anything reads from the segment outside the store.
    #[inline]
    pub(super) fn is_pinned(&self, id: SegmentId) -> bool {
        self.get(id).pins.get() > 0
    }

    /// Segments that are pinned.
    pub(super) fn pinned_count(&self) -> usize {
        self.pinned.get()
    }

    /// Pins a segment; refuses when it would be one more than the bound.
    pub(super) fn pin(&self, id: SegmentId) -> bool {
        let pins = &self.get(id).pins;
        if pins.get() == 0 {
            if self.pinned.get() >= self.count() / PINNED_PART {
                return false;
            }
            self.pinned.set(self.pinned.get() + 1);
        }
        pins.set(pins.get() + 1);
        true
    }

    /// Takes one pin back; whether it was the last one.
    pub(super) fn unpin(&self, id: SegmentId) -> bool {
        let pins = &self.get(id).pins;
        assert!(pins.get() > 0, "unpinned more often than pinned");
        pins.set(pins.get() - 1);
        if pins.get() == 0 {
            self.pinned.set(self.pinned.get() - 1);
        }
        pins.get() == 0
    }

    /// Adds a segment at a chain's young end.
    pub(super) fn push_back(&mut self, chain: &mut Chain, id: SegmentId) {
        self.insert_before(chain, NO_SEGMENT, id);
    }

    /// Adds a segment before `successor`, or at the young end when that is none.
    pub(super) fn insert_before(&mut self, chain: &mut Chain, successor: SegmentId, id: SegmentId) {
        let previous = if successor == NO_SEGMENT { chain.tail } else { self.get(successor).previous };
        let segment = self.get_mut(id);
        segment.previous = previous;
        segment.next = successor;
        match previous {
            NO_SEGMENT => chain.head = id,
            _ => self.get_mut(previous).next = id,
        }
        match successor {
            NO_SEGMENT => chain.tail = id,
            _ => self.get_mut(successor).previous = id,
        }
        chain.length += 1;
    }

    /// Takes a segment out of its chain.
    pub(super) fn unlink(&mut self, chain: &mut Chain, id: SegmentId) {
        let Segment { previous, next, .. } = *self.get(id);
        match previous {
            NO_SEGMENT => chain.head = next,
            _ => self.get_mut(previous).next = next,
        }
        match next {
            NO_SEGMENT => chain.tail = previous,
            _ => self.get_mut(next).previous = previous,
        }
        let segment = self.get_mut(id);
        (segment.previous, segment.next) = (NO_SEGMENT, NO_SEGMENT);
        chain.length -= 1;
    }

    /// Moves all of `source` to the young end of `target`, in constant time.
    pub(super) fn splice(&mut self, target: &mut Chain, source: &mut Chain) {
        let moved = std::mem::take(source);
        if moved.length == 0 {
            return;
        }
        match target.tail {
            NO_SEGMENT => target.head = moved.head,
            tail => {
                self.get_mut(tail).next = moved.head;
                self.get_mut(moved.head).previous = tail;
            }
        }
        target.tail = moved.tail;
        target.length += moved.length;
    }
}

/// The segment that holds byte `at` of the arena.
#[inline]
pub(super) const fn segment_of(at: usize) -> SegmentId {
    (at / SEGMENT_BYTES) as SegmentId
}

/// Where a segment begins in the arena.
#[inline]
pub(super) const fn segment_start(id: SegmentId) -> usize {
    id as usize * SEGMENT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_taken_once_and_come_back() {
        let mut segments = Segments::new(3);
        let taken: Vec<_> = std::iter::from_fn(|| segments.take(Role::Items, 0)).collect();
        assert_eq!(taken, [1, 2, 3]);
        segments.give(2);
        assert_eq!((segments.free_count(), segments.take(Role::Pages, 0)), (1, Some(2)));
    }

    #[test]
    fn pins_stop_at_an_eighth_of_the_arena() {
        let segments = Segments::new(16);
        assert!(segments.pin(1) && segments.pin(2) && segments.pin(1));
        assert!(!segments.pin(3));
        assert!(!segments.unpin(1) && segments.unpin(1) && segments.pin(3));
    }

    #[test]
    fn chains_keep_their_order_through_inserts_unlinks_and_splices() {
        let mut segments = Segments::new(6);
        let (mut chain, mut other) = (Chain::default(), Chain::default());
        for id in [1, 2, 3] {
            segments.push_back(&mut chain, id);
        }
        segments.insert_before(&mut chain, 2, 4);
        segments.unlink(&mut chain, 1);
        segments.push_back(&mut other, 5);
        segments.splice(&mut other, &mut chain);
        let mut order = vec![];
        let mut id = other.head;
        while id != NO_SEGMENT {
            order.push(id);
            id = segments.get(id).next;
        }
        assert_eq!((order, other.length, chain.length), (vec![5, 4, 2, 3], 4, 0));
    }
}
