//! S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023).
//!
//! New items enter a small queue of a tenth of the memory. At its end those with two hits or more move to the main
//! queue, the others go and leave a ghost; an item that comes back while its ghost is known enters the main queue at
//! once. At the end of the main queue an item with hits goes round again, with one hit less.

use super::{Evicted, Ghosts, MAIN, Occupancy, SMALL, Verdict};
use crate::store::segments::Memory;

/// The small queue's share of the memory is one in this many. The paper's choice.
const SMALL_PART: u64 = 10;
/// Hits that move an item from the small to the main queue: libCacheSim's choice.
const PROMOTE_HITS: u8 = 2;
/// Hits are counted up to this many.
pub(super) const HITS_MAX: u8 = 3;
/// Ghosts are kept for as many bytes of evicted items as the cache holds, times this (numerator, denominator). The paper
/// has 0.9; ours are in buckets, which forget a little early and a little late, and are not freed when they are hit.
const GHOST_BYTES: (u64, u64) = (6, 5);
/// The mean size of evicted items is taken over about this many.
const MEAN_ITEMS: f64 = 256.0;

/// What S3-FIFO keeps beside the items' own bits.
#[derive(Default)]
pub(in crate::store) struct S3Fifo {
    ghosts: Ghosts,
    has_evicted: bool,
    evicted_bytes_mean: f64,
}

impl S3Fifo {
    #[inline]
    pub(super) fn prefetch(&self, memory: &Memory, hash: u64) {
        self.ghosts.prefetch(memory, hash);
    }

    pub(super) fn admit(&mut self, memory: &mut Memory, hash: u64, occupancy: &Occupancy) -> (u8, u8) {
        if self.ghosts.take(memory, hash) {
            return (MAIN, 0);
        }
        // While the cache fills for the first time the small queue has no reason to evict: what does not fit is main's.
        let small_bytes = occupancy.live_bytes[usize::from(SMALL)];
        if !self.has_evicted && small_bytes * SMALL_PART >= occupancy.capacity_bytes {
            return (MAIN, 0);
        }
        (SMALL, 0)
    }

    pub(super) fn evicted(&mut self, memory: &mut Memory, item: Evicted, occupancy: &Occupancy) {
        let bytes = item.bytes as f64;
        self.evicted_bytes_mean += match self.has_evicted {
            true => (bytes - self.evicted_bytes_mean) / MEAN_ITEMS,
            false => bytes,
        };
        self.has_evicted = true;
        if item.queue == SMALL {
            let live_bytes: u64 = occupancy.live_bytes.iter().sum();
            let ghost_bytes = live_bytes / GHOST_BYTES.1 * GHOST_BYTES.0;
            let ghosts = (ghost_bytes as f64 / self.evicted_bytes_mean.max(1.0)) as usize;
            self.ghosts.adjust(memory, ghosts, occupancy.segments_kept);
            self.ghosts.insert(memory, item.hash);
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
