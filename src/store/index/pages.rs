//! Memory for index pages: runs of buckets in some forty sizes, without fragmentation.
//!
//! Pages of one size lie densely in the segments of their class. Freeing one moves the class's last page into the hole
//! and tells its owner, so a class never has more than one segment partly used, and a page costs what it holds.

use crate::store::segments::{Memory, NO_SEGMENT, Role, SEGMENT_LINES, SegmentId, segment_of};

/// Entries of a bucket: one cache line.
pub(super) const BUCKET_ENTRIES: usize = 8;
/// Largest page. Larger ones would make a growth step longer: this one rehashes 992 entries, about 3 µs.
pub(super) const PAGE_BUCKETS_MAX: usize = 128;

/// Page sizes in buckets. Each is at most an eighth larger than the one before (a sixteenth where pages are large and
/// most memory is), so pages stand at 0.9 of their capacity on average.
const CLASS_BUCKETS: [u16; 48] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 28, 30, 32, 34, 36, 38,
    40, 42, 45, 48, 51, 54, 58, 62, 66, 70, 75, 80, 88, 96, 106, 116, 128,
];
const _: () = assert!(CLASS_BUCKETS[CLASS_BUCKETS.len() - 1] as usize == PAGE_BUCKETS_MAX);

/// The smallest class for every number of buckets up to the largest.
const CLASS_OF_BUCKETS: [u8; PAGE_BUCKETS_MAX + 1] = {
    let mut table = [0; PAGE_BUCKETS_MAX + 1];
    let mut buckets = 1;
    while buckets <= PAGE_BUCKETS_MAX {
        let mut class = 0;
        while (CLASS_BUCKETS[class] as usize) < buckets {
            class += 1;
        }
        table[buckets] = class as u8;
        buckets += 1;
    }
    table
};

/// Which page of which vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageOwner {
    pub(super) vnode: u32,
    pub(super) page: u32,
}

/// All pages' memory.
pub(super) struct PageSpace {
    classes: Vec<Class>,
}

#[derive(Default)]
struct Class {
    segments: Vec<SegmentId>,
    owners: Vec<PageOwner>,
}

/// The size a page gets that shall hold `entries`: the smallest class with room for them.
pub(super) fn buckets_for(entries: usize) -> usize {
    // The inverse of `capacity`, rounded up.
    let mut buckets = (entries * 32).div_ceil(BUCKET_ENTRIES * 31).clamp(1, PAGE_BUCKETS_MAX);
    if capacity(buckets) < entries && buckets < PAGE_BUCKETS_MAX {
        buckets += 1;
    }
    usize::from(CLASS_BUCKETS[usize::from(CLASS_OF_BUCKETS[buckets])])
}

/// Entries that a page of `buckets` buckets takes: 31/32 of its places. For a new entry of a page that is this full, another one
/// has to move six times in ten, and two in four of a hundred; at nine tenths, where pages are on average, one in a quarter.
/// At 15/16 an item costs a quarter of a byte more, and a set as much time.
pub(super) const fn capacity(buckets: usize) -> usize {
    BUCKET_ENTRIES * buckets * 31 / 32
}

impl PageSpace {
    pub(super) fn new() -> Self {
        Self { classes: CLASS_BUCKETS.iter().map(|_| Class::default()).collect() }
    }

    /// Takes a page of `buckets` buckets (a size that [`buckets_for`] gave), emptied; its first line. `None` when the
    /// arena has no segment left.
    pub(super) fn take(&mut self, memory: &mut Memory, owner: PageOwner, buckets: usize) -> Option<u32> {
        let class = &mut self.classes[usize::from(CLASS_OF_BUCKETS[buckets])];
        let place = class.owners.len();
        if place == class.segments.len() * (SEGMENT_LINES / buckets) {
            let id = memory.segments.take(Role::Pages, 0)?;
            memory.segments.get_mut(id).written = class.segments.len() as u32;
            class.segments.push(id);
        }
        class.owners.push(owner);
        let line = class.line(place, buckets);
        memory.arena.clear_lines(line, buckets);
        Some(line as u32)
    }

    /// Gives a page back. Where another page had to move into its place: that page's owner, whose line is now `line`.
    pub(super) fn give(&mut self, memory: &mut Memory, line: u32, buckets: usize) -> Option<PageOwner> {
        let per_segment = SEGMENT_LINES / buckets;
        let class = &mut self.classes[usize::from(CLASS_OF_BUCKETS[buckets])];
        let segment = segment_of(line as usize * super::LINE_BYTES);
        let within = (line as usize % SEGMENT_LINES) / buckets;
        let place = memory.segments.get(segment).written as usize * per_segment + within;
        let last = class.owners.len() - 1;
        let last_line = class.line(last, buckets);
        let owner = class.owners.swap_remove(place);
        // Pages that grow together pass through class after class.
        if class.owners.len() * 4 < class.owners.capacity() {
            class.owners.shrink_to(class.owners.len() * 2);
        }
        debug_assert!(place <= last, "a page is given back once");
        let moved = (place != last).then(|| {
            memory.arena.copy_lines(last_line, line as usize, buckets);
            class.owners[place]
        });
        debug_assert!(moved != Some(owner));
        if last.is_multiple_of(per_segment) {
            let emptied = class.segments.pop().unwrap_or(NO_SEGMENT);
            memory.segments.give(emptied);
        }
        moved
    }

    /// Bytes of heap beside the arena.
    pub(super) fn heap_bytes(&self) -> usize {
        let bytes = |class: &Class| class.segments.capacity() * 4 + class.owners.capacity() * size_of::<PageOwner>();
        self.classes.iter().map(bytes).sum()
    }
}

impl Class {
    fn line(&self, place: usize, buckets: usize) -> usize {
        let per_segment = SEGMENT_LINES / buckets;
        self.segments[place / per_segment] as usize * SEGMENT_LINES + place % per_segment * buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_room_for_what_it_was_asked_for() {
        for entries in 0..=capacity(PAGE_BUCKETS_MAX) {
            let buckets = buckets_for(entries);
            assert!(capacity(buckets) >= entries, "{entries} entries in {buckets} buckets");
            assert!(CLASS_BUCKETS.contains(&(buckets as u16)));
        }
    }

    #[test]
    fn classes_step_by_an_eighth_at_most_once_pages_have_eight_buckets() {
        for pair in CLASS_BUCKETS.windows(2).filter(|pair| pair[0] >= 8) {
            assert!(pair[1] * 8 <= pair[0] * 9, "{pair:?}");
        }
    }
}
