//! LFU with ageing: items with few hits go first.
//!
//! New items enter the small queue, and what was not hit at its end goes. What was hit moves to the main queue, from which
//! is taken only when the small queue is short: there an item that reaches the old end goes round again for each hit it
//! has, at the price of one hit. So what was popular once does not stay for ever, unlike with exact counts.

use super::{MAIN, Occupancy, SMALL, Verdict};

/// The four policy bits count hits up to this.
pub(super) const HITS_MAX: u8 = 15;
/// The small queue is short when it is less than one in this many of the bytes of both. Exact LFU would let it shrink to
/// one item; without any time to be hit nothing new would ever become frequent.
const SMALL_PART: u64 = 50;

pub(super) fn victim_queue(occupancy: &Occupancy) -> u8 {
    let [main, small] = occupancy.live_bytes;
    if small * (SMALL_PART - 1) < main { MAIN } else { SMALL }
}

#[inline]
pub(super) fn judge(queue: u8, bits: u8) -> Verdict {
    match (queue, bits) {
        (_, 0) => Verdict::Evict,
        (SMALL, hits) => Verdict::Keep { queue: MAIN, bits: hits },
        (_, hits) => Verdict::Keep { queue: MAIN, bits: hits - 1 },
    }
}
