//! None: nothing that lives goes. A write that finds no room is refused; what has ended, and dead bytes, still make room.
//!
//! One queue, in which items keep their place when their segment is compacted.

use super::{MAIN, Verdict, Victim};

/// Hits leave nothing.
pub(super) const HITS_MAX: u8 = 0;

/// Nobody asks as long as nothing is evicted.
pub(super) const fn victim() -> Victim {
    Victim::Oldest(MAIN)
}

#[inline]
pub(super) const fn judge(bits: u8) -> Verdict {
    Verdict::Stay { bits }
}
