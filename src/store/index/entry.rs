//! One index entry: eight bytes that say which item, how it fares with the eviction policy, and where it lies.
//!
//! ```text
//!  63                    40 39         36 35                                    0
//! ┌────────────────────────┬─────────────┬───────────────────────────────────────┐
//! │ tag (24)               │ policy (4)  │ location: byte offset in the arena    │
//! └────────────────────────┴─────────────┴───────────────────────────────────────┘
//! ```
//! The tag is the 24 bits of the key's hash below the vnode: its low bits choose the page within the vnode, its high bits
//! the bucket within the page, so pages grow and split without reading a key. Zero is an empty place.

use crate::store::segments::ARENA_BYTES_MAX;

/// Bits of a tag.
pub(in crate::store) const TAG_BITS: u32 = 24;
const LOCATION_BITS: u32 = 36;
const POLICY_SHIFT: u32 = LOCATION_BITS;
const TAG_SHIFT: u32 = 64 - TAG_BITS;
const LOCATION_MASK: u64 = (1 << LOCATION_BITS) - 1;
const POLICY_MASK: u64 = 0xF << POLICY_SHIFT;

const _: () = assert!(1u64 << LOCATION_BITS == ARENA_BYTES_MAX as u64);
const _: () = assert!(size_of::<Entry>() == 8);

/// One entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Entry(u64);

impl Entry {
    /// An entry for the item at `location`.
    #[inline]
    pub(in crate::store) const fn new(tag: u32, policy_bits: u8, location: usize) -> Self {
        debug_assert!(tag >> TAG_BITS == 0 && policy_bits < 16 && location != 0 && location as u64 <= LOCATION_MASK);
        Self(((tag as u64) << TAG_SHIFT) | ((policy_bits as u64) << POLICY_SHIFT) | location as u64)
    }

    /// The entry as it stands in a bucket.
    #[inline]
    pub(in crate::store) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The entry as it stands in a bucket.
    #[inline]
    pub(in crate::store) const fn word(self) -> u64 {
        self.0
    }

    /// Whether this is an empty place.
    #[inline]
    pub(in crate::store) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The hash bits kept here.
    #[inline]
    pub(in crate::store) const fn tag(self) -> u32 {
        (self.0 >> TAG_SHIFT) as u32
    }

    /// What the policy keeps here.
    #[inline]
    pub(in crate::store) const fn policy_bits(self) -> u8 {
        ((self.0 & POLICY_MASK) >> POLICY_SHIFT) as u8
    }

    /// Where the item lies.
    #[inline]
    pub(in crate::store) const fn location(self) -> usize {
        (self.0 & LOCATION_MASK) as usize
    }

    /// The same entry with other policy bits.
    #[inline]
    pub(in crate::store) const fn with_policy_bits(self, bits: u8) -> Self {
        Self((self.0 & !POLICY_MASK) | ((bits as u64) << POLICY_SHIFT))
    }
}

/// The tag of a hash among `2^vnode_bits` vnodes.
#[inline]
pub(in crate::store) const fn tag_of(hash: u64, vnode_bits: u8) -> u32 {
    ((hash << vnode_bits) >> TAG_SHIFT) as u32
}
