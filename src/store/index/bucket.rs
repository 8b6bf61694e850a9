//! One bucket: eight entries in a cache line, searched at once.
//!
//! ```text
//!    0      2      4             14     16                22                          58             64 bytes
//! ┌──────┬──────┬──────┬─ ... ─┬──────┬─────────────────┬─────────────────┬─ ... ─┬─────────────────┐
//! │ mark │ mark │ mark │       │ mark │ rest of entry 0 │ rest of entry 1 │       │ rest of entry 7 │
//! └──────┴──────┴──────┴─ ... ─┴──────┴─────────────────┴─────────────────┴─ ... ─┴─────────────────┘
//! ```
//! The marks stand together, so that one comparison finds what fits. Where in its bucket an entry stands can't be
//! predicted: a search that branches on each loses more to mispredictions than to the comparing. And it has to be short:
//! what waits for a bucket waits in the processor's window, in which there is room for little more than a few look-ups.

use super::entry::{Entry, POLICY_ONE_IN_UPPER};
use super::pages::BUCKET_ENTRIES;
use crate::store::arena::Line;

/// The entry at `lane`.
#[inline(always)]
pub(super) fn entry(line: &Line, lane: usize) -> Entry {
    let lane = lane % BUCKET_ENTRIES;
    let rest = BUCKET_ENTRIES + 3 * lane;
    // The piece before the rest is another's. With it there are eight bytes: one load.
    let [_, lower, middle, upper] = [line[rest - 1], line[rest], line[rest + 1], line[rest + 2]].map(u64::from);
    Entry::from_pieces(line[lane], upper << 32 | middle << 16 | lower)
}

/// Adds one to the policy bits of the entry at `lane`, up to `hits_max`.
#[inline(always)]
pub(super) fn count_hit(line: &mut Line, lane: usize, hits_max: u8) {
    let lane = lane % BUCKET_ENTRIES;
    let upper = &mut line[BUCKET_ENTRIES + 3 * lane + 2];
    if (*upper / POLICY_ONE_IN_UPPER) as u8 % 16 < hits_max {
        *upper += POLICY_ONE_IN_UPPER;
    }
}

/// All eight, empty places included.
#[inline(always)]
pub(super) fn entries(line: &Line) -> [Entry; BUCKET_ENTRIES] {
    std::array::from_fn(|lane| entry(line, lane))
}

/// Puts an entry, or none, at `lane`.
#[inline(always)]
pub(super) fn put(line: &mut Line, lane: usize, entry: Entry) {
    let lane = lane % BUCKET_ENTRIES;
    let rest = BUCKET_ENTRIES + 3 * lane;
    [line[lane], line[rest + 2], line[rest + 1], line[rest]] = entry.pieces();
}

/// The first empty place.
#[inline(always)]
pub(super) fn first_empty(line: &Line) -> Option<usize> {
    let mut unmarked = marked(line, 0);
    while unmarked != 0 {
        let lane = unmarked.trailing_zeros() as usize;
        // Of the entries that there are one in 65,536 has this mark, too.
        if entry(line, lane).is_empty() {
            return Some(lane);
        }
        unmarked &= unmarked - 1;
    }
    None
}

/// One bit for each place with this mark; for mark zero empty places are among them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn marked(line: &Line, mark: u16) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16, _mm_setzero_si128,
    };
    // SAFETY: the intrinsics need SSE2, which every x86-64 has; the load reads the first sixteen of the line's 64 bytes.
    unsafe {
        let marks = _mm_loadu_si128(line.as_ptr().cast());
        let same = _mm_cmpeq_epi16(marks, _mm_set1_epi16(mark.cast_signed()));
        _mm_movemask_epi8(_mm_packs_epi16(same, _mm_setzero_si128())) as u32
    }
}

/// [`marked`] in two buckets, the second one's bits above the first one's.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn marked_in_two(first: &Line, second: &Line, mark: u16) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16};
    // SAFETY: as in `marked`, for each of the lines.
    unsafe {
        let wanted = _mm_set1_epi16(mark.cast_signed());
        let same = |line: &Line| _mm_cmpeq_epi16(_mm_loadu_si128(line.as_ptr().cast()), wanted);
        _mm_movemask_epi8(_mm_packs_epi16(same(first), same(second))) as u32
    }
}

/// [`marked`] in two buckets, the second one's bits above the first one's.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn marked_in_two(first: &Line, second: &Line, mark: u16) -> u32 {
    marked(first, mark) | marked(second, mark) << BUCKET_ENTRIES
}

/// One bit for each place with this mark; for mark zero empty places are among them.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn marked(line: &Line, mark: u16) -> u32 {
    marked_plainly(line, mark)
}

/// What [`marked`] finds, entry by entry.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn marked_plainly(line: &Line, mark: u16) -> u32 {
    line[..BUCKET_ENTRIES].iter().rev().fold(0, |found, there| (found << 1) | u32::from(*there == mark))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::arena::EMPTY_LINE;

    proptest! {
        #[test]
        fn comparing_at_once_finds_what_comparing_one_by_one_finds(
            items in proptest::array::uniform8(prop_oneof![
                Just(None),
                (0u32..1 << 24, 1usize..1 << 36).prop_map(Some),
                (prop_oneof![Just(0u32), Just(7), Just(0xFF_0000)], 1usize..100).prop_map(Some),
            ]),
            mark in prop_oneof![Just(0u16), Just(7), any::<u16>()],
        ) {
            let mut line = EMPTY_LINE;
            for (lane, item) in items.iter().enumerate() {
                if let Some((tag, location)) = item {
                    put(&mut line, lane, Entry::new(*tag, 3, *location));
                }
            }
            prop_assert_eq!(marked(&line, mark), marked_plainly(&line, mark));
            prop_assert_eq!(marked_in_two(&EMPTY_LINE, &line, mark) >> BUCKET_ENTRIES, marked_plainly(&line, mark));
            prop_assert_eq!(marked_in_two(&line, &EMPTY_LINE, mark) & 0xFF, marked_plainly(&line, mark));
            prop_assert_eq!(first_empty(&line), items.iter().position(Option::is_none));
            for (lane, item) in items.iter().enumerate() {
                let there = entry(&line, lane);
                let expected = item.map(|(tag, location)| (tag, 3, location));
                prop_assert_eq!((!there.is_empty()).then(|| (there.tag(), there.policy_bits(), there.location())), expected);
                if let Some((tag, location)) = item {
                    count_hit(&mut line, lane, 4);
                    count_hit(&mut line, lane, 4);
                    prop_assert_eq!(entry(&line, lane), Entry::new(*tag, 4, *location));
                }
            }
        }
    }
}
