//! LFU with ageing: items with few hits go first.
//!
//! One queue. Hits are counted up to fifteen; an item that reaches the old end of the queue goes round again for each hit
//! it has, at the price of one hit. So what was popular once does not stay for ever, unlike with exact counts.

use super::{MAIN, Verdict};

/// The four policy bits count hits up to this.
pub(super) const HITS_MAX: u8 = 15;

#[inline]
pub(super) fn judge(bits: u8) -> Verdict {
    match bits {
        0 => Verdict::Evict,
        hits => Verdict::Keep { queue: MAIN, bits: hits - 1 },
    }
}
