//! Traps: faults that wait for the moment at which they do most harm.

use quoit_wire::topology::Seat;
use quoit_wire::{Reply, Status};
use rand::RngExt;
use rand::seq::IndexedRandom;

use super::super::client::KEYS;
use super::super::history::Ask;
use super::super::network::Place;
use super::super::node::Asker;
use super::{CLIENTS, World};
use crate::cluster::{CopyState, NodeRef, Ring, Roles};

/// How long etcd's disk stands still, so that what is being decided is written late.
const STALL_US: std::ops::Range<u64> = 200_000..900_000;

/// Something that a fault waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Trap {
    /// The leader dies once a core has reported its seal.
    LeaderAfterSeal,
    /// Once a copy of this node's has reported its seal, the node hears nothing more of its copies: it learns late that it
    /// is a primary no longer.
    CutOffAfterSeal { node: u64 },
    /// Once a copy of this node's has reported its seal, the node does not reach one of its copies, and etcd's disk stands
    /// still: for a while nobody follows.
    LateRingAfterSeal { node: u64 },
    /// The source or the target of a move dies once the source was told to begin it.
    Mover { is_target: bool },
    /// Once a vnode has a copy that catches up, its primary reaches only that one.
    OnlyCatchingUp,
    /// A primary dies once a copy of it has caught up, and counts.
    CaughtUp,
    /// This node dies as it acknowledges a write of this vnode that has waited for copies.
    Acknowledged { by: NodeRef, vnode: usize },
}

impl World {
    /// A core has reported that `vnode` is sealed.
    pub(super) fn spring_on_seal(&mut self, vnode: u32) {
        let ring = self.ring.clone();
        let ring = ring.as_ref();
        let primary = ring.and_then(|ring| ring.member(ring.vnodes.get(vnode as usize)?.primary.node));
        let primary = primary.map(|member| member.node.id);
        match self.trap {
            Some(Trap::LeaderAfterSeal) => {
                self.trap = None;
                self.leader().into_iter().for_each(|leader| self.crash(leader));
            }
            Some(Trap::CutOffAfterSeal { node }) if primary == Some(node) => {
                self.trap = None;
                self.network.hurry_etcd();
                self.note(|| format!("node {node} is cut off from the others"));
                self.cut_from_nodes(node);
            }
            Some(Trap::LateRingAfterSeal { node }) if primary == Some(node) => {
                self.trap = None;
                let seats: Vec<Seat> = ring.iter().flat_map(|ring| ring.vnodes[vnode as usize].in_sync()).collect();
                let copy = seats.choose(&mut self.random).and_then(|seat| ring?.member(seat.node));
                let copy = copy.map(|member| Place::Node(member.node.id));
                copy.into_iter().for_each(|copy| self.network.cut(Place::Node(node), copy));
                self.stall_disk();
            }
            _ => {}
        }
    }

    pub(super) fn spring_on_move(&mut self, source: u64, target: Seat) {
        let Some(Trap::Mover { is_target }) = self.trap else { return };
        let target = self.ring.as_ref().and_then(|ring| ring.member(target.node)).map(|member| member.node.id);
        self.trap = None;
        let victim = if is_target { target.unwrap_or(source) } else { source };
        self.crash(victim);
    }

    pub(super) fn spring_on_ring(&mut self, before: &Ring, ring: &Ring) {
        match self.trap {
            Some(Trap::OnlyCatchingUp) => self.leave_only_catching_up(ring),
            Some(Trap::CaughtUp) => {
                let counts = |vnode: usize| {
                    let was = |seat| before.vnodes[vnode].state(seat) == Some(CopyState::CatchingUp);
                    ring.vnodes[vnode].in_sync().any(was)
                };
                let vnode = (0..KEYS).map(|key| self.vnode_of(key)).find(|vnode| counts(*vnode));
                let primary = vnode.and_then(|vnode| ring.member(ring.vnodes[vnode].primary.node));
                if let Some(primary) = primary {
                    self.trap = None;
                    self.crash(primary.node.id);
                }
            }
            _ => {}
        }
    }

    /// The primary of some vnode with a copy that catches up reaches only that one.
    fn leave_only_catching_up(&mut self, ring: &Ring) {
        let node_of = |seat: Seat| ring.member(seat.node).map(|member| member.node);
        let catches_up = |roles: &Roles, id: u64| {
            let mut copies = roles.copies().filter(|copy| copy.state == CopyState::CatchingUp);
            copies.any(|copy| node_of(copy.seat).is_some_and(|node| node.id == id))
        };
        let mut keys = Vec::new();
        for key in 0..KEYS {
            let roles = ring.vnodes[self.vnode_of(key)];
            // With one that is gone among them, its removal is being proposed, and that set goes.
            let is_alive = |node: &NodeRef| self.nodes.get(&node.id).is_some_and(|it| it.me == *node);
            let are_alive = roles.in_sync().all(|seat| node_of(seat).is_some_and(|node| is_alive(&node)));
            let Some(primary) = node_of(roles.primary).filter(|node| are_alive && is_alive(node)) else { continue };
            if self.nodes.keys().any(|id| *id != primary.id && catches_up(&roles, *id)) {
                keys.push((key, primary, roles));
            }
        }
        let Some((key, by, roles)) = keys.choose(&mut self.random).copied() else { return };
        for node in roles.in_sync().filter_map(node_of).filter(|node| !catches_up(&roles, node.id)) {
            self.network.cut(Place::Node(by.id), Place::Node(node.id));
        }
        self.network.hurry_etcd();
        self.note(|| format!("node {} reaches only the copy of key {key} that catches up", by.id));
        self.work_on(key);
        self.trap = Some(Trap::Acknowledged { by, vnode: self.vnode_of(key) });
    }

    pub(super) fn spring_on_answer(&mut self, by: NodeRef, asker: Asker, reply: &[u8]) {
        let Some(Trap::Acknowledged { by: victim, vnode }) = self.trap.filter(|_| self.is_trap_for(by)) else { return };
        let (reply, _) = Reply::decode(reply).expect("a reply").expect("a whole reply");
        let Some(attempt) = asker.attempt else { return };
        let attempt = self.history.attempt(attempt);
        // Of several keys, each has its own status.
        if attempt.is_multi {
            return;
        }
        let operation = &self.history.operations[attempt.operations[0]];
        let is_write = operation.ask.is_write() && operation.ask != Ask::Flush;
        let is_acknowledged = reply.status == Status::Ok && is_write && operation.waits_for_copies();
        if is_acknowledged && self.vnode_of(operation.key) == vnode {
            self.trap = None;
            self.crash(victim.id);
        }
    }

    /// Clients work on keys that this node leads.
    pub(in super::super) fn work_on_keys_of(&mut self, node: u64) {
        let key = self.ring.as_ref().and_then(|ring| {
            let is_own = |seat: Seat| ring.member(seat.node).is_some_and(|member| member.node.id == node);
            (0..KEYS).find(|key| is_own(ring.vnodes[self.vnode_of(*key)].primary))
        });
        key.into_iter().for_each(|key| self.work_on(key));
    }

    /// Clients work on this key and its neighbours, half of them as readers; every write is carried out, and nothing holds it up.
    fn work_on(&mut self, key: usize) {
        self.hot = Some(key);
        (self.is_quiet, self.readers, self.is_plain) = (false, CLIENTS / 2, true);
        self.note(|| format!("clients work on key {key}"));
    }

    fn is_trap_for(&self, node: NodeRef) -> bool {
        matches!(self.trap, Some(Trap::Acknowledged { by, .. }) if by == node)
    }

    fn stall_disk(&mut self) {
        let time_us = self.random.random_range(STALL_US);
        self.disk_stalled_until_us = self.now_us + time_us;
        self.note(|| format!("etcd's disk stands still for {} ms", time_us / 1000));
    }
}
