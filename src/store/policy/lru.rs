//! LRU, approximated: the oldest segment goes first, and an item that was hit since it was last written goes round again.
//!
//! One queue. Exact LRU would write an item anew with every hit.

use super::{MAIN, Verdict};

/// One bit: hit, or not.
pub(super) const HITS_MAX: u8 = 1;

#[inline]
pub(super) fn judge(bits: u8) -> Verdict {
    if bits > 0 { Verdict::Keep { queue: MAIN, bits: 0 } } else { Verdict::Evict }
}
