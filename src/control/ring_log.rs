//! The ring's changes, told: lines in the log, and counters.
//!
//! The leader's node tells everything; the others what is grave, and the rest to whoever listens at `debug`. So a cluster's
//! log has each event once where all is well. What happened is found by comparing rings (`cluster::events`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cluster::events::{Happened, RingEvent, between};
use crate::cluster::leader::Known;
use crate::cluster::{NodeRef, Ring};
use crate::time::Instant;

/// Vnodes that a line names.
const VNODES_NAMED_MAX: usize = 8;

/// What has happened to vnodes that are this node's now. Over all nodes they add up: each vnode has one primary.
#[derive(Debug, Default)]
pub(super) struct RingCounters {
    pub failovers: AtomicU64,
    pub moves: AtomicU64,
    pub lost: AtomicU64,
}

/// The last ring, and who is missing since when.
pub(super) struct RingLog {
    own: NodeRef,
    ring: Option<Arc<Ring>>,
    lost_since: BTreeMap<NodeRef, Instant>,
    counters: Arc<RingCounters>,
}

impl RingLog {
    pub(super) fn new(own: NodeRef, counters: Arc<RingCounters>) -> Self {
        Self { own, ring: None, lost_since: BTreeMap::new(), counters }
    }

    /// Who is registered may have changed.
    pub(super) fn look(&mut self, now: Instant, known: &Known) {
        let Some(ring) = &self.ring else { return };
        let is_registered = |node: NodeRef| known.registrations.get(&node.id).is_some_and(|it| it.node == node);
        self.lost_since.retain(|node, _| ring.slot_of(*node).is_some() && !is_registered(*node));
        for member in ring.slots.iter().flatten().filter(|member| !is_registered(member.node)) {
            self.lost_since.entry(member.node).or_insert_with(|| {
                tracing::warn!(node = member.name, address = member.address, "a node of the cluster is gone");
                now
            });
        }
    }

    /// A newer ring.
    pub(super) fn take(&mut self, now: Instant, ring: &Arc<Ring>, known: &Known, leads: bool) {
        let before = self.ring.replace(Arc::clone(ring));
        let Some(before) = before else {
            let nodes = ring.slots.iter().flatten().count();
            tracing::info!(epoch = ring.epoch, nodes, vnodes = ring.vnodes.len(), "the ring, as it is found");
            return;
        };
        self.tell_nodes(&before, ring, leads);
        let is_registered = |node: NodeRef| known.registrations.get(&node.id).is_some_and(|it| it.node == node);
        for event in between(&before, ring, is_registered) {
            if event.to == self.own {
                self.count(&event);
            }
            self.tell(now, &before, ring, &event, leads);
        }
    }

    fn tell_nodes(&self, before: &Ring, ring: &Ring, leads: bool) {
        if !leads {
            tracing::debug!(epoch = ring.epoch, "a new ring");
            return;
        }
        let members = |ring: &Ring| -> BTreeMap<NodeRef, (String, bool, u16)> {
            let members = ring.slots.iter().flatten();
            members.map(|it| (it.node, (it.name.clone(), it.draining, it.weight))).collect()
        };
        let (old, new) = (members(before), members(ring));
        for (node, (name, draining, weight)) in &new {
            match old.get(node) {
                None => tracing::info!(epoch = ring.epoch, node = name, weight, "a node has joined"),
                Some((_, was_draining, _)) if was_draining != draining => {
                    tracing::info!(epoch = ring.epoch, node = name, draining, "a node is drained, or not any more");
                }
                Some((_, _, other)) if other != weight => {
                    tracing::info!(epoch = ring.epoch, node = name, weight, "a node has another weight");
                }
                Some(_) => {}
            }
        }
        for (name, ..) in old.iter().filter(|(node, _)| !new.contains_key(*node)).map(|(_, member)| member) {
            tracing::info!(epoch = ring.epoch, node = name, "a node has left the ring");
        }
    }

    fn count(&self, event: &RingEvent) {
        let counter = match event.happened {
            Happened::Lost => &self.counters.lost,
            Happened::FailedOver => &self.counters.failovers,
            Happened::Moved => &self.counters.moves,
            _ => return,
        };
        counter.fetch_add(event.vnodes.len() as u64, Ordering::Relaxed);
    }

    fn tell(&self, now: Instant, before: &Ring, ring: &Ring, event: &RingEvent, leads: bool) {
        let (what, count) = (event.happened.name(), event.vnodes.len());
        let named = &event.vnodes[..count.min(VNODES_NAMED_MAX)];
        let to = name_of(ring, event.to).or_else(|| name_of(before, event.to)).unwrap_or("?");
        let from = event.from.and_then(|from| name_of(before, from)).unwrap_or("-");
        // From when this node heard of the loss.
        let since = event.from.and_then(|from| self.lost_since.get(&from));
        let after_ms = since.map(|since| now.since(*since).as_millis());
        let epoch = ring.epoch;
        match event.happened {
            Happened::Lost if leads || event.to == self.own => {
                tracing::warn!(epoch, what, count, vnodes = ?named, from, to, after_ms, "vnodes begin empty");
            }
            _ if leads => tracing::info!(epoch, what, count, vnodes = ?named, from, to, after_ms, "vnodes"),
            _ => tracing::debug!(epoch, what, count, vnodes = ?named, from, to, after_ms, "vnodes"),
        }
    }
}

fn name_of(ring: &Ring, node: NodeRef) -> Option<&str> {
    ring.slots.iter().flatten().find(|member| member.node == node).map(|member| member.name.as_str())
}
