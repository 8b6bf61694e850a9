//! S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023).
//!
//! New items enter a small queue of a tenth of the memory. At its end those with two hits or more move to the main
//! queue, the others go and leave a ghost; an item that comes back while its ghost is known enters the main queue at
//! once. At the end of the main queue an item with hits goes round again, with one hit less.

use super::{Ghosts, Item, MAIN, Occupancy, SMALL, Verdict};
use crate::store::segments::Memory;

/// The small queue's share of the memory is one in this many. The paper's choice.
const SMALL_PART: u64 = 10;
/// Hits that move an item from the small to the main queue: libCacheSim's choice.
const PROMOTE_HITS: u8 = 2;
/// Hits are counted up to this many.
pub(super) const HITS_MAX: u8 = 3;
/// Ghosts are kept for as many bytes of evicted items as the cache holds, times this (numerator, denominator). The paper
/// has 0.9. On CloudPhysics 1.1 misses 0.1 to 0.4 points less at each of three sizes; from 1.5 on it misses more.
const GHOST_BYTES: (u64, u64) = (11, 10);

/// What S3-FIFO keeps beside the items' own bits.
#[derive(Default)]
pub(in crate::store) struct S3Fifo {
    ghosts: Ghosts,
    has_evicted: bool,
}

impl S3Fifo {
    #[inline]
    pub(super) fn prefetch(&self, memory: &Memory, hash: u64) {
        self.ghosts.prefetch(memory, hash);
    }

    pub(super) fn admit(&mut self, memory: &mut Memory, item: Item, occupancy: &Occupancy) -> (u8, u8) {
        if self.ghosts.take(memory, item.hash, item.bytes as u64) {
            return (MAIN, 0);
        }
        // While the cache fills for the first time the small queue has no reason to evict: what does not fit is main's.
        let small_bytes = occupancy.live_bytes[usize::from(SMALL)];
        if !self.has_evicted && small_bytes * SMALL_PART >= occupancy.capacity_bytes {
            return (MAIN, 0);
        }
        (SMALL, 0)
    }

    pub(super) fn evicted(&mut self, memory: &mut Memory, queue: u8, item: Item, occupancy: &Occupancy) {
        self.has_evicted = true;
        if queue == SMALL {
            let live_bytes: u64 = occupancy.live_bytes.iter().sum();
            let length_bytes = live_bytes / GHOST_BYTES.1 * GHOST_BYTES.0;
            self.ghosts.insert(memory, item.hash, item.bytes as u64, length_bytes, occupancy.segments_kept);
        }
    }
}

pub(super) fn victim_queue(occupancy: &Occupancy) -> u8 {
    let [main, small] = occupancy.live_bytes;
    if small * (SMALL_PART - 1) < main { MAIN } else { SMALL }
}

#[inline]
pub(super) fn judge(queue: u8, bits: u8) -> Verdict {
    match queue {
        SMALL if bits >= PROMOTE_HITS => Verdict::Keep { queue: MAIN, bits: 0 },
        MAIN if bits > 0 => Verdict::Keep { queue: MAIN, bits: bits - 1 },
        _ => Verdict::Evict,
    }
}
