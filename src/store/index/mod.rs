//! The index: which items there are and where they lie, one table for each vnode.
//!
//! A vnode's table is a list of pages, a page a run of 1 to 128 buckets, a bucket one cache line of eight entries. An
//! entry stands in one of two buckets of its page that its tag names, nowhere else (cuckoo hashing with buckets,
//! Dietzfelbinger and Weidling 2005): a look-up is one comparison with the sixteen marks of both, a removal empties a place
//! and moves nothing. Where both are full, one entry in them moves to its other bucket, or makes room there in the same way.
//! Pages grow one at a time, by a sixteenth to an eighth, and split one at a time (linear hashing, Litwin 1980), so no step
//! depends on the size of the table, and tables don't double all at once. Growing reads no key: the tag in the entry says
//! where it goes.
//!
//! A flush raises the epoch: pages of an older one count as empty, and are emptied when they are next written to or
//! visited by the background work.

mod bucket;
mod clear;
mod entry;
mod page;
mod pages;
mod walk;

use quoit_wire::topology::vnode_of;

use self::bucket::marked_in_two;
pub(super) use self::entry::{Entry, tag_of};
use self::entry::{TAG_BITS, mark_of, wide_tag_of};
use self::page::{Filling, Page};
use self::pages::{BUCKET_ENTRIES, PAGE_BUCKETS_MAX, PageOwner, PageSpace, buckets_for, capacity};
pub(super) use self::walk::{CURSOR_END, cursor_of};
use super::arena::{LINE_BYTES, Line};
use super::segments::Memory;

/// Entries that a vnode's pages hold on average before one more page is split off. Pages of one vnode differ by a factor
/// of two while a round of splits goes on, so the largest stay within the largest page.
const PAGE_ENTRIES_MEAN: usize = 400;
/// Pages of one vnode at most: the tag's low bits that choose the page must leave some that tell entries apart.
const VNODE_PAGES_MAX: usize = 1 << 16;
/// A page shrinks when its entries would fit into this part (numerator, denominator) of its buckets.
const SHRINK_BELOW: (usize, usize) = (3, 4);

/// One core's index.
pub(super) struct Index {
    vnodes: Vec<Vnode>,
    space: PageSpace,
    vnode_bits: u8,
    flush_epoch: u32,
    /// Where the background work goes on emptying flushed pages; past the last vnode when all are.
    sweep: (usize, usize),
}

/// One vnode's table.
#[derive(Default)]
struct Vnode {
    pages: Vec<Page>,
    /// All entries, those of flushed pages that were not emptied yet included.
    entries: u32,
    /// The bits of a tag that choose a page in the round of splits that goes on.
    page_mask: u32,
}

/// Where an entry stands. Good until the index is next written to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    line: usize,
    lane: usize,
}

/// The two buckets of a hash, as lines of the arena. Good until the index is next written to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Near {
    home: usize,
    second: usize,
}

/// The arena has no segment left for the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexFull;

impl Index {
    /// Empty tables for `2^vnode_bits` vnodes.
    pub(super) fn new(vnode_bits: u8) -> Self {
        let vnodes = (0..1usize << vnode_bits).map(|_| Vnode::default()).collect();
        Self { vnodes, space: PageSpace::new(), vnode_bits, flush_epoch: 0, sweep: (usize::MAX, 0) }
    }

    /// Asks the processor for the two buckets of `hash`; which those are. Where they are told is not asked for ahead: this
    /// is so short that the processor is in many at once.
    #[inline(always)]
    pub(super) fn prefetch(&self, memory: &Memory, hash: u64) -> Near {
        let near = self.near(vnode_of(hash, self.vnode_bits), hash).unwrap_or_default();
        memory.arena.prefetch(near.home * LINE_BYTES);
        memory.arena.prefetch(near.second * LINE_BYTES);
        near
    }

    /// An entry whose mark fits `hash` in the two buckets, or any other or none: for prefetching, without a branch.
    #[inline(always)]
    pub(super) fn guess(&self, memory: &Memory, hash: u64, near: Near) -> Entry {
        let place = near.marked(memory, hash).trailing_zeros() as usize;
        near.entry(memory, place).1
    }

    /// The two buckets in which the entry of `hash` stands, if there is one.
    #[inline(always)]
    pub(super) fn near(&self, vnode: usize, hash: u64) -> Option<Near> {
        let vnode = &self.vnodes[vnode];
        let page = vnode.pages.get(vnode.page_of(wide_tag_of(hash)))?;
        // A page without buckets lies at the arena's first line, which is always empty.
        (page.flush_epoch == self.flush_epoch).then(|| {
            let [home, second] = page.buckets_of(tag_of(hash));
            Near { home: page.line as usize + home, second: page.line as usize + second }
        })
    }

    /// The first entry whose mark fits `hash`: in nearly all look-ups the one that is looked for. It may be an empty place,
    /// or have another tag. Which of both buckets it is in can't be predicted, and is not branched on.
    #[inline(always)]
    pub(super) fn first_near(&self, memory: &Memory, hash: u64, near: Near) -> Option<(Slot, Entry)> {
        let matches = near.marked(memory, hash);
        (matches != 0).then(|| near.entry(memory, matches.trailing_zeros() as usize))
    }

    /// The entry of `hash` for which `look` finds something, with what that is.
    #[inline(always)]
    pub(super) fn find<T>(
        &self,
        memory: &Memory,
        hash: u64,
        look: impl Fn(Entry) -> Option<T>,
    ) -> Option<(Slot, Entry, T)> {
        let near = self.near(vnode_of(hash, self.vnode_bits), hash)?;
        let mut matches = near.marked(memory, hash);
        while matches != 0 {
            let (slot, entry) = near.entry(memory, matches.trailing_zeros() as usize);
            if !entry.is_empty()
                && entry.tag() == tag_of(hash)
                && let Some(found) = look(entry)
            {
                return Some((slot, entry, found));
            }
            matches &= matches - 1;
        }
        None
    }

    /// The entry of `hash` that points to `location`.
    #[inline]
    pub(super) fn find_location(&self, memory: &Memory, hash: u64, location: usize) -> Option<(Slot, Entry)> {
        self.find(memory, hash, |entry| (entry.location() == location).then_some(()))
            .map(|(slot, entry, ())| (slot, entry))
    }

    /// Puts another entry with the same tag into its place.
    #[inline]
    pub(super) fn replace(&self, memory: &mut Memory, slot: Slot, entry: Entry) {
        bucket::put(memory.arena.line_mut(slot.line), slot.lane, entry);
    }

    /// Counts a hit in the policy bits of the entry that stands at `slot`, up to `hits_max`.
    #[inline(always)]
    pub(super) fn count_hit(&self, memory: &mut Memory, slot: Slot, hits_max: u8) {
        bucket::count_hit(memory.arena.line_mut(slot.line), slot.lane, hits_max);
    }

    /// Adds an entry. The caller has made sure that the key has none.
    pub(super) fn insert(
        &mut self,
        memory: &mut Memory,
        hash: u64,
        policy_bits: u8,
        location: usize,
    ) -> Result<(), IndexFull> {
        let entry = Entry::new(tag_of(hash), policy_bits, location);
        let vnode_number = vnode_of(hash, self.vnode_bits);
        if self.vnodes[vnode_number].pages.is_empty() {
            let page = Page { flush_epoch: self.flush_epoch, ..Page::default() };
            self.vnodes[vnode_number].push(page);
        }
        let page_number = self.vnodes[vnode_number].page_of(entry.tag());
        self.empty_if_flushed(memory, vnode_number, page_number);
        let page = self.vnodes[vnode_number].pages[page_number];
        let entries = usize::from(page.entries) + 1;
        if page.buckets == 0 || entries > capacity(usize::from(page.buckets)) {
            // Where there is no memory a page takes more than it should, while it can.
            let _ = self.resize(memory, vnode_number, page_number, buckets_for(entries));
        }
        while !self.vnodes[vnode_number].pages[page_number].put(memory, entry) {
            self.grow(memory, vnode_number, page_number)?;
        }
        let vnode = &mut self.vnodes[vnode_number];
        vnode.entries += 1;
        let pages = vnode.pages.len();
        if vnode.entries as usize > pages * PAGE_ENTRIES_MEAN && pages < VNODE_PAGES_MAX {
            self.split(memory, vnode_number);
        }
        Ok(())
    }

    /// Takes the entry of `hash` out that stands at `slot`.
    pub(super) fn remove(&mut self, memory: &mut Memory, hash: u64, slot: Slot) {
        let vnode_number = vnode_of(hash, self.vnode_bits);
        let vnode = &mut self.vnodes[vnode_number];
        let page_number = vnode.page_of(tag_of(hash));
        let page = &mut vnode.pages[page_number];
        debug_assert!(page.lines().contains(&slot.line));
        page.take(memory, slot.line, slot.lane);
        vnode.entries -= 1;
        let (entries, buckets) = (usize::from(page.entries), usize::from(page.buckets));
        let fitting = buckets_for(entries + entries / 16);
        if fitting * SHRINK_BELOW.1 < buckets * SHRINK_BELOW.0 {
            // A shrink that finds no memory is made up for by a later one.
            let _ = self.resize(memory, vnode_number, page_number, fitting);
        }
    }

    /// From now on every table is empty.
    pub(super) fn flush(&mut self) {
        self.flush_epoch = self.flush_epoch.wrapping_add(1);
        self.sweep = (0, 0);
    }

    /// Gives back the memory of up to `pages_max` flushed pages; whether any may be left.
    pub(super) fn sweep_flushed(&mut self, memory: &mut Memory, pages_max: usize) -> bool {
        for _ in 0..pages_max {
            let (vnode, page) = self.sweep;
            if vnode >= self.vnodes.len() {
                return false;
            }
            if page < self.vnodes[vnode].pages.len() {
                self.empty_if_flushed(memory, vnode, page);
                self.sweep.1 += 1;
            } else {
                self.sweep = (vnode + 1, 0);
            }
        }
        true
    }

    /// Bytes of heap beside the arena.
    pub(super) fn heap_bytes(&self) -> usize {
        let pages: usize = self.vnodes.iter().map(|vnode| vnode.pages.capacity() * size_of::<Page>()).sum();
        self.vnodes.capacity() * size_of::<Vnode>() + pages + self.space.heap_bytes()
    }

    fn empty_if_flushed(&mut self, memory: &mut Memory, vnode: usize, page: usize) {
        let flushed = self.vnodes[vnode].pages[page];
        if flushed.flush_epoch == self.flush_epoch {
            return;
        }
        self.vnodes[vnode].entries -= u32::from(flushed.entries);
        self.vnodes[vnode].pages[page] = Page { flush_epoch: self.flush_epoch, ..Page::default() };
        if flushed.buckets > 0 {
            self.give(memory, flushed);
        }
    }

    /// Gives a page in which two buckets are too full the next size in which all of its entries find room.
    fn grow(&mut self, memory: &mut Memory, vnode: usize, page: usize) -> Result<(), IndexFull> {
        let mut buckets = usize::from(self.vnodes[vnode].pages[page].buckets);
        while buckets < PAGE_BUCKETS_MAX {
            buckets = buckets_for(capacity(buckets) + 1);
            if self.resize(memory, vnode, page, buckets).is_ok() {
                return Ok(());
            }
        }
        Err(IndexFull)
    }

    /// Moves a page's entries to a page of another size.
    fn resize(&mut self, memory: &mut Memory, vnode: usize, page: usize, buckets: usize) -> Result<(), IndexFull> {
        let old = self.vnodes[vnode].pages[page];
        if buckets == usize::from(old.buckets) {
            return Err(IndexFull);
        }
        let owner = PageOwner { vnode: vnode as u32, page: page as u32 };
        let line = self.space.take(memory, owner, buckets).ok_or(IndexFull)?;
        let mut new = Filling::new(Page { line, buckets: buckets as u16, entries: 0, flush_epoch: self.flush_epoch });
        let is_moved = old.lines().all(|number| {
            let entries = bucket::entries(memory.arena.line(number));
            entries.into_iter().filter(|entry| !entry.is_empty()).all(|entry| new.put(memory, entry))
        });
        if !is_moved {
            self.give_youngest(memory, &new.page);
            return Err(IndexFull);
        }
        self.vnodes[vnode].pages[page] = new.page;
        if old.buckets > 0 {
            self.give(memory, old);
        }
        Ok(())
    }

    /// Divides the next page of a vnode's round in two. Skipped when there is no memory: the next insert tries again.
    fn split(&mut self, memory: &mut Memory, vnode: usize) {
        let pages = self.vnodes[vnode].pages.len();
        let round = 1 << pages.ilog2();
        let source = pages - round;
        self.empty_if_flushed(memory, vnode, source);
        let old = self.vnodes[vnode].pages[source];
        let moves = |entry: Entry| entry.tag() as usize & round != 0;
        let leaving = old.entries(memory).filter(|entry| moves(*entry)).count();
        let staying = usize::from(old.entries) - leaving;
        let epoch = self.flush_epoch;
        let mut halves = [Page { flush_epoch: epoch, ..Page::default() }; 2];
        for (half, (page, entries)) in halves.iter_mut().zip([(source, staying), (pages, leaving)]) {
            let owner = PageOwner { vnode: vnode as u32, page: page as u32 };
            if entries > 0 {
                half.buckets = buckets_for(entries + entries / 16) as u16;
                match self.space.take(memory, owner, usize::from(half.buckets)) {
                    Some(line) => half.line = line,
                    None => half.buckets = 0,
                }
            }
        }
        let [stay, leave] = &halves;
        let has_memory = (staying == 0 || stay.buckets > 0) && (leaving == 0 || leave.buckets > 0);
        let (mut stay, mut leave) = (Filling::new(*stay), Filling::new(*leave));
        let is_moved = has_memory
            && old.lines().all(|number| {
                let entries = bucket::entries(memory.arena.line(number));
                let mut entries = entries.into_iter().filter(|entry| !entry.is_empty());
                entries.all(|entry| if moves(entry) { leave.put(memory, entry) } else { stay.put(memory, entry) })
            });
        let (stay, leave) = (stay.page, leave.page);
        if !is_moved {
            [leave, stay].iter().filter(|half| half.buckets > 0).for_each(|half| self.give_youngest(memory, half));
            return;
        }
        self.vnodes[vnode].pages[source] = stay;
        self.vnodes[vnode].push(leave);
        if old.buckets > 0 {
            self.give(memory, old);
        }
    }

    /// Gives the memory of a page back that was taken last in its class, so that no other moves.
    fn give_youngest(&mut self, memory: &mut Memory, page: &Page) {
        let moved = self.space.give(memory, page.line, usize::from(page.buckets));
        debug_assert!(moved.is_none());
    }

    /// Gives a page's memory back, and tells the page that moved into the hole.
    fn give(&mut self, memory: &mut Memory, page: Page) {
        if let Some(owner) = self.space.give(memory, page.line, usize::from(page.buckets)) {
            self.vnodes[owner.vnode as usize].pages[owner.page as usize].line = page.line;
        }
    }
}

impl Near {
    /// One bit for each place with the mark of `hash`, those of the second bucket above those of the home bucket.
    #[inline(always)]
    fn marked(self, memory: &Memory, hash: u64) -> u32 {
        let [home, second] = self.lines(memory);
        marked_in_two(home, second, mark_of(wide_tag_of(hash)))
    }

    /// The entry at one of the sixteen places; any, where `place` is none of them.
    #[inline(always)]
    fn entry(self, memory: &Memory, place: usize) -> (Slot, Entry) {
        let [home, second] = self.lines(memory);
        let (number, line) = if place < BUCKET_ENTRIES { (self.home, home) } else { (self.second, second) };
        let lane = place % BUCKET_ENTRIES;
        (Slot { line: number, lane }, bucket::entry(line, lane))
    }

    #[inline(always)]
    fn lines(self, memory: &Memory) -> [&Line; 2] {
        [memory.arena.line(self.home), memory.arena.line(self.second)]
    }
}

impl Vnode {
    /// The page that holds entries with `tag`, or wide tag: linear hashing on the tag's low bits. None has this number in a vnode
    /// without pages.
    #[inline(always)]
    fn page_of(&self, tag: u32) -> usize {
        let page = (tag & self.page_mask) as usize;
        // Not split yet in this round: its entries are where they were in the last one.
        if page < self.pages.len() { page } else { page & (self.page_mask >> 1) as usize }
    }

    fn push(&mut self, page: Page) {
        self.pages.push(page);
        self.page_mask = (2 << self.pages.len().ilog2()) - 1;
    }
}

const _: () = assert!(LINE_BYTES == BUCKET_ENTRIES * size_of::<Entry>());

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::entry::TAG_IN_HASH;
    use super::*;
    use crate::store::arena::Arena;
    use crate::store::segments::{SEGMENT_BYTES, Segments};

    fn memory(segments: usize) -> Memory {
        Memory { arena: Arena::map((segments + 1) * SEGMENT_BYTES).unwrap(), segments: Segments::new(segments) }
    }

    #[test]
    fn the_index_holds_what_a_map_holds() {
        let seed = 11;
        let mut random = StdRng::seed_from_u64(seed);
        for vnode_bits in [0, 3] {
            let mut memory = memory(64);
            let mut index = Index::new(vnode_bits);
            let mut model = HashMap::new();
            for step in 0..200_000usize {
                let keys = if step < 120_000 { 30_000 } else { 2_000 };
                // Spread by an odd constant; only bits that vnode and tag see, so that equal tags mean equal hashes.
                let spread = random.random_range(0..keys as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let hash = spread & (!(u64::MAX >> vnode_bits) | TAG_IN_HASH);
                let found = index.find(&memory, hash, |_| Some(())).map(|(slot, entry, ())| (slot, entry.location()));
                assert_eq!(found.map(|(_, location)| location), model.get(&hash).copied(), "seed {seed} step {step}");
                match (found, random.random_range(0..3)) {
                    (None, _) => {
                        index.insert(&mut memory, hash, 3, step + 1).unwrap();
                        model.insert(hash, step + 1);
                    }
                    (Some((slot, _)), 0) => {
                        index.replace(&mut memory, slot, Entry::new(tag_of(hash), 1, step + 1));
                        model.insert(hash, step + 1);
                    }
                    (Some((slot, _)), _) => {
                        index.remove(&mut memory, hash, slot);
                        model.remove(&hash);
                    }
                }
                if step == 150_000 {
                    index.flush();
                    model.clear();
                    while step % 2 == 0 && index.sweep_flushed(&mut memory, 10) {}
                }
            }
            for (hash, location) in &model {
                assert!(index.find_location(&memory, *hash, *location).is_some());
            }
        }
    }

    #[test]
    fn sixteen_entries_may_have_one_tag_and_a_seventeenth_is_refused_without_loss() {
        let mut memory = memory(64);
        let mut index = Index::new(0);
        let hash_of = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for number in 0..5000u64 {
            index.insert(&mut memory, hash_of(number), 0, number as usize + 1).unwrap();
        }
        let twin = 0x0012_3456_0000_0000;
        let taken = (0..20).filter(|number| index.insert(&mut memory, twin, 0, 10_000 + number).is_ok()).count();
        assert_eq!(taken, 2 * BUCKET_ENTRIES);
        for number in 0..taken {
            assert!(index.find_location(&memory, twin, 10_000 + number).is_some(), "{number}");
        }
        for number in 0..5000u64 {
            assert!(index.find_location(&memory, hash_of(number), number as usize + 1).is_some(), "{number}");
        }
    }

    #[test]
    fn a_full_arena_refuses_and_loses_nothing() {
        let mut memory = memory(2);
        let mut index = Index::new(0);
        let mut stored = 0;
        let hash_of = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        while index.insert(&mut memory, hash_of(stored), 0, stored as usize + 1).is_ok() {
            stored += 1;
        }
        assert!(stored > 500, "{stored}");
        for number in 0..stored {
            assert!(index.find_location(&memory, hash_of(number), number as usize + 1).is_some(), "{number}");
        }
    }
}
