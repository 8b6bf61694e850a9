//! Ghosts: two-byte fingerprints of items that were evicted not long ago.
//!
//! ```text
//! bucket, one cache line:  ┌────────┬──────────────────────────────────────┐
//!                          │ cursor │ 31 fingerprints, overwritten in turn │
//!                          │ u16    │ u16 each, 0: none                    │
//!                          └────────┴──────────────────────────────────────┘
//! ```
//! Each bucket is a small FIFO; together they remember about as many items as were asked for. The table grows and
//! shrinks by one bucket at a time (linear hashing): a new bucket starts as a copy of the one it splits from, so growing
//! forgets nothing, and what does not belong is overwritten in time. It lies in segments of the arena, inside the cap.

use crate::store::arena::LINE_BYTES;
use crate::store::segments::{Memory, Role, SEGMENT_LINES, SegmentId};

/// Fingerprints of a bucket.
const BUCKET_GHOSTS: usize = LINE_BYTES / 2 - 1;
/// Fewest buckets: below, single buckets would fill too unevenly to be a FIFO.
const BUCKETS_MIN: usize = 8;
/// Buckets added or dropped at one adjustment.
const BUCKETS_STEP: usize = 4;

/// The ghosts of one store.
#[derive(Default)]
pub(in crate::store) struct Ghosts {
    segments: Vec<SegmentId>,
    buckets: usize,
}

impl Ghosts {
    /// Asks the processor for the bucket of `hash`.
    #[inline]
    pub(in crate::store) fn prefetch(&self, memory: &Memory, hash: u64) {
        if let Some(line) = self.line_of(hash) {
            memory.arena.prefetch(line * LINE_BYTES);
        }
    }

    /// Remembers an evicted item.
    pub(in crate::store) fn insert(&mut self, memory: &mut Memory, hash: u64) {
        let Some(line) = self.line_of(hash) else { return };
        let bucket = memory.arena.bytes_mut(line * LINE_BYTES, LINE_BYTES);
        let place = usize::from(bucket[0]) % BUCKET_GHOSTS + 1;
        bucket[0] = place as u8;
        bucket[2 * place..2 * place + 2].copy_from_slice(&fingerprint(hash).to_le_bytes());
    }

    /// Whether the item was evicted not long ago; it is forgotten by this.
    pub(in crate::store) fn take(&mut self, memory: &mut Memory, hash: u64) -> bool {
        let Some(line) = self.line_of(hash) else { return false };
        let bucket = memory.arena.bytes_mut(line * LINE_BYTES, LINE_BYTES);
        let wanted = fingerprint(hash).to_le_bytes();
        let found = bucket[2..].chunks_exact_mut(2).find(|ghost| **ghost == wanted);
        match found {
            Some(ghost) => {
                ghost.fill(0);
                true
            }
            None => false,
        }
    }

    /// Moves the table's size towards `ghosts` fingerprints, by a few buckets. Takes a segment only while more than
    /// `segments_kept` are free.
    pub(in crate::store) fn adjust(&mut self, memory: &mut Memory, ghosts: usize, segments_kept: usize) {
        let wanted = ghosts.div_ceil(BUCKET_GHOSTS).max(BUCKETS_MIN);
        for _ in 0..BUCKETS_STEP {
            if self.buckets < wanted {
                if !self.grow(memory, segments_kept) {
                    return;
                }
            } else if self.buckets > wanted + wanted / 8 {
                self.shrink(memory);
            }
        }
    }

    fn grow(&mut self, memory: &mut Memory, segments_kept: usize) -> bool {
        if self.buckets == self.segments.len() * SEGMENT_LINES {
            if memory.segments.free_count() <= segments_kept {
                return false;
            }
            let Some(id) = memory.segments.take(Role::Ghosts, 0) else { return false };
            self.segments.push(id);
        }
        let target = self.line(self.buckets);
        match self.buckets {
            0 => memory.arena.clear_lines(target, 1),
            buckets => {
                let source = self.line(buckets - (1 << buckets.ilog2()));
                memory.arena.copy_lines(source, target, 1);
            }
        }
        self.buckets += 1;
        true
    }

    fn shrink(&mut self, memory: &mut Memory) {
        self.buckets -= 1;
        if self.buckets.is_multiple_of(SEGMENT_LINES)
            && let Some(id) = self.segments.pop()
        {
            memory.segments.give(id);
        }
    }

    fn line_of(&self, hash: u64) -> Option<usize> {
        let round = 1usize << self.buckets.checked_ilog2()?;
        // The hash's middle bits: the top ones are the vnode's, the lowest make the fingerprint.
        let place = (hash >> 16) as usize & (2 * round - 1);
        Some(self.line(if place < self.buckets { place } else { place - round }))
    }

    fn line(&self, bucket: usize) -> usize {
        self.segments[bucket / SEGMENT_LINES] as usize * SEGMENT_LINES + bucket % SEGMENT_LINES
    }
}

fn fingerprint(hash: u64) -> u16 {
    (hash as u16).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::arena::Arena;
    use crate::store::segments::{SEGMENT_BYTES, Segments};

    #[test]
    fn ghosts_remember_the_latest_and_growing_forgets_none() {
        let mut memory = Memory { arena: Arena::map(4 * SEGMENT_BYTES).unwrap(), segments: Segments::new(3) };
        let mut ghosts = Ghosts::default();
        let hash_of = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ghosts.adjust(&mut memory, 3000, 0);
        for number in 0..1000 {
            ghosts.adjust(&mut memory, 3000, 0);
            ghosts.insert(&mut memory, hash_of(number));
        }
        let kept = (0..1000).filter(|number| ghosts.take(&mut memory, hash_of(*number))).count();
        assert!(kept > 950, "{kept} of 1000");
        assert_eq!((0..1000).filter(|number| ghosts.take(&mut memory, hash_of(*number))).count(), 0);
        for _ in 0..1000 {
            ghosts.adjust(&mut memory, 0, 0);
        }
        assert!(ghosts.buckets <= BUCKETS_MIN + 1, "{}", ghosts.buckets);
    }
}
