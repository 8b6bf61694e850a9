//! Walking one vnode's table page by page, while others write to it.
//!
//! A page holds the tags that share their low bits, so in the order of tags read backwards (lowest bit first) each page
//! covers one interval. Pages only split, and a split cuts an interval in two: a cursor that stands between two
//! intervals goes on standing between two. So a walk meets every entry that is there from its beginning to its end,
//! whatever is written meanwhile, and one that comes or goes at most once.

use super::{Entry, Index, TAG_BITS};
use crate::store::segments::Memory;

/// The cursor behind the last entry.
pub(in crate::store) const CURSOR_END: u32 = 1 << TAG_BITS;

/// Where an entry with `tag` stands in a walk.
pub(in crate::store) const fn cursor_of(tag: u32) -> u32 {
    tag.reverse_bits() >> (u32::BITS - TAG_BITS)
}

impl Index {
    /// Puts the entries of `vnode` from `cursor` to the end of the page there into `entries`, in the order of the walk;
    /// returns the cursor behind them. Cost: one page, sorted.
    pub(in crate::store) fn entries_at(
        &self,
        memory: &Memory,
        vnode: usize,
        cursor: u32,
        entries: &mut Vec<Entry>,
    ) -> u32 {
        entries.clear();
        let table = &self.vnodes[vnode];
        let pages = table.pages.len();
        if pages == 0 || cursor >= CURSOR_END {
            return CURSOR_END;
        }
        // Reading backwards twice is reading forwards.
        let number = table.page_of(cursor_of(cursor));
        let round_bits = pages.ilog2();
        let round = 1 << round_bits;
        let depth = if number >= round || number < pages - round { round_bits + 1 } else { round_bits };
        let page = table.pages[number];
        if page.buckets > 0 && page.flush_epoch == self.flush_epoch {
            entries.extend(page.entries(memory).filter(|entry| cursor_of(entry.tag()) >= cursor));
            entries.sort_unstable_by_key(|entry| cursor_of(entry.tag()));
        }
        cursor_of(number as u32) + (1 << (TAG_BITS - depth))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::entry::TAG_IN_HASH;
    use super::*;
    use crate::store::arena::Arena;
    use crate::store::segments::{SEGMENT_BYTES, Segments};

    #[test]
    fn a_walk_meets_everything_that_stays_while_the_table_grows_and_shrinks() {
        for seed in 1..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let segments = 64;
            let arena = Arena::map((segments + 1) * SEGMENT_BYTES).unwrap();
            let mut memory = Memory { arena, segments: Segments::new(segments) };
            let mut index = Index::new(0);
            let hash_of = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) & TAG_IN_HASH;
            let staying = random.random_range(0..3000u64);
            for number in 0..staying {
                index.insert(&mut memory, hash_of(number), 0, number as usize + 1).unwrap();
            }
            let mut passing: Vec<u64> = Vec::new();
            let mut next = staying;
            let (mut met, mut cursor, mut entries) = (HashSet::new(), 0, Vec::new());
            while cursor < CURSOR_END {
                let before = cursor;
                cursor = index.entries_at(&memory, 0, cursor, &mut entries);
                assert!(cursor > before, "seed {seed}");
                for entry in &entries {
                    assert!(met.insert(entry.location()), "seed {seed}: met twice");
                }
                for _ in 0..random.random_range(0..2000) {
                    if random.random_range(0..3) == 0
                        && let Some(gone) = passing.pop()
                    {
                        let found = index.find_location(&memory, hash_of(gone), gone as usize + 1);
                        index.remove(&mut memory, hash_of(gone), found.unwrap().0);
                    } else if next < 60_000 {
                        index.insert(&mut memory, hash_of(next), 0, next as usize + 1).unwrap();
                        passing.push(next);
                        next += 1;
                    }
                }
            }
            assert!((1..=staying as usize).all(|location| met.contains(&location)), "seed {seed}: missed one");
        }
    }
}
