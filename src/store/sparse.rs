//! Which segment has the most dead bytes: sealed segments of items, listed by how many of their bytes are dead.
//!
//! ```text
//! class  64 │ all but nothing lives          a bit for each class that holds a segment: the sparsest is found by
//!        …  │ 17 ─ 4 ─ 230                   counting zeroes, however large the arena is
//!         2 │ 9                              within a class, first come first served
//!         1 │ 5 ─ 12                         2 KiB of dead bytes each; with fewer a segment is in no class
//! ```

use super::segments::{NO_SEGMENT, SEGMENT_BYTES, SegmentId};

/// Dead bytes by which classes differ. Smaller: segments change their class more often; larger: what is chosen is less surely
/// the sparsest, and what has fewer dead bytes is never compacted.
const CLASS_BYTES: usize = 2 << 10;
const CLASSES: usize = SEGMENT_BYTES / CLASS_BYTES;
/// Pinned segments that one search passes over.
const PASS_OVER_MAX: usize = 32;

const _: () = assert!(CLASSES == u64::BITS as usize);

/// Segments by their dead bytes.
pub(super) struct Sparse {
    links: Vec<Link>,
    ends: [Ends; CLASSES],
    /// Bit `class - 1` is set when there are segments in the class.
    occupied: u64,
}

/// A segment's place in the list of its class.
#[derive(Clone, Copy, Default)]
struct Link {
    /// From 1; 0 in none.
    class: u8,
    previous: SegmentId,
    next: SegmentId,
}

#[derive(Clone, Copy, Default)]
struct Ends {
    first: SegmentId,
    last: SegmentId,
}

impl Sparse {
    /// No segment among `segments` has dead bytes.
    pub(super) fn new(segments: usize) -> Self {
        Self { links: vec![Link::default(); segments + 1], ends: [Ends::default(); CLASSES], occupied: 0 }
    }

    /// A segment has `dead_bytes` dead bytes from now on.
    #[inline]
    pub(super) fn set(&mut self, id: SegmentId, dead_bytes: usize) {
        let class = (dead_bytes / CLASS_BYTES) as u8;
        if self.links[id as usize].class != class {
            self.unlist(id);
            self.list(id, class);
        }
    }

    /// A segment is not to be found any more.
    #[inline]
    pub(super) fn forget(&mut self, id: SegmentId) {
        if self.links[id as usize].class != 0 {
            self.unlist(id);
        }
    }

    /// A segment of the class with the most dead bytes, at least `dead_bytes_min` of them, that is not passed over.
    pub(super) fn sparsest(
        &self,
        dead_bytes_min: usize,
        mut is_passed_over: impl FnMut(SegmentId) -> bool,
    ) -> Option<SegmentId> {
        let class_min = dead_bytes_min.div_ceil(CLASS_BYTES).max(1);
        let mut candidates = self.occupied & (u64::MAX << (class_min - 1).min(CLASSES - 1));
        let mut passed_over = 0;
        while candidates != 0 {
            let place = candidates.ilog2() as usize;
            candidates &= !(1 << place);
            let mut id = self.ends[place].first;
            while id != NO_SEGMENT {
                if !is_passed_over(id) {
                    return Some(id);
                }
                passed_over += 1;
                if passed_over == PASS_OVER_MAX {
                    return None;
                }
                id = self.links[id as usize].next;
            }
        }
        None
    }

    fn list(&mut self, id: SegmentId, class: u8) {
        if class == 0 {
            return;
        }
        let ends = &mut self.ends[usize::from(class) - 1];
        let previous = std::mem::replace(&mut ends.last, id);
        match previous {
            NO_SEGMENT => ends.first = id,
            previous => self.links[previous as usize].next = id,
        }
        self.links[id as usize] = Link { class, previous, next: NO_SEGMENT };
        self.occupied |= 1 << (class - 1);
    }

    fn unlist(&mut self, id: SegmentId) {
        let Link { class, previous, next } = std::mem::take(&mut self.links[id as usize]);
        if class == 0 {
            return;
        }
        let ends = &mut self.ends[usize::from(class) - 1];
        match previous {
            NO_SEGMENT => ends.first = next,
            previous => self.links[previous as usize].next = next,
        }
        match next {
            NO_SEGMENT => ends.last = previous,
            next => self.links[next as usize].previous = previous,
        }
        if ends.first == NO_SEGMENT {
            self.occupied &= !(1 << (class - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain table that is searched from end to end, with more segments than any window would hold.
        #[test]
        fn the_sparsest_is_found_wherever_it_is(
            changes in prop::collection::vec((1..=6000u32, 0..=SEGMENT_BYTES), 1..200),
            passed_over in 1..=6000u32,
            dead_bytes_min in 1..SEGMENT_BYTES,
        ) {
            let mut sparse = Sparse::new(6100);
            let mut table = vec![0; 6101];
            for (id, dead_bytes) in changes {
                // Few enough that some change again, far enough apart that they are all over the arena.
                let id = id / 100 * 100 + 1;
                match dead_bytes % 7 {
                    0 => (sparse.forget(id), table[id as usize] = 0).0,
                    _ => (sparse.set(id, dead_bytes), table[id as usize] = dead_bytes).0,
                }
                let is_passed_over = |id: SegmentId| id == passed_over / 100 * 100 + 1;
                let class_of = |dead_bytes: usize| dead_bytes / CLASS_BYTES;
                let eligible = table.iter().enumerate().filter(|(id, _)| !is_passed_over(*id as SegmentId));
                let most = eligible.map(|(_, dead_bytes)| class_of(*dead_bytes)).max().unwrap_or(0);
                let most = Some(most).filter(|class| *class >= dead_bytes_min.div_ceil(CLASS_BYTES).max(1));
                let found = sparse.sparsest(dead_bytes_min, is_passed_over);
                prop_assert_eq!(found.map(|id| class_of(table[id as usize])), most);
            }
        }
    }

    #[test]
    fn of_equals_the_first_comes_first_and_few_are_passed_over() {
        let mut sparse = Sparse::new(100);
        for id in 1..=40 {
            sparse.set(id, SEGMENT_BYTES / 2);
        }
        assert_eq!(sparse.sparsest(SEGMENT_BYTES / 64, |_| false), Some(1));
        assert_eq!(sparse.sparsest(SEGMENT_BYTES / 64, |id| id < PASS_OVER_MAX as SegmentId), Some(32));
        assert_eq!(sparse.sparsest(SEGMENT_BYTES / 64, |id| id <= PASS_OVER_MAX as SegmentId), None);
        assert_eq!(sparse.sparsest(SEGMENT_BYTES, |_| false), None);
    }
}
