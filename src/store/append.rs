//! Where items are written: the open segments, and the books of what lives where.
//!
//! An open segment takes items of one queue and one expiry class. There are few of them: when there would be too many,
//! or memory is short, an item goes to the open segment whose class is nearest. Classes only group; the exact expiry
//! is the item's own.

use super::Store;
use super::index::Entry;
use super::item::{Header, Shared};
use super::segments::{NO_SEGMENT, Role, SEGMENT_BYTES, SegmentId, segment_of, segment_start};

/// Open segments are at most one in this many of the arena's.
const OPEN_PART: usize = 20;
/// Fewer open segments than this would mix queues' survivors with everything else.
const OPEN_MIN: usize = 4;
/// More would cost time to choose among.
const OPEN_MAX: usize = 64;
/// Segments that only the index may take, so that an item that was written can be entered.
pub(super) const KEPT_FOR_INDEX: usize = 2;
/// Segments that only reclaiming may take besides: survivors must go somewhere before their segment is free.
pub(super) const KEPT_FOR_COPIES: usize = 4;
/// Writes take a segment only while more than this are free.
pub(super) const KEPT_FROM_WRITES: usize = KEPT_FOR_INDEX + KEPT_FOR_COPIES;

/// Expiry classes: items share one that end in the same stretch of `2^n` ms, a sixteenth to an eighth of their time to
/// live, so that a segment's items end close together. Narrower ones would not be filled while they are open.
const CLASS_PART_BITS: u32 = 4;
/// Half a second: what `expiry.rs` looks at in one go.
const CLASS_BITS_MIN: u32 = 9;
/// Four and a half hours. Wider ones would keep the memory of what has ended for too long.
const CLASS_BITS_MAX: u32 = 24;

/// Which open segment an item belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenKind {
    pub(super) queue: u8,
    /// Takes survivors of sparse segments and stands in the chain where the first of these stood.
    pub(super) is_compacted: bool,
    /// The end of the items' expiry class in milliseconds; [`NO_EXPIRY`] for items that don't end.
    pub(super) class_end: u64,
}

const NO_EXPIRY: u64 = u64::MAX;

impl OpenKind {
    /// The kind for an item of `queue`.
    pub(super) fn new(queue: u8, now_ms: u64, expires_ms: Option<u64>) -> Self {
        let class_end = expires_ms.map_or(NO_EXPIRY, |expires_ms| {
            let remaining_ms = expires_ms.saturating_sub(now_ms);
            let bits = u64::BITS - remaining_ms.leading_zeros();
            let width_bits = bits.saturating_sub(CLASS_PART_BITS).clamp(CLASS_BITS_MIN, CLASS_BITS_MAX);
            (expires_ms >> width_bits << width_bits).saturating_add((1 << width_bits) - 1)
        });
        Self { queue, is_compacted: false, class_end }
    }
}

/// A segment that is appended to.
pub(super) struct Open {
    segment: SegmentId,
    kind: OpenKind,
}

/// A piece of an item's body: bytes from outside, or bytes that lie in the arena.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    Bytes(&'a [u8]),
    Kept { at: usize, length: usize },
}

impl Store {
    /// Room for an item in an open segment of `kind`, or the nearest to it; `header` leaves from now on to that segment what
    /// it says. A segment is taken only while more than `kept` are free; `victim` is the segment before which one for
    /// compacted survivors is put.
    pub(super) fn place(
        &mut self,
        kind: OpenKind,
        header: &mut Header,
        kept: usize,
        victim: SegmentId,
    ) -> Option<usize> {
        // As if nothing were shared, as it is not known yet in which segment: at most seven bytes more.
        header.share(&Shared::NONE);
        let location = self.room_for(kind, header.record_bytes(), kept, victim)?;
        let shared = &mut self.memory.segments.get_mut(segment_of(location)).shared;
        shared.learn(header);
        header.share(shared);
        Some(location)
    }

    /// See [`Self::place`].
    fn room_for(&mut self, kind: OpenKind, bytes: usize, kept: usize, victim: SegmentId) -> Option<usize> {
        if let Some(open) = self.open.iter().position(|open| open.kind == kind) {
            if let Some(location) = self.room_in(open, bytes) {
                return Some(location);
            }
            let full = self.open.swap_remove(open);
            self.close(full.segment);
        }
        let open_max = (self.memory.segments.count() / OPEN_PART).clamp(OPEN_MIN, OPEN_MAX);
        let may_take = self.memory.segments.free_count() > kept;
        if self.open.len() >= open_max || !may_take {
            let nearest = self.nearest_open(kind, bytes, !may_take);
            if let Some(location) = nearest.and_then(|open| self.room_in(open, bytes)) {
                return Some(location);
            }
        }
        if !may_take {
            return None;
        }
        let id = self.memory.segments.take(Role::Items, self.flush_epoch)?;
        let segment = self.memory.segments.get_mut(id);
        (segment.is_open, segment.queue) = (true, kind.queue);
        let successor = if kind.is_compacted { victim } else { NO_SEGMENT };
        self.memory.segments.insert_before(&mut self.chains[usize::from(kind.queue)], successor, id);
        self.open.push(Open { segment: id, kind });
        self.room_in(self.open.len() - 1, bytes)
    }

    /// Writes an item at `location`, where [`Self::place`] found room, and enters it in the books (not in the index).
    pub(super) fn write_item(&mut self, location: usize, header: &Header, key: &[u8], parts: &[Part<'_>]) {
        let shared = self.shared_at(location);
        let record = self.memory.arena.bytes_mut(location, header.record_bytes());
        let mut at = header.write(record, &shared);
        record[at..at + key.len()].copy_from_slice(key);
        at += key.len();
        self.write_parts(location + at, parts);
        self.enter(location, header);
    }

    /// What the segment at `location` says for its items.
    #[inline]
    pub(super) fn shared_at(&self, location: usize) -> Shared {
        self.memory.segments.get(segment_of(location)).shared
    }

    /// Copies the pieces of a body to `at`.
    pub(super) fn write_parts(&mut self, mut at: usize, parts: &[Part<'_>]) {
        for part in parts {
            match *part {
                Part::Bytes(bytes) => {
                    self.memory.arena.bytes_mut(at, bytes.len()).copy_from_slice(bytes);
                    at += bytes.len();
                }
                Part::Kept { at: source, length } => {
                    self.memory.arena.copy(source, at, length);
                    at += length;
                }
            }
        }
    }

    /// Copies a live item to the young end of `kind`'s queue and lets the index point there; whether there was room.
    pub(super) fn relocate(
        &mut self,
        hash: u64,
        source: (super::index::Slot, Entry),
        header: &Header,
        bits: u8,
        kind: OpenKind,
        kept: usize,
    ) -> bool {
        let (slot, entry) = source;
        let victim = segment_of(entry.location());
        let mut moved = *header;
        let Some(location) = self.place(kind, &mut moved, kept, victim) else {
            return false;
        };
        debug_assert!(segment_of(location) != victim);
        let (header_bytes, bytes) = (header.bytes(), header.record_bytes());
        let shared = self.shared_at(location);
        let written = moved.write(self.memory.arena.bytes_mut(location, moved.bytes()), &shared);
        self.memory.arena.copy(entry.location() + header_bytes, location + written, bytes - header_bytes);
        self.enter(location, &moved);
        self.index.replace(&mut self.memory, slot, Entry::new(entry.tag(), bits, location));
        debug_assert!(self.index.find_location(&self.memory, hash, location).is_some());
        self.counters.copied_bytes += bytes as u64;
        self.leave(entry.location(), header);
        true
    }

    /// An item is no longer pointed to: its bytes are dead, its blocks free.
    pub(super) fn retire(&mut self, location: usize, header: &Header) {
        for number in 0..header.blocks() {
            let block = self.listed_block(location, header, number);
            self.blocks.give(&mut self.memory, block);
        }
        self.leave(location, header);
    }

    /// The expiry of an item in segment `id` is or becomes `expires_ms`.
    pub(super) fn note_expiry(&mut self, id: SegmentId, expires_ms: u64) {
        let segment = self.memory.segments.get_mut(id);
        if expires_ms < segment.expires_min || expires_ms > segment.expires_max {
            segment.expires_min = segment.expires_min.min(expires_ms);
            segment.expires_max = segment.expires_max.max(expires_ms);
            let (earliest, latest) = (segment.expires_min, segment.expires_max);
            self.expiry.schedule(id, earliest, latest);
        }
    }

    /// Closes all open segments.
    pub(super) fn close_all(&mut self) {
        for open in std::mem::take(&mut self.open) {
            self.close(open.segment);
        }
    }

    /// Closes `id` if it is open.
    pub(super) fn close_if_open(&mut self, id: SegmentId) {
        if let Some(open) = self.open.iter().position(|open| open.segment == id) {
            self.open.swap_remove(open);
            self.close(id);
        }
    }

    /// Frees a segment of items if nothing in it lives and nothing keeps it.
    pub(super) fn free_if_dead(&mut self, id: SegmentId) {
        let segment = self.memory.segments.get(id);
        let is_current = segment.flush_epoch == self.flush_epoch;
        if segment.role != Role::Items || segment.live > 0 || segment.is_open || !is_current {
            return;
        }
        if self.memory.segments.is_pinned(id) {
            return;
        }
        let queue = usize::from(segment.queue);
        self.dead_bytes -= u64::from(segment.written);
        if self.hand == id {
            self.hand = self.memory.segments.get(id).next;
        }
        self.memory.segments.unlink(&mut self.chains[queue], id);
        self.memory.segments.give(id);
        self.expiry.cancel(id);
        self.forget_walks_in(id);
    }

    /// The books of an item that appears at `location`.
    fn enter(&mut self, location: usize, header: &Header) {
        let id = segment_of(location);
        let queue = usize::from(self.memory.segments.get(id).queue);
        self.memory.segments.enliven(id, header.record_bytes());
        self.live_bytes[queue] += header.total_bytes() as u64;
        self.items += 1;
        if let Some(expires_ms) = header.expires_ms {
            self.note_expiry(id, expires_ms);
        }
    }

    /// The books of an item that goes from `location`, its blocks apart.
    pub(super) fn leave(&mut self, location: usize, header: &Header) {
        let id = segment_of(location);
        let queue = usize::from(self.memory.segments.get(id).queue);
        self.dead_bytes += header.record_bytes() as u64;
        self.live_bytes[queue] -= header.total_bytes() as u64;
        self.items -= 1;
        if self.memory.segments.deaden(id, header.record_bytes()) == 0 {
            self.free_if_dead(id);
        }
    }

    fn close(&mut self, id: SegmentId) {
        self.memory.segments.seal(id);
        self.free_if_dead(id);
    }

    fn room_in(&self, open: usize, bytes: usize) -> Option<usize> {
        let id = self.open[open].segment;
        let written = self.memory.segments.get(id).written as usize;
        (written + bytes <= SEGMENT_BYTES).then(|| segment_start(id) + written)
    }

    /// Whether any open segment has room for `bytes` bytes.
    pub(super) fn has_open_room(&self, bytes: usize) -> bool {
        (0..self.open.len()).any(|open| self.room_in(open, bytes).is_some())
    }

    /// The open segment with room whose class is nearest to `kind`'s: of the same queue, unless any will do.
    fn nearest_open(&self, kind: OpenKind, bytes: usize, any_queue: bool) -> Option<usize> {
        let distance = |open: &Open| (open.kind.queue != kind.queue, open.kind.class_end.abs_diff(kind.class_end));
        let fits = |open: &(usize, &Open)| {
            (any_queue || open.1.kind.queue == kind.queue) && self.room_in(open.0, bytes).is_some()
        };
        self.open.iter().enumerate().filter(fits).min_by_key(|(_, open)| distance(open)).map(|(open, _)| open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_end_close_together_share_a_class() {
        let class = |expires_ms| OpenKind::new(0, 10_000, expires_ms);
        assert_eq!(class(Some(10_300)), class(Some(10_700)));
        assert_ne!(class(Some(10_300)), class(Some(11_300)));
        assert_eq!(class(Some(10_000 + 3_600_000)), class(Some(10_000 + 3_600_100)));
        assert_ne!(class(None), class(Some(u64::MAX >> 16)));
    }
}
