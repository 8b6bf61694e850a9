//! Nodes live: their cores and agents take turns, and what they say to each other is carried.

use quoit_wire::peer::PeerMessage;
use quoit_wire::topology::Seat;
use rand::RngExt;

use super::super::clock::Clock;
use super::super::history::Loss;
use super::super::network::{Noise, Place};
use super::super::node::{CORES, Core, Node, ToCore};
use super::{Event, World};
use crate::cluster::agent::News;
use crate::cluster::copies::Peer;
use crate::cluster::{Election, NodeRef, Order, Report};
use crate::time::Instant;

/// A core that hears nothing turns this often, as a parked one does.
const TURN_US_MAX: u64 = 20_000;
/// From an input to the turn that ends with it: what comes meanwhile is part of the turn.
pub(super) const TURN_US: u64 = 100;
const AGENT_TURN_US_MAX: u64 = 100_000;
/// What a node tells itself takes up to so long.
const LOCAL_US_MAX: u64 = 2_000;

impl World {
    /// This life of a node, with its clock's time, if it is still lived.
    pub(in super::super) fn life(&mut self, me: NodeRef) -> Option<(Instant, &mut Node)> {
        let now_us = self.now_us;
        let node = self.nodes.get_mut(&me.id).filter(|node| node.me == me)?;
        Some((node.clock.now(now_us), node))
    }

    pub(super) fn core(&mut self, peer: Peer) -> Option<(Instant, &mut Core)> {
        let (now, node) = self.life(peer.node)?;
        Some((now, node.cores.get_mut(usize::from(peer.core))?))
    }

    /// A node comes up: another life than its last one.
    pub(in super::super) fn start(&mut self, id: u64) {
        if self.nodes.contains_key(&id) {
            return;
        }
        self.lives += 1;
        let me = NodeRef { id, incarnation: if self.is_role_kept { 1 } else { self.lives } };
        let drift_ppm = self.random.random_range(-10_000..10_000);
        let clock = Clock::new(self.now_us, self.random.random_range(1_000_000..1_000_000_000), drift_ppm);
        self.nodes.insert(id, Node::new(self.plan, me, self.now_us, clock));
        self.note(|| format!("node {id} starts as {}", me.incarnation));
        (0..CORES).for_each(|core| self.turn_soon(Peer { node: me, core }, TURN_US));
        self.agent_turn(me);
    }

    /// A node is no more, and all it had.
    pub(in super::super) fn crash(&mut self, id: u64) {
        if let Some(node) = self.nodes.remove(&id) {
            self.history.losses.push(Loss { at_us: self.now_us, node: node.me, vnode: None });
            self.note(|| format!("node {id} crashes"));
            // Its machine goes on, and tells who is connected.
            if self.chance(50) {
                self.reset_all(node.me);
            }
        }
    }

    /// The node stops, in the middle of a turn of each of its cores.
    pub(in super::super) fn freeze(&mut self, id: u64, time_us: u64) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.frozen_until_us = now_us + time_us;
        let now = node.clock.now(now_us);
        let me = node.me;
        node.cores.iter_mut().for_each(|core| core.stalled = Some(now));
        self.note(|| format!("node {id} freezes for {} ms", time_us / 1000));
        (0..CORES).for_each(|core| self.turn_soon(Peer { node: me, core }, 0));
    }

    pub(in super::super) fn turn_soon(&mut self, peer: Peer, wait_us: u64) {
        let at_us = self.now_us + wait_us;
        let Some((_, core)) = self.core(peer) else { return };
        if at_us < core.turn_us {
            core.turn_us = at_us;
            self.at(at_us, Event::Turn(peer));
        }
    }

    pub(super) fn turn(&mut self, peer: Peer) {
        let now_us = self.now_us;
        let Some((now, core)) = self.core(peer) else { return };
        // It was put off meanwhile, or frozen.
        if core.turn_us > now_us {
            return;
        }
        core.turn_us = u64::MAX;
        let now = core.stalled.take().unwrap_or(now);
        let served = core.serve_waiting(now);
        for (asker, frame, served) in served {
            self.take_served(peer, asker, frame, served);
        }
        let Some((_, core)) = self.core(peer) else { return };
        let turned = core.turn(now);
        let wait_us = core.wait_ms(now) * 1000;
        self.note_departures(peer);
        for (to, bytes) in turned.messages {
            self.send_messages(peer, to, bytes);
        }
        for (election, report) in turned.reports {
            let wait_us = self.random.random_range(0..LOCAL_US_MAX);
            self.at(now_us + wait_us, Event::Report(peer, election, report));
        }
        for (asker, bytes) in turned.replies {
            self.reply(peer.node, asker, bytes);
        }
        self.turn_soon(peer, wait_us.min(TURN_US_MAX));
    }

    fn send_messages(&mut self, from: Peer, to: Peer, bytes: Vec<u8>) {
        if from.node == to.node {
            return self.at(self.now_us + 20, Event::Messages { from, to, bytes });
        }
        let (source, target) = (Place::Node(from.node.id), Place::Node(to.node.id));
        // One by one where they may part.
        let is_calm = self.network.noise == Noise::default() && self.network.slices_late_us == 0;
        let parts = if is_calm { vec![bytes] } else { frames(&bytes) };
        for bytes in parts {
            let late_us = match PeerMessage::decode(&bytes) {
                Ok(Some((PeerMessage::Slice { .. }, _))) => self.network.slices_late_us,
                _ => 0,
            };
            for at_us in self.network.arrivals(&mut self.random, self.now_us, source, target).into_iter().flatten() {
                let late_us = if late_us > 0 { self.random.random_range(0..late_us) } else { 0 };
                self.at(at_us + late_us, Event::Messages { from, to, bytes: bytes.clone() });
            }
        }
    }

    pub(super) fn agent_turn(&mut self, me: NodeRef) {
        let now_us = self.now_us;
        let Some((now, node)) = self.life(me) else { return };
        (0..CORES).for_each(|core| node.agent.handle_core_alive(now, core));
        let mut requests = Vec::new();
        while let Some(request) = node.agent.poll_request(now) {
            requests.push(request);
        }
        let mut messages = Vec::new();
        while let Some(message) = node.agent.poll_message(now) {
            messages.push(message);
        }
        let mut news = Vec::new();
        while let Some(new) = node.agent.poll_news() {
            news.push(new);
        }
        let wait_us = (node.agent.poll_timeout(now).since(now).as_millis() * 1000).clamp(1000, AGENT_TURN_US_MAX);
        if node.agent_turn_us <= now_us || node.agent_turn_us > now_us + wait_us {
            node.agent_turn_us = now_us + wait_us;
            self.at(now_us + wait_us, Event::AgentTurn(me));
        }
        requests.into_iter().for_each(|(ticket, request)| self.send_to_etcd(me, ticket, request));
        for (to, message) in messages {
            let (source, target) = (Place::Node(me.id), Place::Node(to.id));
            for at_us in self.network.arrivals(&mut self.random, now_us, source, target).into_iter().flatten() {
                self.at(at_us, Event::Control { from: me, to, bytes: message.to_bytes() });
            }
        }
        news.into_iter().for_each(|news| self.take_news(me, news));
    }

    fn take_news(&mut self, me: NodeRef, news: News) {
        let all = |told: ToCore| (0..CORES).map(|core| (core, told.clone())).collect::<Vec<_>>();
        let told = match news {
            News::Ring(ring) => all(ToCore::Ring(ring)),
            News::Lease(until) => all(ToCore::Lease(until)),
            News::Leader(leader) => {
                self.note(|| format!("node {} hears that {leader:?} leads", me.id));
                leader.map(|(_, election)| all(ToCore::Election(election))).unwrap_or_default()
            }
            News::Order(election, seat, order) => vec![(seat.core, ToCore::Order(election, order))],
            News::Trouble(trouble) => {
                self.note(|| format!("node {} has trouble: {trouble}", me.id));
                Vec::new()
            }
            News::Wish(..) => Vec::new(),
        };
        for (core, told) in told {
            let wait_us = self.random.random_range(0..LOCAL_US_MAX);
            let peer = Peer { node: me, core };
            let earliest_us = self.now_us + wait_us;
            let Some((_, at)) = self.core(peer) else { continue };
            at.told_us = at.told_us.max(earliest_us);
            let at_us = at.told_us;
            self.at(at_us, Event::ToCore(peer, told));
        }
    }

    pub(super) fn tell_core(&mut self, peer: Peer, told: ToCore) {
        if let ToCore::Order(_, order) = &told {
            let order = *order;
            self.note_vnode(order.vnode(), || format!("{}/{} is told {order:?}", peer.node.id, peer.core));
            if let Order::BeginMove { target, .. } = order {
                self.moved_us = self.now_us;
                self.spring_on_move(peer.node.id, target);
            }
        }
        if let ToCore::Ring(ring) = &told {
            let epoch = ring.epoch;
            self.note(|| format!("{}/{} gets ring {epoch}", peer.node.id, peer.core));
        }
        if let Some((now, core)) = self.core(peer) {
            if core.take_told(now, told) {
                self.tell_news(peer);
            }
            self.turn_soon(peer, TURN_US);
        }
    }

    pub(super) fn report(&mut self, peer: Peer, election: Election, report: Report) {
        let Some((now, node)) = self.life(peer.node) else { return };
        let slot = node.agent.ring().and_then(|ring| ring.slot_of(peer.node));
        let Some(slot) = slot else { return };
        node.agent.handle_report(now, election, Seat { node: slot, core: peer.core }, report);
        self.note_vnode(report.vnode(), || format!("{}/{} reports {report:?}", peer.node.id, peer.core));
        self.agent_turn(peer.node);
        if matches!(report, Report::Sealed { .. }) {
            self.spring_on_seal(report.vnode());
        }
    }

    /// Who leads the cluster, by its own reckoning.
    pub(in super::super) fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node| node.agent.leads(node.clock.now(self.now_us));
        self.nodes.values().find(leads).map(|node| node.me.id)
    }
}

/// Cuts bytes into the frames they are made of.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize + 4;
        frames.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    frames
}
