//! One bucket: eight entries in a cache line, compared at once.
//!
//! Where in its bucket an entry stands can't be predicted, so a search that branches on each entry loses more to
//! mispredictions than to the comparing.

#[cfg(any(test, not(target_arch = "x86_64")))]
use super::entry::Entry;
use crate::store::arena::Line;

/// Whether no place is empty.
#[inline(always)]
pub(super) fn is_full(line: &Line) -> bool {
    empty(line) == 0
}

/// One bit for each empty place.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn empty(line: &Line) -> u32 {
    use std::arch::x86_64::{
        _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_ps, _mm_or_si128, _mm_set_epi64x,
        _mm_setzero_si128, _mm_shuffle_ps,
    };
    // SAFETY: the intrinsics need SSE and SSE2, which every x86-64 has, and take values, no pointers.
    unsafe {
        let two = |at: usize| _mm_castsi128_ps(_mm_set_epi64x(line[at + 1] as i64, line[at] as i64));
        let four = |at: usize| {
            let uppers = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(two(at), two(at + 2)));
            let lowers = _mm_castps_si128(_mm_shuffle_ps::<0b10_00_10_00>(two(at), two(at + 2)));
            let either = _mm_or_si128(uppers, lowers);
            _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(either, _mm_setzero_si128()))) as u32
        };
        four(0) | (four(4) << 4)
    }
}

/// One bit for each empty place.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn empty(line: &Line) -> u32 {
    line.iter().rev().fold(0, |places, word| (places << 1) | u32::from(*word == 0))
}

/// One bit for each entry that has `tag`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn matching(line: &Line, tag: u32) -> u32 {
    use std::arch::x86_64::{
        _mm_and_si128, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_ps, _mm_set_epi64x,
        _mm_set1_epi32, _mm_shuffle_ps,
    };
    // SAFETY: the intrinsics need SSE and SSE2, which every x86-64 has, and take values, no pointers.
    unsafe {
        // A tag is the upper 24 bits of the upper half of an entry.
        let (wanted, mask) = (_mm_set1_epi32((tag << 8) as i32), _mm_set1_epi32(-256));
        let two = |at: usize| _mm_castsi128_ps(_mm_set_epi64x(line[at + 1] as i64, line[at] as i64));
        let four = |at: usize| {
            let uppers = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(two(at), two(at + 2)));
            _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(_mm_and_si128(uppers, mask), wanted))) as u32
        };
        four(0) | (four(4) << 4)
    }
}

/// One bit for each entry that has `tag`.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn matching(line: &Line, tag: u32) -> u32 {
    matching_plainly(line, tag)
}

/// What [`matching`] finds, entry by entry.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn matching_plainly(line: &Line, tag: u32) -> u32 {
    line.iter().rev().fold(0, |matches, word| (matches << 1) | u32::from(Entry::from_word(*word).tag() == tag))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn comparing_at_once_finds_what_comparing_one_by_one_finds(
            words in proptest::array::uniform8(prop_oneof![
                Just(0u64), any::<u64>(), (0u64..1 << 41).prop_map(|low| 7 << 40 | low), (1u64..100).prop_map(|high| high << 32), 1u64..100
            ]),
            tag in prop_oneof![Just(0u32), Just(7), 0u32..1 << 24],
        ) {
            prop_assert_eq!(matching(&words, tag), matching_plainly(&words, tag));
            prop_assert_eq!(is_full(&words), !words.contains(&0));
            prop_assert_eq!((0..8).filter(|place| empty(&words) >> place & 1 != 0).count(), words.iter().filter(|word| **word == 0).count());
            prop_assert!((0..8).all(|place| (empty(&words) >> place & 1 != 0) == (words[place] == 0)));
        }
    }
}
