//! One index entry: eight bytes that say which item, how it fares with the eviction policy, and where it lies.
//!
//! ```text
//!  63            48 47         40 39         36 35                                    0
//! ┌────────────────┬─────────────┬─────────────┬───────────────────────────────────────┐
//! │ tag, its lower │ tag, its    │ policy (4)  │ location: byte offset in the arena    │
//! │ 16 bits        │ upper 8     │             │                                       │
//! └────────────────┴─────────────┴─────────────┴───────────────────────────────────────┘
//! ```
//! The tag is 24 bits of the key's hash below those that say the vnode: its low bits choose the page within the vnode, its
//! high bits the bucket within the page, so pages grow and split without reading a key. Its lower 16 bits are what a bucket
//! is searched for: the upper ones are much the same throughout a bucket. Zero is an empty place.

use quoit_wire::topology::VNODE_BITS_MAX;

use crate::store::segments::ARENA_BYTES_MAX;

/// Bits of a tag.
pub(in crate::store) const TAG_BITS: u32 = 24;
/// Where in a hash the tag begins: the same for any number of vnodes, so that it is found without asking how many.
const TAG_SHIFT: u32 = 24;
const _: () = assert!(TAG_SHIFT + TAG_BITS + VNODE_BITS_MAX as u32 <= u64::BITS);
const LOCATION_BITS: u32 = 36;
const POLICY_SHIFT: u32 = LOCATION_BITS;
/// Bits of a tag by which a bucket is searched.
const MARK_BITS: u32 = u16::BITS;
const MARK_SHIFT: u32 = u64::BITS - MARK_BITS;
const TAG_UPPER_SHIFT: u32 = POLICY_SHIFT + 4;
const LOCATION_MASK: u64 = (1 << LOCATION_BITS) - 1;
const POLICY_MASK: u64 = 0xF << POLICY_SHIFT;

/// One in the policy bits, as it stands in the second of an entry's four pieces.
pub(super) const POLICY_ONE_IN_UPPER: u16 = (1u64 << POLICY_SHIFT >> 32) as u16;

const _: () = assert!(1u64 << LOCATION_BITS == ARENA_BYTES_MAX as u64);
const _: () = assert!(MARK_SHIFT - TAG_UPPER_SHIFT == TAG_BITS - MARK_BITS);
const _: () = assert!(size_of::<Entry>() == 8);

/// One entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Entry(u64);

impl Entry {
    /// An empty place.
    pub(super) const NONE: Self = Self(0);

    /// An entry for the item at `location`.
    #[inline]
    pub(in crate::store) const fn new(tag: u32, policy_bits: u8, location: usize) -> Self {
        debug_assert!(tag >> TAG_BITS == 0 && policy_bits < 16 && location != 0 && location as u64 <= LOCATION_MASK);
        let tag_upper = (tag >> MARK_BITS) as u64;
        Self(
            ((mark_of(tag) as u64) << MARK_SHIFT)
                | (tag_upper << TAG_UPPER_SHIFT)
                | ((policy_bits as u64) << POLICY_SHIFT)
                | location as u64,
        )
    }

    /// The entry that stands in a bucket as this mark and this rest.
    #[inline(always)]
    pub(super) const fn from_pieces(mark: u16, rest: u64) -> Self {
        Self((mark as u64) << MARK_SHIFT | rest)
    }

    /// The entry as it stands in a bucket, the mark first.
    #[inline(always)]
    pub(super) const fn pieces(self) -> [u16; 4] {
        [(self.0 >> MARK_SHIFT) as u16, (self.0 >> 32) as u16, (self.0 >> 16) as u16, self.0 as u16]
    }

    /// Whether this is an empty place.
    #[inline]
    pub(in crate::store) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The hash bits kept here.
    #[inline]
    pub(in crate::store) const fn tag(self) -> u32 {
        let tag_upper = (self.0 >> TAG_UPPER_SHIFT) as u32 & ((1 << (TAG_BITS - MARK_BITS)) - 1);
        tag_upper << MARK_BITS | (self.0 >> MARK_SHIFT) as u32
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

/// What of a tag a bucket is searched for.
#[inline(always)]
pub(super) const fn mark_of(tag: u32) -> u16 {
    tag as u16
}

/// The tag of a hash.
#[inline]
pub(in crate::store) const fn tag_of(hash: u64) -> u32 {
    wide_tag_of(hash) & ((1 << TAG_BITS) - 1)
}

/// The tag of a hash, and above it what is not the tag's: for those who look at its lower bits only.
#[inline(always)]
pub(super) const fn wide_tag_of(hash: u64) -> u32 {
    (hash >> TAG_SHIFT) as u32
}

/// The bits of a hash that the index sees, vnodes apart.
#[cfg(test)]
pub(super) const TAG_IN_HASH: u64 = ((1 << TAG_BITS) - 1) << TAG_SHIFT;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_says_what_it_was_made_of(
            tag in 0u32..1 << TAG_BITS, bits in 0u8..16, location in 1usize..ARENA_BYTES_MAX, later_bits in 0u8..16,
        ) {
            let entry = Entry::new(tag, bits, location);
            let [mark, upper, middle, lower] = entry.pieces().map(u64::from);
            prop_assert_eq!(Entry::from_pieces(mark as u16, upper << 32 | middle << 16 | lower), entry);
            prop_assert_eq!((entry.tag(), entry.policy_bits(), entry.location()), (tag, bits, location));
            prop_assert_eq!(entry.with_policy_bits(later_bits), Entry::new(tag, later_bits, location));
            prop_assert_eq!(entry.pieces()[0], mark_of(tag));
        }
    }
}
