//! What nodes ask of etcd, what it answers, and what their watches are told.

use std::sync::Arc;

use rand::RngExt;

use super::super::network::Place;
use super::super::node::Watch;
use super::{Event, World};
use crate::cluster::etcd::{EtcdRequest, WatchEvent};
use crate::cluster::records::Keys;
use crate::cluster::{NodeRef, Registration};
use crate::time::Instant;

impl World {
    pub(super) fn send_to_etcd(&mut self, by: NodeRef, ticket: u64, request: EtcdRequest) {
        let (place, now_us) = (Place::Node(by.id), self.now_us);
        if matches!(request, EtcdRequest::Watch { .. })
            && let Some((_, node)) = self.life(by)
        {
            node.watches += 1;
            node.watch = Some(Watch { number: node.watches, told: usize::MAX, promised: usize::MAX });
        }
        if let Some(mut at_us) = self.network.arrivals(&mut self.random, now_us, place, Place::Etcd)[0] {
            if is_put_on_disk(&request) {
                at_us = self.disk_stalled_until_us.max(at_us + self.random.random_range(0..=self.network.disk_slow_us));
            }
            self.at(at_us, Event::EtcdAsked { by, ticket, request });
        } else if matches!(request, EtcdRequest::Watch { .. })
            && let Some((_, node)) = self.life(by)
        {
            let number = node.watches;
            self.at(now_us + 200_000, Event::WatchBroken { to: by, number });
        }
    }

    pub(super) fn ask_etcd(&mut self, by: NodeRef, ticket: u64, request: &EtcdRequest) {
        if let EtcdRequest::Watch { from_revision, .. } = request {
            let place = self.etcd.place_of(*from_revision);
            if let Some((_, node)) = self.life(by)
                && let Some(watch) = &mut node.watch
            {
                (watch.told, watch.promised) = (place, place);
            }
            return self.after_etcd();
        }
        let response = self.etcd.execute(Instant::from_millis(self.now_us / 1000), request);
        self.after_etcd();
        let place = Place::Node(by.id);
        if let Some(at_us) = self.network.arrivals(&mut self.random, self.now_us, Place::Etcd, place)[0] {
            self.at(at_us, Event::EtcdAnswered { to: by, ticket, response });
        }
    }

    /// Looks at what is new in etcd: watches are told, and the world learns of rings and losses.
    pub(super) fn after_etcd(&mut self) {
        let keys = Keys::new("simulated");
        let new = self.etcd_events..self.etcd.events.len();
        self.etcd_events = new.end;
        let (mut has_ring, mut lost) = (false, Vec::new());
        for event in &self.etcd.events[new] {
            match event {
                WatchEvent::Put(entry) => {
                    has_ring |= entry.key == keys.head();
                    if entry.key.starts_with(&keys.nodes()) {
                        let registration = Registration::from_bytes(&entry.value).expect("its own bytes");
                        self.registered.insert(entry.key.clone(), registration.node);
                    }
                }
                WatchEvent::Delete { key, .. } => lost.extend(self.registered.remove(key)),
                WatchEvent::Closed => {}
            }
        }
        lost.into_iter().for_each(|node| self.note_loss(node));
        if has_ring {
            let ring = keys.ring(|key| self.etcd.entries.get(key).map(|entry| entry.value.as_slice()));
            if let Ok(Some(ring)) = ring {
                self.note_ring(Arc::new(ring));
            }
        }
        let upto = self.etcd.events.len();
        let behind = self.nodes.values_mut().filter_map(|node| {
            let watch = node.watch.as_mut().filter(|watch| watch.promised < upto)?;
            watch.promised = upto;
            Some((node.me, watch.number))
        });
        for (to, number) in behind.collect::<Vec<_>>() {
            let stale_us = self.random.random_range(0..=self.network.etcd_stale_us);
            let place = Place::Node(to.id);
            match self.network.arrivals(&mut self.random, self.now_us, Place::Etcd, place)[0] {
                Some(at_us) => self.at(at_us + stale_us, Event::Watched { to, number, upto }),
                None => self.at(self.now_us + 500_000, Event::WatchBroken { to, number }),
            }
        }
    }

    pub(super) fn tell_watch(&mut self, to: NodeRef, number: u64, upto: usize) {
        let Some((now, node)) =
            self.nodes.get_mut(&to.id).filter(|node| node.me == to).map(|node| (node.clock.now(self.now_us), node))
        else {
            return;
        };
        let Some(watch) = node.watch.as_mut().filter(|watch| watch.number == number && watch.told < upto) else {
            return;
        };
        let from = std::mem::replace(&mut watch.told, upto);
        node.agent.handle_watch(now, self.etcd.events[from..upto].to_vec());
        self.agent_turn(to);
    }
}

/// Whether etcd answers only once its log is on its disk. Keep-alives and reads do not wait for that.
fn is_put_on_disk(request: &EtcdRequest) -> bool {
    matches!(
        request,
        EtcdRequest::Transaction { .. } | EtcdRequest::LeaseGrant { .. } | EtcdRequest::LeaseRevoke { .. }
    )
}
