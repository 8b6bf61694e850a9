//! The next ring: from what is known, what has been reported, and where everything should be.
//!
//! Each call plans from the ring that etcd has, so a write that was refused or overtaken is planned anew and nothing is
//! remembered of it. A change that copies must agree to first (a seal, a proposal, a move) waits here until they have.

use std::sync::Arc;

use quoit_wire::Version;
use quoit_wire::assignment::{AssignmentError, assign};
use quoit_wire::topology::{Node, Placement, Seat};

use super::{
    Alive, CATCHING_UP_MIN, FOUNDING_QUIET, Failover, Founding, Known, LOST_WAIT, Leader, Proposal, StepsLeft,
    VNODES_PER_CATCH_UP,
};
use crate::cluster::records::Identity;
use crate::cluster::ring::{CopyState, Member, Registration, Ring, Roles};
use crate::time::Instant;

/// The first term of a new cluster.
const FIRST_TERM: u32 = 1;

impl Leader {
    /// The first ring: everything lies where it should, and is empty.
    pub(super) fn found(&mut self, now: Instant) -> Option<Ring> {
        let registered = self.known.registrations.len();
        if registered == 0 || now < self.changed + FOUNDING_QUIET {
            // Time alone makes it due.
            self.is_stale = registered > 0;
            return None;
        }
        let identity = &self.founding.identity;
        let mut ring = Ring {
            epoch: 1,
            cluster: self.founding.cluster.clone(),
            cluster_id: identity.cluster_id,
            seed: identity.seed,
            vnode_bits: identity.vnode_bits,
            replicas: self.founding.replicas,
            write_mode: self.founding.write_mode,
            slots: Vec::new(),
            vnodes: Vec::new(),
        };
        self.seat_members(&mut ring);
        let nothing = vec![Placement::NOWHERE; 1 << ring.vnode_bits];
        let placements = assign(&self.nodes(&ring), &nothing, usize::from(ring.replicas)).ok()?;
        ring.vnodes = placements.iter().map(founded).collect();
        Some(ring)
    }

    /// The ring that should follow `ring`; none when there is nothing to change.
    pub(super) fn next_ring(&self, now: Instant, ring: &Ring) -> Option<Ring> {
        let mut next = ring.clone();
        self.seat_members(&mut next);
        for (&vnode, failover) in &self.failovers {
            if let Some(roles) = self.fail_over(now, ring, vnode as usize, failover) {
                next.vnodes[vnode as usize] = roles;
            }
        }
        let is_free = |vnode: &u32| !self.failovers.contains_key(vnode);
        for (vnode, proposal) in self.proposals.iter().filter(|(vnode, _)| is_free(vnode)) {
            let roles = &mut next.vnodes[*vnode as usize];
            *roles = self.accept(ring, roles, proposal);
        }
        for (&vnode, &(_, target)) in self.ready.iter().filter(|(vnode, _)| is_free(vnode)) {
            self.hand_over(ring, &mut next.vnodes[vnode as usize], target, vnode as usize);
        }
        self.drop_unwanted(ring, &mut next);
        self.add_wanted(ring, &mut next);
        self.free_slots(&mut next);
        if next == *ring {
            return None;
        }
        next.epoch = ring.epoch.checked_add(1)?;
        Some(next)
    }

    /// Computes anew where everything should be, when the nodes that can take vnodes have changed.
    pub(super) fn aim(&mut self) {
        let Some(ring) = self.known.ring.clone() else { return };
        let nodes = self.nodes(&ring);
        let takers = (0u16..).zip(&nodes).filter(|(_, node)| node.weight > 0);
        let takers: Vec<(u16, u16)> = takers.map(|(slot, node)| (slot, node.weight)).collect();
        if takers == self.targets_of && !self.targets.is_empty() {
            return;
        }
        let current: Vec<Placement> = ring.vnodes.iter().map(|roles| self.current(&ring, roles)).collect();
        match assign(&nodes, &current, usize::from(ring.replicas)) {
            Ok(targets) => (self.targets, self.targets_of) = (targets, takers),
            // With nobody to give to, everything stays; the next node that comes is a change.
            Err(AssignmentError::NoTaker) => (self.targets, self.targets_of) = (current, takers),
            Err(error) => unreachable!("a checked ring can be assigned: {error}"),
        }
    }

    /// What is left to do until everything lies where it should. Any node can say so, for all of them aim alike. Cost: that of
    /// an assignment.
    pub fn steps_left(known: &Known) -> StepsLeft {
        let mut left = StepsLeft::default();
        let Some(ring) = known.ring.as_deref() else { return left };
        let Ring { cluster_id, seed, vnode_bits, replicas, write_mode, .. } = *ring;
        let identity = Identity { cluster_id, seed, vnode_bits };
        let founding = Founding { cluster: ring.cluster.clone(), identity, replicas, write_mode };
        let mut leader = Self::new(Instant::ORIGIN, 0, founding);
        leader.known = known.clone();
        // As it will be when the leader has done what operators want.
        let mut next = ring.clone();
        leader.seat_members(&mut next);
        if next.check().is_err() {
            // Nor will the leader write it.
            return left;
        }
        leader.known.ring = Some(Arc::new(next));
        leader.aim();
        for (roles, target) in ring.vnodes.iter().zip(&leader.targets) {
            left.handovers += usize::from(roles.primary != target.primary);
            for seat in target.seats().filter(|seat| *seat != roles.primary) {
                match roles.state(seat) {
                    Some(CopyState::InSync) => {}
                    Some(CopyState::CatchingUp) => left.copies_begun += 1,
                    None => left.copies_to_begin += 1,
                }
            }
        }
        left
    }

    /// What `proposal` makes of the roles: what it names counts, as far as it lives; the others don't. One that names what is
    /// no copy any more was made for another ring and changes nothing: its primary proposes anew.
    pub(super) fn accept(&self, ring: &Ring, roles: &Roles, proposal: &Proposal) -> Roles {
        let alive = self.alive(ring);
        let mut accepted = *roles;
        if proposal.in_sync.iter().any(|seat| roles.state(*seat).is_none()) {
            return accepted;
        }
        for copy in roles.copies() {
            let is_named = proposal.in_sync.contains(&copy.seat);
            match copy.state {
                CopyState::InSync if !is_named => accepted.put(copy.seat, CopyState::CatchingUp),
                CopyState::CatchingUp if is_named && alive.has(copy.seat) => accepted.put(copy.seat, CopyState::InSync),
                _ => true,
            };
        }
        // Where nobody counts any more, those that just did have all that copies have acknowledged.
        accepted.mark_last(roles.in_sync());
        accepted
    }

    /// C6: once each in-sync member has reported or is gone, the highest leads and who did not report is dropped. Where only
    /// the primary counted, and is gone, that holds for the copies that counted last, as far as they are whole. C9: when all
    /// are gone for long enough, the vnode starts empty.
    fn fail_over(&self, now: Instant, ring: &Ring, vnode: usize, failover: &Failover) -> Option<Roles> {
        let (roles, alive) = (&ring.vnodes[vnode], self.alive(ring));
        let is_alive = |seat: &Seat| alive.has(*seat);
        let target = self.targets.get(vnode).map(|target| target.primary).filter(is_alive);
        if failover.term > Version::TERM_MAX {
            return None;
        }
        let mut sealed = Vec::new();
        for member in roles.in_sync_members().filter(is_alive) {
            sealed.push((*failover.reports.get(&member)?, Some(member) == target, member));
        }
        if sealed.is_empty() {
            for member in roles.last().filter(is_alive) {
                let applied = *failover.reports.get(&member)?;
                // One that is being streamed anew has only a part.
                sealed.extend((applied != Version::NONE).then_some((applied, Some(member) == target, member)));
            }
        }
        let best = sealed.iter().max_by_key(|(applied, is_target, seat)| (applied, is_target, seat.node, seat.core));
        let Some(&(_, _, primary)) = best else {
            let is_over = failover.deserted.is_some_and(|since| now >= since + LOST_WAIT);
            // Under the term that it was sealed for, a copy would be relied on with the part that it has.
            let term = failover.term + u32::from(!failover.reports.is_empty());
            return target.filter(|_| is_over && term <= Version::TERM_MAX).map(|primary| Roles::new(term, primary));
        };
        let mut next = Roles::new(failover.term, primary);
        for &(_, _, member) in sealed.iter().filter(|(_, _, member)| *member != primary) {
            next.put(member, CopyState::InSync);
        }
        let catching_up = roles.copies().filter(|copy| copy.state == CopyState::CatchingUp && is_alive(&copy.seat));
        for copy in catching_up {
            if copy.seat != primary && next.state(copy.seat).is_none() {
                next.put(copy.seat, CopyState::CatchingUp);
            }
        }
        if primary == roles.primary {
            next.mark_last(roles.last());
        }
        Some(next)
    }

    /// C10: the target leads under a new term. If it can't any more, the source goes on, under a new term as well: it has
    /// sealed itself.
    fn hand_over(&self, ring: &Ring, roles: &mut Roles, target: Seat, vnode: usize) {
        if roles.term == Version::TERM_MAX {
            return;
        }
        roles.term += 1;
        if roles.state(target) != Some(CopyState::InSync) || !self.alive(ring).has(target) {
            return;
        }
        let source = std::mem::replace(&mut roles.primary, target);
        roles.remove(target);
        let stays = self.targets.get(vnode).is_some_and(|wanted| wanted.seats().any(|seat| seat == source));
        if stays {
            roles.put(source, CopyState::InSync);
        }
    }

    /// Copies that only catch up go as soon as they are not wanted, or their node is gone.
    fn drop_unwanted(&self, ring: &Ring, next: &mut Ring) {
        let alive = self.alive(ring);
        for (roles, target) in next.vnodes.iter_mut().zip(&self.targets) {
            for copy in roles.copies().filter(|copy| copy.state == CopyState::CatchingUp).collect::<Vec<_>>() {
                let is_wanted = copy.was_last || target.seats().any(|seat| seat == copy.seat);
                if !is_wanted || !alive.has(copy.seat) {
                    roles.remove(copy.seat);
                }
            }
        }
    }

    /// Adds copies where they should be: at once where there are fewer than there should be, for writes may wait for them; a
    /// bounded number at a time where they are to move.
    fn add_wanted(&self, ring: &Ring, next: &mut Ring) {
        let alive = self.alive(ring);
        let busy_max = (next.vnodes.len() / VNODES_PER_CATCH_UP).max(CATCHING_UP_MIN);
        let mut busy = vec![0; next.slots.len()];
        for roles in &next.vnodes {
            for copy in roles.copies().filter(|copy| copy.state == CopyState::CatchingUp) {
                busy[usize::from(copy.seat.node)] += 1;
                busy[usize::from(roles.primary.node)] += 1;
            }
        }
        for only_lacking in [true, false] {
            for (vnode, (roles, target)) in next.vnodes.iter_mut().zip(&self.targets).enumerate() {
                let is_lacking = roles.in_sync().count() < usize::from(ring.replicas);
                let source = usize::from(roles.primary.node);
                // One that this very ring lets go on gets its copies with it.
                let is_sealed = self.failovers.get(&(vnode as u32)).is_some_and(|failover| failover.term > roles.term);
                if is_lacking != only_lacking || !alive.has(roles.primary) || is_sealed {
                    continue;
                }
                for seat in target.seats() {
                    let node = usize::from(seat.node);
                    let is_there = seat == roles.primary || roles.state(seat).is_some();
                    let has_room = is_lacking || busy[source].max(busy[node]) < busy_max;
                    if !is_there && has_room && alive.has(seat) && roles.put(seat, CopyState::CatchingUp) {
                        busy[source] += 1;
                        busy[node] += 1;
                    }
                }
            }
        }
    }

    /// Gives every registered life a slot, and brings weights up to date.
    fn seat_members(&self, ring: &mut Ring) {
        for registration in self.known.registrations.values() {
            let member = self.member(registration);
            let own = ring.slot_of(registration.node).map(usize::from);
            // The cores of a life don't change, and roles are on them.
            let seated = own.and_then(|slot| ring.slots[slot].as_ref());
            let member = Member { cores: seated.map_or(member.cores, |seated| seated.cores), ..member };
            match own.or_else(|| ring.slots.iter().position(Option::is_none)) {
                Some(slot) => ring.slots[slot] = Some(member),
                None if ring.slots.len() < quoit_wire::topology::NODES_MAX => ring.slots.push(Some(member)),
                // The cluster is full: the node waits for a slot.
                None => {}
            }
        }
    }

    /// Takes the slots of lives that are gone and that nothing refers to.
    fn free_slots(&self, next: &mut Ring) {
        let Alive(mut is_used) = self.alive(next);
        for roles in &next.vnodes {
            let seats = std::iter::once(roles.primary).chain(roles.copies().map(|copy| copy.seat));
            seats.for_each(|seat| is_used[usize::from(seat.node)] = true);
        }
        for (slot, _) in next.slots.iter_mut().zip(is_used).filter(|(_, is_used)| !is_used) {
            *slot = None;
        }
    }

    fn member(&self, registration: &Registration) -> Member {
        let intent = self.known.intents.get(&registration.node.id).copied().unwrap_or_default();
        Member {
            node: registration.node,
            name: registration.name.clone(),
            address: registration.address.clone(),
            zone: registration.zone.clone(),
            cores: registration.cores,
            weight: intent.weight.unwrap_or(registration.weight),
            draining: intent.draining || registration.leaving,
        }
    }

    /// The slots as the assignment sees them: who is gone, drains or is nobody takes nothing.
    fn nodes(&self, ring: &Ring) -> Vec<Node> {
        let node = |(slot, is_alive): (&Option<Member>, bool)| {
            let nobody = Node {
                id: 0,
                incarnation: 0,
                name: String::new(),
                address: String::new(),
                zone: String::new(),
                cores: 1,
                weight: 0,
            };
            slot.as_ref().map_or(nobody, |member| Node {
                id: member.node.id,
                incarnation: member.node.incarnation,
                name: String::new(),
                address: String::new(),
                zone: member.zone.clone(),
                cores: member.cores,
                weight: if is_alive && !member.draining { member.weight } else { 0 },
            })
        };
        ring.slots.iter().zip(self.alive(ring).0).map(node).collect()
    }

    /// Who holds a vnode, for the assignment. A restarted node counts as a replica where its last life had a seat: its
    /// memory may be warm.
    fn current(&self, ring: &Ring, roles: &Roles) -> Placement {
        let alive = self.alive(ring);
        let reborn = |seat: Seat| {
            let id = ring.member(seat.node)?.node.id;
            let slot = ring.slot_of(self.known.registrations.get(&id)?.node)?;
            Some(Seat { node: slot, core: seat.core })
                .filter(|seat| seat.core < ring.member(slot).map_or(0, |it| it.cores))
        };
        let is_alive = |seat: Seat| alive.has(seat);
        let mut placement = Placement { term: roles.term, ..Placement::NOWHERE };
        if is_alive(roles.primary) {
            placement.primary = roles.primary;
        }
        let mut copies: Vec<_> = roles.copies().filter(|copy| is_alive(copy.seat)).collect();
        copies.sort_by_key(|copy| copy.state == CopyState::CatchingUp);
        let gone = roles.copies().map(|copy| copy.seat).chain([roles.primary]).filter(|seat| !is_alive(*seat));
        let holders = copies.iter().map(|copy| copy.seat).chain(gone.filter_map(reborn));
        placement.replicas.iter_mut().zip(holders).for_each(|(place, seat)| *place = seat);
        placement
    }
}

fn founded(placement: &Placement) -> Roles {
    let mut roles = Roles::new(FIRST_TERM, placement.primary);
    placement.seats().skip(1).for_each(|seat| {
        roles.put(seat, CopyState::InSync);
    });
    roles
}
