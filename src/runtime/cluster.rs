//! A core's part in its cluster: rings, leases and orders come in; once a turn its copies send, replies that have waited
//! leave, and what the leader is to learn goes to the control thread.
//!
//! `Copies` decides all of it, inside the shard. Messages for cores of other nodes leave over the peer links, for other cores
//! of this node over the mesh. What a link can't take stays with the copies, which are bounded; what is for nobody is
//! dropped. What this file leaves out: which replies wait (`held.rs`), how links are made (`peers.rs`).

use std::sync::Arc;

use quoit_wire::RequestHead;
use quoit_wire::peer::PeerMessage;

use super::core::Core;
use super::held::Asker;
use super::limits::{MESH_BATCH_BYTES, PEER_GATHER_TIME, PEER_OUTPUT_BYTES_MAX};
use super::mesh::Batch;
use super::peers::{CoreEvent, PeerAddress};
use crate::cluster::copies::{Peer, Ticket};
use crate::cluster::{Election, NodeRef, Order, Ring};
use crate::time::{Duration, Instant};

/// What a core is to know of its cluster. Of what has a newest one, the newest; of what happens, everything.
#[derive(Debug, Default)]
pub struct ClusterNews {
    /// A newer ring, and who may be talked to under it.
    pub ring: Option<(Arc<Ring>, Arc<[PeerAddress]>)>,
    /// Under which election the cluster is led now: reports of another one are not heard.
    pub election: Option<Election>,
    /// The node's lease stands until then (C5).
    pub lease_until: Option<Instant>,
    /// Orders for this core.
    pub orders: Vec<(Election, Order)>,
    /// Messages between the leader and the nodes, to be sent. One that can't leave is lost: it will be repeated.
    pub messages: Vec<(NodeRef, Vec<u8>)>,
}

impl ClusterNews {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ring.is_none()
            && self.election.is_none()
            && self.lease_until.is_none()
            && self.orders.is_empty()
            && self.messages.is_empty()
    }
}

impl Core {
    /// Takes in what the control thread tells of the cluster.
    pub(super) fn take_cluster_news(&mut self, now: Instant, news: ClusterNews) {
        if let Some((ring, peers)) = &news.ring {
            self.set_peers(peers);
            self.take_ring(now, ring);
        }
        if let Some((copies, mut state)) = self.shard.copies() {
            news.election.into_iter().for_each(|election| copies.handle_election(election));
            news.lease_until.into_iter().for_each(|until| copies.handle_lease(until));
            for (election, order) in &news.orders {
                copies.handle_order(now, &mut state, *election, order);
            }
        }
        for (node, bytes) in &news.messages {
            self.send_to_peer(Peer { node: *node, core: 0 }, |out| PeerMessage::push_control(bytes, out));
        }
    }

    /// What the turn has led to in the cluster; whether anything has. Nothing without a cluster.
    ///
    /// While the core is busy it gathers what copies are to be told, for [`PEER_GATHER_TIME`] at most: on the way to another
    /// node each send costs as much as twenty records.
    pub(super) fn turn_cluster(&mut self, is_busy: bool) -> bool {
        if self.shard.copies().is_none() {
            return false;
        }
        let had_waiting = self.serve_waiting();
        let gathers_since = *self.gathers_since.get_or_insert(self.now);
        let gathers = is_busy && !self.now.is_past(gathers_since, PEER_GATHER_TIME);
        if !gathers {
            self.gathers_since = None;
            self.shard.turn_cluster(self.now.instant());
        }
        self.report();
        let had_any = had_waiting | self.release_replies();
        gathers || had_any | self.send_to_copies()
    }

    /// How long the core may sleep, as far as its cluster is concerned.
    pub(super) fn cluster_pause(&mut self, now: Instant) -> Option<Duration> {
        let (copies, _) = self.shard.copies()?;
        let pause = copies.poll_timeout(now).since(now);
        Some(self.waiting.pause(now).map_or(pause, |waiting| waiting.min(pause)))
    }

    /// Keeps back what `bytes` holds from `start` on, the reply to the request of `head`, until its ticket is released. Cold, so
    /// that a node without a cluster has nothing of it in its way.
    #[cold]
    pub(super) fn hold(&mut self, ticket: Ticket, asker: Asker, head: &RequestHead, bytes: &mut Vec<u8>, start: usize) {
        self.held.keep(ticket, asker, head, &bytes[start..]);
        bytes.truncate(start);
        self.shard.set_may_wait(self.held.has_room());
    }

    /// Copies of another core of this node have said something.
    pub(super) fn on_own_frames(&mut self, core: usize, frames: &[u8]) {
        let Some(identity) = self.peers.identity else { return };
        let from = Peer { node: identity.place.node, core: core as u16 };
        let now = self.now.instant();
        let Some((copies, mut state)) = self.shard.copies() else { return };
        let mut rest = frames;
        while let Ok(Some((message, bytes))) = PeerMessage::decode(rest) {
            // Both are of one program and one cluster: what would be a breach has not been written.
            let heard = copies.handle_message(now, &mut state, from, &message);
            debug_assert!(heard.is_ok(), "{heard:?}");
            rest = &rest[bytes..];
        }
    }

    /// The outgoing link to `peer` is lost, or could not be made.
    pub(super) fn on_link_lost(&mut self, peer: Peer) {
        let now = self.now.instant();
        if let Some((copies, _)) = self.shard.copies() {
            copies.handle_link_lost(now, peer);
        }
    }

    /// Tells the control thread what the leader is to learn. What it has no room for is told again by the copies.
    fn report(&mut self) {
        let Some((copies, _)) = self.shard.copies() else { return };
        let reports: Vec<_> = std::iter::from_fn(|| copies.poll_report()).collect();
        if !reports.is_empty() {
            let event = CoreEvent::Reports { core: self.options.core, reports };
            self.peers.counters.dropped_events += u64::from(self.peers.events.try_send(event).is_err());
        }
    }

    /// Sends the replies whose wait is over; whether there were any.
    fn release_replies(&mut self) -> bool {
        let epoch = self.shard.topology().epoch;
        let mut batches: Vec<(usize, Batch)> = Vec::new();
        let mut had_any = false;
        while let Some((ticket, release)) = self.shard.copies().and_then(|(copies, _)| copies.poll_release()) {
            had_any = true;
            let Some(reply) = self.held.release(ticket, release, epoch) else { continue };
            self.answer(reply.asker, &reply.frame, &mut batches);
            self.held.recycle(reply);
        }
        self.send_batches(batches);
        if had_any {
            self.shard.set_may_wait(self.held.has_room());
        }
        had_any
    }

    /// Sends a reply that has waited to whoever asked; those for other cores are put into `batches`.
    pub(super) fn answer(&mut self, asker: Asker, frame: &[u8], batches: &mut Vec<(usize, Batch)>) {
        match asker {
            Asker::Connection { slot, generation } => self.deliver(slot, generation, frame, true),
            Asker::Gather(key) => self.deliver_part(key, usize::from(self.options.core), frame),
            Asker::Core { core, token, request_bytes } => {
                let place = batches.iter().position(|(known, _)| *known == core).unwrap_or_else(|| {
                    batches.push((core, self.mesh.spare_batch(self.now)));
                    batches.len() - 1
                });
                let batch = &mut batches[place].1;
                batch.open_reply(token, request_bytes);
                batch.bytes.extend_from_slice(frame);
                if batch.bytes.len() >= MESH_BATCH_BYTES {
                    let (core, batch) = batches.swap_remove(place);
                    self.mesh.reply(core, batch);
                }
            }
        }
    }

    /// Sends the replies that [`Self::answer`] has put together for other cores.
    pub(super) fn send_batches(&mut self, batches: Vec<(usize, Batch)>) {
        for (core, batch) in batches {
            self.mesh.reply(core, batch);
        }
    }

    /// Sends what the copies have for others; whether there was anything.
    fn send_to_copies(&mut self) -> bool {
        let Some(own) = self.peers.identity.map(|identity| identity.place) else { return false };
        let mut had_any = false;
        let mut down = Vec::new();
        loop {
            down.clear();
            let (peers, connections, mesh) = (&self.peers, &self.connections, &self.mesh);
            let takes = |peer: Peer| {
                if peer.node == own.node {
                    return mesh.has_frames_room(usize::from(peer.core));
                }
                match peers.slot_of(peer) {
                    Some(slot) => {
                        let connection = connections.get(slot as usize).and_then(Option::as_ref);
                        connection.is_some_and(|connection| connection.unsent_bytes() <= PEER_OUTPUT_BYTES_MAX)
                    }
                    // Of whom no ring tells any more, or not yet: nobody is there to take it.
                    None if !peers.knows(peer) => true,
                    None => {
                        down.push(peer);
                        false
                    }
                }
            };
            let Some((peer, mut bytes)) = self.shard.copies().and_then(|(copies, _)| copies.poll_send(takes)) else {
                break;
            };
            had_any = true;
            if peer.node == own.node {
                self.mesh.send_frames(usize::from(peer.core), bytes);
            } else {
                // Mostly nothing waits on the link: then its buffer and the copies' change places.
                self.send_to_peer(peer, |out| match out.is_empty() {
                    true => std::mem::swap(out, &mut bytes),
                    false => out.extend_from_slice(&bytes),
                });
                if let Some((copies, _)) = self.shard.copies() {
                    copies.recycle(bytes);
                }
            }
        }
        for peer in down {
            self.link_to(peer);
        }
        had_any
    }
}
