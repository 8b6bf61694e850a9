//! Expiry: when each segment is worth a look.
//!
//! Every segment knows the earliest and the latest expiry within it. It is due when all of it has ended, or, where ends
//! lie far apart, in steps, so that ended items are found within a second (within a sixteenth of the span, at most a minute, where that is longer).
//! A table of due times, one small number each, is scanned a few times a second in bounded pieces. Reads don't depend
//! on any of this: they check the item's own expiry.

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

/// Segments looked at in one step of a scan: 1 KiB of due times, well under a microsecond.
const SCAN_STEP_SEGMENTS: usize = 256;

/// The due times of all segments.
pub(super) struct Expiry {
    due_ticks: Vec<u32>,
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
        Self { due_ticks: vec![NOT_DUE; segments + 1], cursor: usize::MAX, scanned_tick: 0 }
    }

    /// What is in the segment ends between `earliest_ms` and `latest_ms`.
    #[inline]
    pub(super) fn schedule(&mut self, id: SegmentId, earliest_ms: u64, latest_ms: u64) {
        let step_ms = ((latest_ms - earliest_ms) / STEP_PART).clamp(STEP_MS_MIN, STEP_MS_MAX);
        let due_ms = latest_ms.min(earliest_ms.saturating_add(step_ms));
        self.due_ticks[id as usize] = tick_after(due_ms);
    }

    /// Nothing in the segment ends.
    pub(super) fn cancel(&mut self, id: SegmentId) {
        self.due_ticks[id as usize] = NOT_DUE;
    }

    /// The segment that is due first among `window` segments from `start` on.
    pub(super) fn soonest(&self, start: SegmentId, window: usize, fresh: SegmentId) -> Option<SegmentId> {
        let start = if start < fresh { start as usize } else { 0 };
        let end = (start + window).min(fresh as usize);
        let wrapped = (start + window - end).min(start);
        let soonest = (start..end).chain(0..wrapped).min_by_key(|id| self.due_ticks[*id])?;
        (self.due_ticks[soonest] != NOT_DUE).then_some(soonest as SegmentId)
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
        let end = (self.cursor + SCAN_STEP_SEGMENTS).min(fresh as usize);
        match self.due_ticks[self.cursor..end].iter().position(|due| *due <= tick) {
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
