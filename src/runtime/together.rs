//! Replies that were released leave together with those that are about to be.
//!
//! The requests that a client sends together wait for different copies. If each of their replies left as soon as it may, the
//! client would ask for the next ones in smaller and smaller pieces, and each piece costs a send and a receive on both sides.
//! So a connection of which some replies are released and others still wait sends nothing for a while: until it has all of
//! them, or something else to send, or the time is over. Others' replies wait for nothing here.

use std::time::Duration;

use super::clock::Reading;
use super::limits::REPLY_GATHER_TIME;

/// The connections of a core that wait for more of their replies.
#[derive(Debug, Default)]
pub(super) struct Together {
    slots: Vec<u32>,
    /// Since when the first of them has waited.
    since: Reading,
}

impl Together {
    /// A connection that is not among them waits from now on.
    pub(super) fn add(&mut self, slot: u32, now: Reading) {
        if self.slots.is_empty() {
            self.since = now;
        }
        self.slots.push(slot);
    }

    /// Forgets those of which `is_waiting` says that they wait no longer; returns the others if their time is over.
    pub(super) fn take_due(&mut self, now: Reading, is_waiting: impl FnMut(&u32) -> bool) -> Vec<u32> {
        self.slots.retain(is_waiting);
        if self.slots.is_empty() || !now.is_past(self.since, REPLY_GATHER_TIME) {
            return Vec::new();
        }
        std::mem::take(&mut self.slots)
    }

    /// Whether nobody waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The time after which [`Self::take_due`] has something to return; none while nobody waits.
    pub(super) fn pause(&self, now: Reading) -> Option<Duration> {
        let passed = Duration::from_nanos(now.nanos_since(self.since));
        (!self.is_empty()).then(|| REPLY_GATHER_TIME.saturating_sub(passed))
    }

    /// As if the first of them had begun to wait then.
    #[cfg(test)]
    pub(super) fn wait_since(&mut self, since: Reading) {
        self.since = since;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_due_after_its_time_and_who_has_left_is_not() {
        let start = Reading::default().plus_nanos(1_000_000);
        let after = |time: Duration| start.plus_nanos(time.as_nanos() as u64);
        let mut together = Together::default();
        assert_eq!((together.pause(start), together.take_due(start, |_| true)), (None, Vec::new()));
        (1..=3).for_each(|slot| together.add(slot, start));
        let half = REPLY_GATHER_TIME / 2;
        assert_eq!(together.pause(after(half)), Some(REPLY_GATHER_TIME - half));
        assert!(together.take_due(after(half), |slot| *slot != 2).is_empty());
        assert_eq!(together.pause(after(2 * REPLY_GATHER_TIME)), Some(Duration::ZERO));
        assert_eq!(together.take_due(after(REPLY_GATHER_TIME), |_| true), [1, 3]);
        // When all have left, the next one's time begins with it.
        together.add(4, after(REPLY_GATHER_TIME));
        assert!(together.take_due(after(REPLY_GATHER_TIME), |_| false).is_empty());
        together.add(5, after(2 * REPLY_GATHER_TIME));
        assert_eq!(together.pause(after(2 * REPLY_GATHER_TIME)), Some(REPLY_GATHER_TIME));
    }
}
