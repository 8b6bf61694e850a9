//! Expiry: when each segment is worth a look.
//!
//! Every segment knows the earliest and the latest expiry within it. It is due when all of it has ended, or, where ends
//! lie far apart, in steps, so that ended items are found within a second (within a sixteenth of the span, at most a minute, where that is longer).
//! A table of due times, one small number each, is scanned a few times a second in bounded pieces. The soonest of each piece
//! is kept beside it, so what is due first is found at once. Reads don't depend on any of this: they check the item's own
//! expiry.

use super::segments::SegmentId;

/// Resolution of due times: 128 ms. Coarser frees memory later, finer scans more often.
const TICK_BITS: u32 = 7;
/// A segment that ends over a longer time is looked at in steps of at least this.
const STEP_MS_MIN: u64 = 512;
/// ... and of at least this part of the time it ends over: each item is passed by that often at most.
const STEP_PART: u64 = 16;
/// ... and at most this: a look costs a few nanoseconds an item, once a minute that is nothing.
const STEP_MS_MAX: u64 = 1 << 16;
const NOT_DUE: u32 = u32::MAX;

/// Segments of one piece, which is looked at in one step of a scan: 1 KiB of due times, well under a microsecond.
const PIECE_SEGMENTS: usize = 256;

/// The due times of all segments.
pub(super) struct Expiry {
    due_ticks: Vec<u32>,
    /// The least of each piece of them.
    soonest_ticks: Vec<u32>,
    /// Where the current scan goes on; past the end when it is complete.
    cursor: usize,
    scanned_tick: u32,
}

/// What one step of a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// This segment is due.
    Due(SegmentId),
    /// Nothing yet; the scan goes on.
    More,
    /// The scan is complete, the next one is not due.
    Complete,
}

impl Expiry {
    /// Nothing is due in `segments` segments.
    pub(super) fn new(segments: usize) -> Self {
        let pieces = (segments + 1).div_ceil(PIECE_SEGMENTS);
        Self {
            due_ticks: vec![NOT_DUE; segments + 1],
            soonest_ticks: vec![NOT_DUE; pieces],
            cursor: usize::MAX,
            scanned_tick: 0,
        }
    }

    /// What is in the segment ends between `earliest_ms` and `latest_ms`.
    #[inline]
    pub(super) fn schedule(&mut self, id: SegmentId, earliest_ms: u64, latest_ms: u64) {
        let step_ms = ((latest_ms - earliest_ms) / STEP_PART).clamp(STEP_MS_MIN, STEP_MS_MAX);
        let due_ms = latest_ms.min(earliest_ms.saturating_add(step_ms));
        self.put(id, tick_after(due_ms));
    }

    /// Nothing in the segment ends.
    pub(super) fn cancel(&mut self, id: SegmentId) {
        self.put(id, NOT_DUE);
    }

    /// The segment that is due first.
    pub(super) fn soonest(&self) -> Option<SegmentId> {
        let (piece, tick) = self.soonest_ticks.iter().enumerate().min_by_key(|(_, tick)| **tick)?;
        let start = piece * PIECE_SEGMENTS;
        let place = self.due_ticks[start..].iter().position(|due| due == tick)?;
        (*tick != NOT_DUE).then_some((start + place) as SegmentId)
    }

    #[inline]
    fn put(&mut self, id: SegmentId, tick: u32) {
        let before = std::mem::replace(&mut self.due_ticks[id as usize], tick);
        let piece = id as usize / PIECE_SEGMENTS;
        let soonest = &mut self.soonest_ticks[piece];
        if tick <= *soonest {
            *soonest = tick;
        } else if before == *soonest {
            let end = ((piece + 1) * PIECE_SEGMENTS).min(self.due_ticks.len());
            let ticks = self.due_ticks[piece * PIECE_SEGMENTS..end].iter();
            *soonest = ticks.min().copied().unwrap_or(NOT_DUE);
        }
    }

    /// Goes on with the scan, over segments below `fresh`, or begins the next one when a tick has passed.
    pub(super) fn scan(&mut self, now_ms: u64, fresh: SegmentId) -> Scan {
        let tick = tick_before(now_ms);
        if self.cursor >= fresh as usize {
            if tick == self.scanned_tick {
                return Scan::Complete;
            }
            (self.cursor, self.scanned_tick) = (0, tick);
        }
        let piece = self.cursor / PIECE_SEGMENTS;
        let end = ((piece + 1) * PIECE_SEGMENTS).min(fresh as usize);
        let is_due = self.soonest_ticks[piece] <= tick;
        match is_due.then(|| self.due_ticks[self.cursor..end].iter().position(|due| *due <= tick)).flatten() {
            Some(place) => {
                let id = self.cursor + place;
                self.cursor = id + 1;
                Scan::Due(id as SegmentId)
            }
            None => {
                self.cursor = end;
                // A scan that began at an earlier tick has not seen what came due since.
                if end == fresh as usize && self.scanned_tick == tick { Scan::Complete } else { Scan::More }
            }
        }
    }
}

fn tick_before(ms: u64) -> u32 {
    u32::try_from(ms >> TICK_BITS).unwrap_or(NOT_DUE - 1).min(NOT_DUE - 1)
}

fn tick_after(ms: u64) -> u32 {
    u32::try_from((ms >> TICK_BITS) + 1).unwrap_or(NOT_DUE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a search from end to end, with more segments than one piece.
        #[test]
        fn the_soonest_is_found_wherever_it_is(
            changes in prop::collection::vec((1..=5000u32, prop::option::weighted(0.7, 0..1_000_000u64)), 1..100),
        ) {
            let mut expiry = Expiry::new(5000);
            for (id, due_ms) in changes {
                let id = id / 64 * 64 + 1;
                match due_ms {
                    Some(due_ms) => expiry.schedule(id, due_ms, due_ms),
                    None => expiry.cancel(id),
                }
                let soonest = expiry.due_ticks.iter().min().filter(|tick| **tick != NOT_DUE);
                prop_assert_eq!(expiry.soonest().map(|id| &expiry.due_ticks[id as usize]), soonest);
            }
        }
    }

    #[test]
    fn a_segment_is_found_due_within_two_ticks_of_its_end_and_not_before() {
        let mut expiry = Expiry::new(1000);
        expiry.schedule(700, 5000, 5000);
        let mut found = None;
        for now_ms in 0..6000 {
            loop {
                match expiry.scan(now_ms, 1001) {
                    Scan::Due(id) => {
                        assert_eq!(id, 700);
                        expiry.cancel(id);
                        found = Some(now_ms);
                    }
                    Scan::More => {}
                    Scan::Complete => break,
                }
            }
        }
        assert!((5000..5256).contains(&found.unwrap_or(0)), "{found:?}");
    }
}
