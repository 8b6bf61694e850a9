//! Item versions: one `u64`, the vnode's term above the write's sequence.

use std::fmt;

/// Bits of the sequence; the term has the 24 above it.
pub const SEQUENCE_BITS: u32 = 40;

/// An item's version. Within one vnode versions rise with every write; a higher term wins over any sequence.
///
/// ```text
///  63            40 39                                0
/// ┌────────────────┬───────────────────────────────────┐
/// │ term (24 bits) │ sequence (40 bits)                │
/// └────────────────┴───────────────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// No version: what a miss carries.
    pub const NONE: Self = Self(0);
    /// The largest term.
    pub const TERM_MAX: u32 = (1 << 24) - 1;
    /// The largest sequence of a term.
    pub const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

    /// The version of write number `sequence` under `term`; asserts that both are in range.
    pub const fn new(term: u32, sequence: u64) -> Self {
        assert!(term <= Self::TERM_MAX && sequence <= Self::SEQUENCE_MAX);
        Self(((term as u64) << SEQUENCE_BITS) | sequence)
    }

    /// The version as it travels.
    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// The version as it travels.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The term under which the item was written.
    pub const fn term(self) -> u32 {
        (self.0 >> SEQUENCE_BITS) as u32
    }

    /// The write's place within its term.
    pub const fn sequence(self) -> u64 {
        self.0 & Self::SEQUENCE_MAX
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term(), self.sequence())
    }
}
