//! Which vnodes change their primary now: a few together, then a pause, so that those who use them don't feel it.
//!
//! From the order to move until the ring that ends it, the requests of a vnode wait. Batches keep that time short, because
//! one write of the ring ends all of a batch as soon as all are ready; and few of the requests wait at any moment, because
//! batches are small. Where the next one begins goes round, so that moves that can't end stand in nobody's way.

use std::collections::BTreeMap;

use crate::time::{Duration, Instant};

/// One in so many vnodes may be between two primaries at a time. More: so many requests wait at once that callers with few
/// of them under way have all of those waiting (measured: 256 requests under way, 700,000 a second, four of 1024 vnodes
/// sealed for 75 ms hold up 205 of them). Fewer: a join takes longer.
const VNODES_PER_MOVE: usize = 512;
/// As many may in any case, in clusters of few vnodes.
const MOVING_MIN: usize = 2;
/// Between two batches. Shorter: more requests of a second wait, more rings a second are told to every client; longer: a
/// join takes longer. A third of all vnodes is 171 batches.
const MOVE_PAUSE: Duration = Duration::from_millis(50);
/// A batch that has not ended by then (a source is frozen or cut off) does not hold up the next one.
const BATCH_TIME_MAX: Duration = Duration::from_secs(1);

/// The moves that are under way.
#[derive(Debug)]
pub(super) struct Moves {
    /// The vnodes of the batch, each with the term that is to end.
    batch: BTreeMap<u32, u32>,
    began: Instant,
    /// No batch begins before.
    next: Instant,
    /// The first vnode that the next batch may have.
    cursor: u32,
}

impl Moves {
    pub(super) fn new(now: Instant) -> Self {
        Self { batch: BTreeMap::new(), began: now, next: now, cursor: 0 }
    }

    /// Whether the vnode is to move now.
    pub(super) fn has(&self, vnode: u32) -> bool {
        self.batch.contains_key(&vnode)
    }

    /// When a batch may begin.
    pub(super) fn due(&self) -> Instant {
        let overdue = if self.batch.is_empty() { self.next } else { self.began + BATCH_TIME_MAX };
        overdue.max(self.next)
    }

    /// Begins a batch of those that can move, of `vnodes` in all: each with its term, in the order of their numbers.
    pub(super) fn begin(&mut self, now: Instant, vnodes: usize, movable: &[(u32, u32)]) {
        let moving_max = (vnodes / VNODES_PER_MOVE).max(MOVING_MIN).min(movable.len());
        let first = movable.partition_point(|(vnode, _)| *vnode < self.cursor);
        let batch = movable.iter().copied().cycle().skip(first).take(moving_max);
        self.cursor = batch.clone().last().map_or(0, |(vnode, _)| vnode + 1);
        self.batch = batch.collect();
        self.began = now;
        self.next = now + MOVE_PAUSE;
    }

    /// Those that are over, or not wanted any more, leave the batch; with the last of them begins the pause.
    pub(super) fn settle(&mut self, now: Instant, is_on: impl Fn(u32, u32) -> bool) {
        if self.batch.is_empty() {
            return;
        }
        self.batch.retain(|vnode, term| is_on(*vnode, *term));
        if self.batch.is_empty() {
            self.next = now + MOVE_PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(5_000);

    #[test]
    fn the_next_batch_goes_on_where_the_last_one_ended_after_a_pause() {
        let mut moves = Moves::new(START);
        let movable: Vec<(u32, u32)> = (0..10).map(|vnode| (vnode, 7)).collect();
        assert_eq!(moves.due(), START);
        moves.begin(START, 4 * VNODES_PER_MOVE, &movable);
        assert!((0..4).all(|vnode| moves.has(vnode)) && !moves.has(4));
        assert_eq!(moves.due(), START + BATCH_TIME_MAX, "it may have stuck");
        moves.settle(START, |vnode, _| vnode == 3);
        assert!(moves.has(3) && !moves.has(2));
        moves.settle(START + MOVE_PAUSE, |_, _| false);
        assert_eq!(moves.due(), START + MOVE_PAUSE + MOVE_PAUSE);
        moves.begin(START, 4 * VNODES_PER_MOVE, &movable[3..]);
        assert!((4..8).all(|vnode| moves.has(vnode)));
        moves.begin(START, 4 * VNODES_PER_MOVE, &movable);
        assert!([8, 9, 0, 1].iter().all(|vnode| moves.has(*vnode)), "and round");
        moves.begin(START, 4 * VNODES_PER_MOVE, &[]);
        assert!((0..10).all(|vnode| !moves.has(vnode)));
    }
}
