//! How fast a core streams vnodes: so many bytes in a time, and few vnodes at once.
//!
//! What it sends and what it takes in is one account, so that neither a node that gives much away nor one that is given
//! much forgets its requests. A slice may overdraw the account; nothing goes until it is filled again.

use std::collections::BTreeSet;

use super::limits::{MOVE_BANDWIDTH_DEFAULT, SLICE_BURST_MS, SLICE_BYTES_MIN, SLICE_BYTES_PER_TURN_MAX, STREAMS_MAX};
use crate::time::Instant;

/// One core's account.
pub(super) struct Pace {
    bytes_per_sec: u64,
    /// Bytes that may go now; below zero, what was overdrawn.
    bytes: i64,
    since: Instant,
    /// Bytes of slices that may still be sent this turn.
    turn_bytes: usize,
    /// Vnodes that are being sent.
    streams: BTreeSet<u16>,
}

impl Pace {
    pub(super) fn new() -> Self {
        let streams = BTreeSet::new();
        Self { bytes_per_sec: MOVE_BANDWIDTH_DEFAULT, bytes: 0, since: Instant::ORIGIN, turn_bytes: 0, streams }
    }

    pub(super) fn set_bandwidth(&mut self, bytes_per_sec: u64) {
        self.bytes_per_sec = bytes_per_sec;
    }

    /// A turn begins. Time that was not used is not saved up.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        let passed_ms = now.since(self.since).as_millis().min(SLICE_BURST_MS);
        self.since = now;
        let in_ms = |ms: u64| i64::try_from(ms.saturating_mul(self.bytes_per_sec) / 1000).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add(in_ms(passed_ms)).min(in_ms(SLICE_BURST_MS));
        self.turn_bytes = SLICE_BYTES_PER_TURN_MAX;
    }

    /// Whether the account is not empty.
    pub(super) fn has_room(&self) -> bool {
        self.bytes > 0
    }

    /// Whether a slice may be sent now.
    pub(super) fn may_send(&self) -> bool {
        self.has_room() && self.turn_bytes > 0
    }

    /// A slice of so many bytes is sent.
    pub(super) fn send(&mut self, bytes: usize) {
        self.turn_bytes = self.turn_bytes.saturating_sub(bytes.max(SLICE_BYTES_MIN));
        self.receive(bytes);
    }

    /// A slice of so many bytes has come.
    pub(super) fn receive(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub_unsigned(bytes as u64);
    }

    /// Whether `vnode` is among the few that are sent; it becomes one of them where there is a place.
    pub(super) fn admit(&mut self, vnode: u16) -> bool {
        let has_place = self.streams.len() < STREAMS_MAX;
        self.streams.contains(&vnode) || (has_place && self.streams.insert(vnode))
    }

    /// The vnodes that are not sent any more leave their places.
    pub(super) fn retain(&mut self, is_sent: impl FnMut(&u16) -> bool) {
        self.streams.retain(is_sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn over_a_second_it_lets_as_much_through_as_it_should_in_both_directions_together() {
        let mut pace = Pace::new();
        pace.set_bandwidth(10_000_000);
        let mut now = Instant::from_millis(5_000);
        let mut bytes = 0;
        for turn in 0..1000 {
            now = now + Duration::from_millis(1);
            pace.begin_turn(now);
            while pace.may_send() {
                if turn % 2 == 0 {
                    pace.send(64 << 10);
                } else {
                    pace.receive(64 << 10);
                }
                bytes += 64 << 10;
            }
        }
        assert!((9_900_000..10_200_000).contains(&bytes), "{bytes}");
        // What was overdrawn is paid first.
        pace.begin_turn(now + Duration::from_secs(1800));
        pace.begin_turn(now + Duration::from_secs(3600));
        assert_eq!(pace.bytes, 100_000, "a pause is worth {SLICE_BURST_MS} ms");
    }

    #[test]
    fn few_vnodes_are_sent_at_once_and_few_bytes_a_turn() {
        let mut pace = Pace::new();
        pace.begin_turn(Instant::from_millis(5_000));
        let sent = std::iter::from_fn(|| pace.may_send().then(|| pace.send(1)));
        assert_eq!(sent.count(), SLICE_BYTES_PER_TURN_MAX / SLICE_BYTES_MIN);
        pace.begin_turn(Instant::from_millis(5_010));
        let sent = std::iter::from_fn(|| pace.may_send().then(|| pace.send(64 << 10)));
        assert_eq!(sent.count(), SLICE_BYTES_PER_TURN_MAX / (64 << 10));
        let places = STREAMS_MAX as u16;
        assert!((0..places).all(|vnode| pace.admit(vnode)) && pace.admit(0) && !pace.admit(places));
        pace.retain(|vnode| *vnode != 0);
        assert!(pace.admit(places));
    }
}
