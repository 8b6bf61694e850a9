//! SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024).
//!
//! One queue and a hand that moves from its old end to its young end and starts over. Items that were hit since the hand
//! last passed stay where they are, without their mark; the others go.

use super::Verdict;

/// One bit: hit, or not.
pub(super) const HITS_MAX: u8 = 1;

#[inline]
pub(super) fn judge(bits: u8) -> Verdict {
    if bits > 0 { Verdict::Stay { bits: 0 } } else { Verdict::Evict }
}
