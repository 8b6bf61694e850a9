//! TTL: items go in the order in which they end, whether hit or not.
//!
//! One queue. The segment whose items end first goes first, wherever it stands; where nothing ends, the oldest.

use super::{Verdict, Victim};

/// Hits leave nothing.
pub(super) const HITS_MAX: u8 = 0;

pub(super) const fn victim() -> Victim {
    Victim::SoonestExpiry
}

#[inline]
pub(super) const fn judge() -> Verdict {
    Verdict::Evict
}
