//! Ghosts: two-byte marks of items that were evicted not long ago.
//!
//! ```text
//! bucket, one cache line: 32 ghosts of u16, 0: none       ghost:  ┌───────────┬─────────────────┐
//!                                                                 │ stamp (4) │ fingerprint (12)│
//!                                                                 └───────────┴─────────────────┘
//! ```
//! Together they are a queue of a given length in bytes of evicted items. Where in the queue a ghost stands is its stamp: a
//! twelfth of the length shares one, and of each stamp it is known how many ghosts of how many bytes are still there, so
//! the oldest stamps are dropped as soon as the others make up the length. A ghost that is taken makes room for older
//! ones. So the length is kept to a twelfth, though nothing links one ghost to the next; on a trace that loops, ghosts
//! that a full bucket forgets when it must (as they were) cost a point of hits.
//!
//! A new ghost takes the place of none, or of the oldest in its bucket; there is a fifth more room than ghosts. The table grows and
//! shrinks by a few buckets at a time (linear hashing): a new bucket starts as a copy of the one it splits from, so growing
//! forgets nothing. It lies in segments of the arena, inside the cap.

use crate::store::arena::{EMPTY_LINE, LINE_BYTES};
use crate::store::segments::{Memory, Role, SEGMENT_LINES, SegmentId};

/// Ghosts of a bucket.
const BUCKET_GHOSTS: usize = EMPTY_LINE.len();
/// Fewest buckets: below, single buckets would fill too unevenly.
const BUCKETS_MIN: usize = 8;
/// Buckets added or dropped at one adjustment.
const BUCKETS_STEP: usize = 4;
/// Places for each ghost (numerator, denominator). Fewer forget too early; more cost memory and find nothing.
const PLACES: (usize, usize) = (6, 5);
/// The table is at most one in so many segments of the arena: with small items ghosts would take memory that is worth
/// more as items. One in 48 is a ghost for four in five items of 64 bytes in all, and for every one of more than 80.
const MEMORY_PART: usize = 48;

const STAMP_BITS: u32 = 4;
const STAMPS: usize = 1 << STAMP_BITS;
/// The queue's length is made up of this many stamps, a few less than there are: those whose ghosts were taken are short.
const STAMPS_PER_LENGTH: u64 = 12;
const FINGERPRINT_BITS: u32 = 16 - STAMP_BITS;
const FINGERPRINT_MASK: u16 = (1 << FINGERPRINT_BITS) - 1;

/// The ghosts of one store.
#[derive(Default)]
pub(in crate::store) struct Ghosts {
    segments: Vec<SegmentId>,
    buckets: usize,
    /// By stamp: what of its ghosts is still there.
    alive: [Alive; STAMPS],
    all: Alive,
    /// The stamp of new ghosts, and how many older ones are in use.
    stamp: u16,
    older: u16,
}

#[derive(Clone, Copy, Default)]
struct Alive {
    ghosts: usize,
    bytes: u64,
}

impl Ghosts {
    /// Asks the processor for the bucket of `hash`.
    #[inline]
    pub(in crate::store) fn prefetch(&self, memory: &Memory, hash: u64) {
        if let Some(line) = self.line_of(hash) {
            memory.arena.prefetch(line * LINE_BYTES);
        }
    }

    /// Remembers an evicted item of `bytes` bytes, and forgets what is further back than `length_bytes`. Takes a segment
    /// only while more than `segments_kept` are free.
    pub(in crate::store) fn insert(
        &mut self,
        memory: &mut Memory,
        hash: u64,
        bytes: u64,
        length_bytes: u64,
        segments_kept: usize,
    ) {
        if self.alive[usize::from(self.stamp)].bytes >= length_bytes / STAMPS_PER_LENGTH {
            self.stamp = (self.stamp + 1) % STAMPS as u16;
            self.older += 1;
            if usize::from(self.older) == STAMPS {
                // What has this stamp from the last time is no longer to be told from what gets it now.
                self.drop_oldest();
            }
        }
        while self.older > 0 && self.all.bytes - self.alive[self.oldest()].bytes >= length_bytes {
            self.drop_oldest();
        }
        self.adjust(memory, length_bytes, segments_kept);
        let Some(line) = self.line_of(hash) else { return };
        self.alive[usize::from(self.stamp)].add(bytes);
        self.all.add(bytes);
        let ghosts = memory.arena.line_mut(line);
        let place = self.make_place(ghosts, hash);
        ghosts[place] = self.stamp << FINGERPRINT_BITS | fingerprint(hash);
    }

    /// Whether an item, now of `bytes` bytes, was evicted not long ago; it is forgotten by this.
    pub(in crate::store) fn take(&mut self, memory: &mut Memory, hash: u64, bytes: u64) -> bool {
        let Some(line) = self.line_of(hash) else { return false };
        let ghosts = memory.arena.line_mut(line);
        let wanted = fingerprint(hash);
        // Without an early end, so that all are compared at once.
        let is_there = ghosts.iter().fold(false, |is_there, ghost| is_there | (ghost & FINGERPRINT_MASK == wanted));
        if !is_there {
            return false;
        }
        let is_wanted = |ghost: &u16| ghost & FINGERPRINT_MASK == wanted && self.age(*ghost) <= self.older;
        let Some(place) = ghosts.iter().position(is_wanted) else { return false };
        let stamp = usize::from(ghosts[place] >> FINGERPRINT_BITS);
        let gone = self.alive[stamp].remove(bytes);
        self.all.remove(gone);
        ghosts[place] = 0;
        true
    }

    fn oldest(&self) -> usize {
        usize::from((self.stamp + STAMPS as u16 - self.older) % STAMPS as u16)
    }

    fn drop_oldest(&mut self) {
        // Sixteen stamps in use: the oldest is the one that is about to be given anew.
        let oldest = std::mem::take(&mut self.alive[self.oldest()]);
        self.all.bytes -= oldest.bytes;
        self.all.ghosts -= oldest.ghosts;
        self.older -= 1;
    }

    /// Stamps between a ghost's and the youngest.
    #[inline(always)]
    fn age(&self, ghost: u16) -> u16 {
        (self.stamp + STAMPS as u16 - (ghost >> FINGERPRINT_BITS)) % STAMPS as u16
    }

    /// Empties the places of ghosts that are forgotten, before their stamp is given anew; then an empty place, or else one
    /// of the oldest ghosts'.
    fn make_place(&self, ghosts: &mut [u16; BUCKET_GHOSTS], hash: u64) -> usize {
        let mut ages = [0; BUCKET_GHOSTS];
        for (age, ghost) in ages.iter_mut().zip(ghosts) {
            *ghost = if self.age(*ghost) > self.older { 0 } else { *ghost };
            *age = if *ghost == 0 { STAMPS as u16 } else { self.age(*ghost) };
        }
        let oldest = ages.iter().fold(0, |oldest, age| oldest.max(*age));
        // Among the oldest, which one is left to chance: the first would be taken again and again.
        let start = (hash >> FINGERPRINT_BITS) as usize;
        let mut places = (start..start + BUCKET_GHOSTS).map(|place| place % BUCKET_GHOSTS);
        places.find(|place| ages[*place] == oldest).unwrap_or(0)
    }

    /// Moves the table's size towards what a queue of ghosts like those that are there needs, by a few buckets. So it has
    /// its size long before the queue has: a table that grows with its ghosts would always be full of copies.
    fn adjust(&mut self, memory: &mut Memory, length_bytes: u64, segments_kept: usize) {
        let most = (memory.segments.count() / MEMORY_PART).max(1) * SEGMENT_LINES;
        let mean_bytes = (self.all.bytes / (self.all.ghosts as u64).max(1)).max(1);
        let places = (length_bytes / mean_bytes) as usize * PLACES.0 / PLACES.1;
        let wanted = (places / BUCKET_GHOSTS + 1).clamp(BUCKETS_MIN, most);
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

    #[inline]
    fn line_of(&self, hash: u64) -> Option<usize> {
        let round = 1usize << self.buckets.checked_ilog2()?;
        // The hash's middle bits: the top ones are the vnode's, the lowest make the fingerprint.
        let place = (hash >> 16) as usize & (2 * round - 1);
        Some(self.line(if place < self.buckets { place } else { place - round }))
    }

    #[inline]
    fn line(&self, bucket: usize) -> usize {
        self.segments[bucket / SEGMENT_LINES] as usize * SEGMENT_LINES + bucket % SEGMENT_LINES
    }
}

impl Alive {
    fn add(&mut self, bytes: u64) {
        self.ghosts += 1;
        self.bytes += bytes;
    }

    /// One goes that had about `bytes` bytes; how many are taken off.
    fn remove(&mut self, bytes: u64) -> u64 {
        let gone = bytes.min(self.bytes);
        self.ghosts = self.ghosts.saturating_sub(1);
        self.bytes -= gone;
        gone
    }
}

#[inline(always)]
fn fingerprint(hash: u64) -> u16 {
    (hash as u16 & FINGERPRINT_MASK).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::arena::Arena;
    use crate::store::segments::{SEGMENT_BYTES, Segments};

    fn memory() -> Memory {
        Memory { arena: Arena::map(4 * SEGMENT_BYTES).unwrap(), segments: Segments::new(3) }
    }

    fn hash_of(number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn ghosts_are_a_queue_of_a_length_in_bytes_kept_to_a_twelfth() {
        let (mut memory, mut ghosts) = (memory(), Ghosts::default());
        let (bytes, length) = (100, 1000);
        for number in 0..5000 {
            ghosts.insert(&mut memory, hash_of(number), bytes, length * bytes, 0);
        }
        let mut known = |range: std::ops::Range<u64>| {
            range.filter(|number| ghosts.take(&mut memory, hash_of(*number), bytes)).count()
        };
        let (too_old, young) = (known(0..3850), known(4000..5000));
        assert!(too_old < 80, "{too_old} of 3850 that were forgotten are taken for others");
        assert!(young > 970, "{young} of 1000");
        assert!(known(4000..5000) < 30, "taken once");
    }

    #[test]
    fn ghosts_that_are_taken_make_room_for_older_ones() {
        let (mut memory, mut ghosts) = (memory(), Ghosts::default());
        for number in 0..2000 {
            ghosts.insert(&mut memory, hash_of(number), 100, 100_000, 0);
            // Every other one comes back at once.
            if number % 2 == 0 {
                assert!(ghosts.take(&mut memory, hash_of(number), 100));
            }
        }
        let known = (0..1000).filter(|number| ghosts.take(&mut memory, hash_of(2 * number + 1), 100)).count();
        assert!(known > 900, "{known} of 1000");
    }

    #[test]
    fn growing_forgets_none_and_shrinking_gives_memory_back() {
        let (mut memory, mut ghosts) = (memory(), Ghosts::default());
        for number in 0..40_000 {
            ghosts.insert(&mut memory, hash_of(number), 1, 1 << 40, 0);
        }
        let known = (0..40_000).filter(|number| ghosts.take(&mut memory, hash_of(*number), 1)).count();
        assert!(known > 38_000, "{known} of 40000");
        for number in 0..1000 {
            ghosts.insert(&mut memory, hash_of(number), 1, 1, 0);
        }
        assert!(ghosts.buckets <= BUCKETS_MIN + 1, "{}", ghosts.buckets);
    }
}
