//! Vnodes that refuse for now: one request asks again, the others wait for what it hears.
//!
//! While a cluster changes, a vnode refuses for a while: it is between two primaries, a copy is missing, its node stops, or
//! is in its next life and knows of no owner. If
//! each of its requests asked again by itself, nodes in trouble would get many times their load; if they shared a budget of
//! retries, most would fail although a later attempt would have succeeded. So one of them, the probe, asks again after
//! waits that grow, and the others, with those that are new, wait here unsent. An answer frees them all, and so does a new
//! topology. Reads and writes of a vnode are held apart: a vnode may serve one and refuse the other.

use std::collections::VecDeque;
use std::time::Duration;

use quoit_wire::Status;

use super::budget::{backoff, jitter};
use super::slab::Key;
use super::{Session, Work};
use crate::error::Error;
use crate::options::{REFUSAL_WAIT_FIRST, REFUSAL_WAIT_MAX};
use crate::time::Instant;

/// What is held: the reads or the writes of one vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HoldKey {
    vnode: usize,
    is_write: bool,
}

/// The requests of a vnode that refuses.
#[derive(Debug)]
pub(super) struct Hold {
    /// The request that asks again: it waits for its moment, or is on its way.
    probe: Key,
    /// The others, in the order they came. Some may have ended in the meantime.
    waiting: VecDeque<Key>,
    /// Refusals in a row.
    count: u32,
    /// The last of them.
    refusal: Refusal,
}

/// A server's answer that it does not carry a request out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) retry_after_ms: u16,
}

impl Refusal {
    /// What a request ends with that got no further than this.
    pub(super) fn to_error(self) -> Error {
        Error::from_status(self.status, self.retry_after_ms, &[])
    }

    /// The wait before the next attempt, after `count` refusals in a row.
    fn wait(self, count: u32, rng: &mut impl rand::Rng) -> Duration {
        let asked = Duration::from_millis(self.retry_after_ms.into());
        let own = backoff(REFUSAL_WAIT_FIRST, REFUSAL_WAIT_MAX, count, rng);
        asked.max(own) + jitter(asked / 2 + Duration::from_millis(1), rng)
    }
}

impl<T> Session<T> {
    /// A request was refused, and nothing changed by this attempt: it is tried again as long as its time allows.
    pub(super) fn refuse(&mut self, key: Key, refusal: Refusal, now: Instant) {
        self.counters.refusals += u64::from(refusal.status != Status::Moved);
        let place = self.hold_key(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.refused();
        entry.refusal = Some(refusal);
        let setbacks = entry.setbacks.into();
        let Some(place) = place else {
            let wait = refusal.wait(setbacks, &mut self.rng);
            return self.try_later(key, wait, now);
        };
        let hold =
            self.holds.entry(place).or_insert_with(|| Hold { probe: key, waiting: VecDeque::new(), count: 0, refusal });
        hold.refusal = refusal;
        if hold.probe == key {
            hold.count = hold.count.saturating_add(1);
            let wait = refusal.wait(hold.count, &mut self.rng);
            self.try_later(key, wait, now);
        } else {
            // It was under way when the first of them was refused.
            hold.waiting.push_back(key);
        }
    }

    /// Keeps an entry back if its vnode refuses for now; `false` when it may be sent.
    pub(super) fn hold_back(&mut self, key: Key) -> bool {
        if self.holds.is_empty() {
            return false;
        }
        let hold = self.hold_key(key).and_then(|place| self.holds.get_mut(&place)).filter(|hold| hold.probe != key);
        let (Some(hold), Some(entry)) = (hold, self.entries.get_mut(key)) else { return false };
        entry.refusal = Some(hold.refusal);
        hold.waiting.push_back(key);
        true
    }

    /// An entry got an answer that is no refusal: if it was a probe, the others may go.
    pub(super) fn end_hold(&mut self, key: Key, now: Instant) {
        if let Some(hold) = self.take_hold_of_probe(key) {
            self.route_all(hold.waiting, now);
        }
    }

    /// The probe, if it is one, was told that its vnode is elsewhere: so are the others'.
    pub(super) fn move_hold(&mut self, told_by: Option<Key>, key: Key, epoch: u64, now: Instant) {
        for waiting in self.take_hold_of_probe(key).into_iter().flat_map(|hold| hold.waiting) {
            self.redirect(told_by, waiting, epoch, now);
        }
    }

    /// An entry ends: if it was a probe, another one asks in its place.
    pub(super) fn pass_probe_on(&mut self, key: Key, now: Instant) {
        if self.holds.is_empty() {
            return;
        }
        let Some(place) = self.hold_key(key) else { return };
        let Some(hold) = self.holds.get_mut(&place).filter(|hold| hold.probe == key) else { return };
        loop {
            match hold.waiting.pop_front() {
                Some(next) if self.entries.get(next).is_some() => {
                    hold.probe = next;
                    return self.try_later(next, Duration::ZERO, now);
                }
                Some(_) => {}
                None => {
                    self.holds.remove(&place);
                    return;
                }
            }
        }
    }

    /// Ends all holds; who waited in them is to be routed anew. Probes that wait for their moment are among those that wait
    /// for a topology.
    pub(super) fn take_held(&mut self) -> impl Iterator<Item = Key> + use<T> {
        std::mem::take(&mut self.holds).into_values().flat_map(|hold| hold.waiting)
    }

    /// Drops what holds still have of entries that have ended.
    pub(super) fn forget_ended_in_holds(&mut self) {
        let entries = &self.entries;
        self.holds.values_mut().for_each(|hold| hold.waiting.retain(|key| entries.get(*key).is_some()));
    }

    /// Routes the entry again after `wait`, or with the next topology; where its time is over before, it ends now.
    pub(super) fn try_later(&mut self, key: Key, wait: Duration, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let at = now + wait;
        if at < entry.deadline {
            entry.waits_for_topology = true;
            self.delayed.insert((at, key));
        } else {
            let error = self.deadline_error(key);
            self.conclude(key, Err(error), now);
        }
    }

    fn take_hold_of_probe(&mut self, key: Key) -> Option<Hold> {
        if self.holds.is_empty() {
            return None;
        }
        let place = self.hold_key(key)?;
        self.holds.get(&place).filter(|hold| hold.probe == key)?;
        self.holds.remove(&place)
    }

    /// What the entry would be held with; nothing for what concerns several vnodes, or none, or any copy.
    fn hold_key(&self, key: Key) -> Option<HoldKey> {
        let (Some(topology), Work::Owner(frame)) = (&self.map.topology, &self.entries.get(key)?.work) else {
            return None;
        };
        // What one copy refuses, another may answer.
        if frame.takes_any_copy() {
            return None;
        }
        Some(HoldKey { vnode: topology.vnode(frame.key()), is_write: frame.operation.is_write() })
    }
}
