//! What each ring makes of the vnodes: what was lost by it, and whether the cluster is whole again.

use std::sync::Arc;

use quoit_wire::topology::Seat;
use quoit_wire::{Version, WriteMode};
use rand::RngExt;

use super::super::client::{KEYS, key_name};
use super::super::history::{Cause, Loss, Subject};
use super::{Event, World};
use crate::cluster::copies::{Admission, Need, Peer};
use crate::cluster::records::Keys;
use crate::cluster::{NodeRef, Ring, Roles};

/// A copy that is silent is let go after half a second, and that takes a moment to be written.
const STILL_US: u64 = 1_000_000;

impl World {
    /// The registration of this life of a node is gone: to the others, it is lost.
    pub(super) fn note_loss(&mut self, node: NodeRef) {
        self.history.losses.push(Loss { at_us: self.now_us, node, vnode: None });
        self.note(|| format!("the lease of node {} has ended", node.id));
        if self.cut_off_when_lost.take_if(|id| *id == node.id).is_some() {
            let wait_us = self.random.random_range(0..30_000);
            self.at(self.now_us + wait_us, Event::CutOff(node.id));
        }
    }

    pub(super) fn note_ring(&mut self, ring: Arc<Ring>) {
        if self.ring.as_ref().is_some_and(|known| known.epoch >= ring.epoch) {
            return;
        }
        let before = self.ring.replace(ring.clone());
        self.ring_since_us = self.now_us;
        if let Err(error) = ring.check() {
            self.violate(Subject::Vnode(0), format!("ring {}: {error}", ring.epoch));
        }
        self.mix(u64::from(ring.epoch));
        if let Some(before) = &before {
            self.spring_on_ring(before, &ring);
        }
        for (vnode, roles) in ring.vnodes.iter().enumerate() {
            let Some(was) = before.as_ref().map(|ring| ring.vnodes[vnode]) else { continue };
            if was != *roles {
                self.note_vnode(vnode as u32, || format!("ring {}: {roles:?}", ring.epoch));
            }
            if roles.term < was.term || roles.term == was.term && roles.primary != was.primary {
                self.violate(Subject::Vnode(vnode), format!("vnode {vnode}: term {} after {}", roles.term, was.term));
            }
            self.note_let_go(&ring, vnode, &was, roles);
            let stays = was.in_sync_members().chain(was.last()).any(|member| member == roles.primary);
            if roles.term > was.term && !stays {
                self.lose_vnode(vnode, roles.term);
            }
        }
    }

    /// A primary has let copies go that it could not reach, and has fewer now than it should.
    fn note_let_go(&mut self, ring: &Ring, vnode: usize, was: &Roles, roles: &Roles) {
        if roles.in_sync().count() >= usize::from(ring.replicas) {
            return;
        }
        for seat in was.in_sync_members().filter(|seat| !roles.in_sync_members().any(|it| it == *seat)) {
            let node = ring.member(seat.node).map(|member| member.node);
            let at_us = self.now_us;
            self.history.losses.extend(node.map(|node| Loss { at_us, node, vnode: Some(vnode) }));
        }
    }

    /// Every member of the vnode was lost: it starts empty (C9).
    fn lose_vnode(&mut self, vnode: usize, term: u32) {
        self.vnodes_lost += 1;
        let since_us = self.now_us.saturating_sub(60_000_000);
        let is_excused = self.history.may_be_lost(vnode, since_us, self.now_us);
        for key in 0..KEYS {
            if self.vnode_of(key) == vnode {
                self.history.causes[key].push((Version::new(term, 0), Cause::VnodeLost));
                if !is_excused {
                    self.violate(
                        Subject::Key(key),
                        format!("vnode {vnode} started empty under term {term} after a single loss"),
                    );
                }
            }
        }
        self.note(|| format!("vnode {vnode} is lost and starts empty under term {term}"));
    }

    /// Whether every vnode has a live primary and all its copies, and everybody knows it, for long enough that nobody's
    /// proposal is under way.
    pub(in super::super) fn is_restored(&self) -> bool {
        let Some(ring) = self.ring.as_ref().filter(|_| self.now_us >= self.ring_since_us + STILL_US) else {
            return false;
        };
        let keys = Keys::new("simulated");
        let is_registered = |id: &u64| self.etcd.entries.contains_key(&keys.node(*id));
        self.nodes.keys().all(is_registered)
            && ring.slots.iter().flatten().count() == self.nodes.len()
            && ring.vnodes.iter().all(|roles| self.is_whole(ring, roles))
            && self.nodes.values().all(|node| node.cores.iter().all(|it| it.shard.topology().epoch == ring.epoch))
    }

    /// Whether the vnode has a live primary and all its copies.
    fn is_whole(&self, ring: &Ring, roles: &Roles) -> bool {
        let lives = |seat: Seat| {
            let member = ring.member(seat.node).map(|member| member.node);
            member.is_some_and(|it| self.nodes.get(&it.id).is_some_and(|node| node.me == it))
        };
        let takers = ring.slots.iter().flatten().filter(|member| !member.draining).count();
        let copies = usize::from(ring.replicas).min(takers.saturating_sub(1));
        roles.in_sync().count() == copies && roles.copies().count() == copies && roles.in_sync_members().all(lives)
    }

    /// Vnodes that have a member and take no write in mode `one`.
    pub(in super::super) fn unwritable(&mut self) -> Vec<usize> {
        let Some(ring) = self.ring.clone() else { return Vec::new() };
        let mut unwritable = Vec::new();
        for (vnode, roles) in ring.vnodes.iter().enumerate() {
            let mut members = roles.in_sync_members().filter_map(|seat| {
                let member = ring.member(seat.node).map(|member| member.node)?;
                Some(Peer { node: member, core: seat.core })
            });
            let first_hash = (vnode as u64) << (64 - u32::from(self.plan.vnode_bits));
            let primary = members.next();
            let takes = primary.and_then(|peer| self.core(peer)).is_some_and(|(now, core)| {
                core.copies().0.admit(now, first_hash, Need::Write(WriteMode::One)) == Admission::Go
            });
            let is_deserted =
                !primary.into_iter().chain(members).any(|peer| self.nodes.values().any(|it| it.me == peer.node));
            if !takes && !is_deserted {
                unwritable.push(vnode);
            }
        }
        unwritable
    }

    /// The cluster should be whole by now, and is not.
    pub(in super::super) fn violate_unrestored(&mut self, secs: u64) {
        let Some(ring) = self.ring.clone() else { return self.violate(Subject::Vnode(0), "no ring".to_owned()) };
        let wounded: Vec<_> = (0..).zip(&ring.vnodes).filter(|(_, roles)| !self.is_whole(&ring, roles)).collect();
        let vnode = wounded.first().map_or(0, |(vnode, _)| *vnode);
        let nodes: Vec<_> = self.nodes.values().map(|node| (node.me, node.agent.trouble().cloned())).collect();
        let cores = self.nodes.values().flat_map(|node| &node.cores);
        let statuses: Vec<_> = cores
            .flat_map(|core| core.shard.vnodes().into_iter().map(move |status| (core.peer, status)))
            .filter(|(_, status)| usize::from(status.vnode) == vnode)
            .collect();
        let slots: Vec<_> = ring.slots.iter().map(|slot| slot.as_ref().map(|member| member.node)).collect();
        let text = format!(
            "not whole {secs} s after healing: ring {}, {wounded:?}, {statuses:?}, slots {slots:?}, nodes {nodes:?}, leader {:?}",
            ring.epoch,
            self.leader()
        );
        self.violate(Subject::Vnode(vnode), text);
    }

    /// All items of the world's keys as the in-sync copies of each vnode have them, which must be the same.
    pub(in super::super) fn check_convergence(&mut self) {
        let Some(ring) = self.ring.clone() else { return };
        let mut differing = Vec::new();
        for key in 0..KEYS {
            let (vnode, name) = (self.vnode_of(key), key_name(key));
            let mut held = Vec::new();
            for seat in ring.vnodes[vnode].in_sync_members() {
                let Some(member) = ring.member(seat.node).map(|member| member.node) else { continue };
                let Some((now, core)) = self.core(Peer { node: member, core: seat.core }) else { continue };
                let hash = core.shard.hash(&name);
                let (_, state) = core.copies();
                let item = state.store.peek(now, hash, &name).map(|item| {
                    let mut value = Vec::new();
                    item.value.copy_to(&mut value);
                    (item.sequence, value)
                });
                held.push((member.id, state.store.position(vnode), item));
            }
            let first = held.first().cloned();
            if held
                .iter()
                .any(|(_, position, item)| first.as_ref().is_some_and(|it| (it.1, &it.2) != (*position, item)))
            {
                differing.push((Subject::Key(key), format!("copies of vnode {vnode} differ: {held:?}")));
            }
        }
        self.violations.append(&mut differing);
    }
}
