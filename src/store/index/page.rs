//! One page: a run of buckets, and in which two of them an entry may stand.
//!
//! Cuckoo hashing with buckets of eight (Dietzfelbinger and Weidling 2005): a tag names two buckets. A new entry goes to the
//! emptier one; where both are full, an entry of theirs moves to its other bucket, or makes room there by moving one more. So
//! nothing is ever looked for in a third bucket, and what goes leaves a hole that nothing need fill: with linear probing, at
//! nine tenths full, an entry in sixteen stood beyond the second bucket, and a new one and one that went each looked at four.

use super::bucket::{self, first_empty, marked_in_two};
use super::entry::{Entry, TAG_BITS};
use super::pages::{BUCKET_ENTRIES, PAGE_BUCKETS_MAX, capacity};
use crate::store::segments::Memory;

/// What a tag is multiplied by, so that its lower bits choose its second bucket. Odd: no two tags become one.
const SECOND_SPREAD: u32 = 0x9E_3779;
const _: () = assert!(SECOND_SPREAD % 2 == 1);
/// Entries that move at most to make a place. With two a page takes 31/32 of its places but for one in ten thousand entries that
/// come to a full one, most of them in pages of a few buckets: those get one more.
const MOVES_MAX: usize = 2;

/// Where one page lies.
#[derive(Clone, Copy, Default)]
pub(super) struct Page {
    pub(super) line: u32,
    /// None: nothing was ever put here, and it takes no memory.
    pub(super) buckets: u16,
    pub(super) entries: u16,
    pub(super) flush_epoch: u32,
}

const _: () = assert!(size_of::<Page>() == 12);

impl Page {
    /// The two buckets for entries with `tag`: the home bucket by its upper bits, the second by all of them. They may be
    /// the same: to make them differ would cost every look-up ten instructions.
    #[inline(always)]
    pub(super) fn buckets_of(&self, tag: u32) -> [usize; 2] {
        let buckets = u64::from(self.buckets);
        let home = (u64::from(tag) * buckets) >> TAG_BITS;
        let spread = u64::from(tag.wrapping_mul(SECOND_SPREAD) & ((1 << TAG_BITS) - 1));
        let second = (spread * buckets) >> TAG_BITS;
        [home as usize, second as usize]
    }

    /// The lines of its buckets.
    pub(super) fn lines(&self) -> std::ops::Range<usize> {
        self.line as usize..self.line as usize + usize::from(self.buckets)
    }

    pub(super) fn entries<'a>(&self, memory: &'a Memory) -> impl Iterator<Item = Entry> + use<'a> {
        self.lines().flat_map(|line| bucket::entries(memory.arena.line(line))).filter(|entry| !entry.is_empty())
    }

    /// Puts an entry into the emptier one of its buckets. `false`: there is no room, nor can any be made by moving two.
    pub(super) fn put(&mut self, memory: &mut Memory, entry: Entry) -> bool {
        if self.buckets == 0 {
            return false;
        }
        let buckets = self.buckets_of(entry.tag());
        let [home, second] = buckets.map(|bucket| memory.arena.line(self.line as usize + bucket));
        let unmarked = marked_in_two(home, second, 0);
        let in_home = (unmarked & 0xFF).count_ones();
        let ordered = if in_home >= unmarked.count_ones() - in_home { buckets } else { [buckets[1], buckets[0]] };
        let empty = ordered.iter().find_map(|bucket| {
            let lane = first_empty(memory.arena.line(self.line as usize + bucket))?;
            Some((*bucket, lane))
        });
        let place = empty.or_else(|| self.make_place(memory, buckets).map(|made| (made.bucket, made.lane)));
        let Some((bucket, lane)) = place else { return false };
        bucket::put(memory.arena.line_mut(self.line as usize + bucket), lane, entry);
        self.entries += 1;
        true
    }

    /// Empties a place.
    pub(super) fn take(&mut self, memory: &mut Memory, line: usize, lane: usize) {
        bucket::put(memory.arena.line_mut(line), lane, Entry::NONE);
        self.entries -= 1;
    }

    /// Makes a place in one of two full buckets: by moving one entry, or else by moving two.
    #[inline(never)]
    fn make_place(&self, memory: &mut Memory, buckets: [usize; 2]) -> Option<MadePlace> {
        (0..MOVES_MAX).find_map(|others| buckets.iter().find_map(|bucket| self.vacate(memory, *bucket, others)))
    }

    /// Moves an entry of a full bucket to its other one, after as many `others` as that may take; the place that it leaves.
    fn vacate(&self, memory: &mut Memory, bucket: usize, others: usize) -> Option<MadePlace> {
        (0..BUCKET_ENTRIES).find_map(|lane| {
            let entry = bucket::entry(memory.arena.line(self.line as usize + bucket), lane);
            let [home, second] = self.buckets_of(entry.tag());
            let target = if bucket == home { second } else { home };
            let (target_lane, grown) = match first_empty(memory.arena.line(self.line as usize + target)) {
                Some(target_lane) => (target_lane, target),
                // What moves from there can't come here, where all is full.
                None if others > 0 && target != bucket => {
                    let made = self.vacate(memory, target, others - 1)?;
                    (made.lane, made.grown)
                }
                None => return None,
            };
            bucket::put(memory.arena.line_mut(self.line as usize + target), target_lane, entry);
            Some(MadePlace { bucket, lane, grown })
        })
    }
}

/// A place whose entry has moved on.
struct MadePlace {
    bucket: usize,
    lane: usize,
    /// The bucket that has one entry more since, where the last of those that moved is.
    grown: usize,
}

/// A page that entries are moved to: how full each bucket is need not be looked up.
pub(super) struct Filling {
    pub(super) page: Page,
    used: [u8; PAGE_BUCKETS_MAX],
}

impl Filling {
    /// Begins with `page`, which has none yet.
    pub(super) fn new(page: Page) -> Self {
        Self { page, used: [0; PAGE_BUCKETS_MAX] }
    }

    /// What [`Page::put`] does. Places are used in order, also by entries that move.
    #[inline]
    pub(super) fn put(&mut self, memory: &mut Memory, entry: Entry) -> bool {
        let [home, second] = self.page.buckets_of(entry.tag());
        let emptier = if self.used[home] <= self.used[second] { home } else { second };
        let mut place = (emptier, usize::from(self.used[emptier]));
        let mut grown = emptier;
        if place.1 == BUCKET_ENTRIES {
            let Some(made) = self.page.make_place(memory, [home, second]) else { return false };
            (place, grown) = ((made.bucket, made.lane), made.grown);
        }
        bucket::put(memory.arena.line_mut(self.page.line as usize + place.0), place.1, entry);
        self.used[grown] += 1;
        self.page.entries += 1;
        true
    }
}

const _: () = assert!(capacity(PAGE_BUCKETS_MAX) < 1 << 16);

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::store::arena::Arena;
    use crate::store::segments::{SEGMENT_BYTES, Segments};

    /// An empty page of `buckets` buckets somewhere in an arena.
    fn page(buckets: usize) -> (Memory, Page) {
        let memory = Memory { arena: Arena::map(2 * SEGMENT_BYTES).unwrap(), segments: Segments::new(1) };
        let page = Page { line: 7, buckets: buckets as u16, entries: 0, flush_epoch: 0 };
        (memory, page)
    }

    fn holds(memory: &Memory, page: &Page, entry: Entry) -> bool {
        page.buckets_of(entry.tag())
            .iter()
            .any(|bucket| bucket::entries(memory.arena.line(page.line as usize + bucket)).contains(&entry))
    }

    #[test]
    fn a_page_takes_what_its_capacity_says_and_keeps_each_entry_in_one_of_its_two_buckets() {
        let mut random = StdRng::seed_from_u64(5);
        let (mut inserts, mut refused) = (0, 0);
        for buckets in (1..=PAGE_BUCKETS_MAX).cycle().take(2000) {
            let (mut memory, mut page) = page(buckets);
            let low_bits = random.random_range(0..64);
            let mut entries: Vec<Entry> = Vec::new();
            for number in 0..3 * capacity(buckets) {
                if entries.len() == capacity(buckets) {
                    let gone = entries.swap_remove(random.random_range(0..entries.len()));
                    let line =
                        page.lines().find(|line| bucket::entries(memory.arena.line(*line)).contains(&gone)).unwrap();
                    let lane =
                        bucket::entries(memory.arena.line(line)).iter().position(|there| *there == gone).unwrap();
                    page.take(&mut memory, line, lane);
                }
                let tag = random.random_range(0..1 << TAG_BITS) & !63 | low_bits;
                let entry = Entry::new(tag, 0, number + 1);
                inserts += 1;
                match page.put(&mut memory, entry) {
                    true => entries.push(entry),
                    false => refused += 1,
                }
            }
            assert_eq!(usize::from(page.entries), entries.len());
            assert_eq!(page.entries(&memory).count(), entries.len());
            assert!(entries.iter().all(|entry| holds(&memory, &page, *entry)), "{buckets} buckets");
        }
        assert!(refused < inserts / 5000, "{refused} of {inserts} times there was no room for one more");
    }
}
