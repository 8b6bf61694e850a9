//! Who this core is for a vnode: roles by the ring, seals by the leader, and what becomes of the items.

use std::sync::Arc;

use quoit_wire::Version;
use quoit_wire::peer::AckEntry;
use quoit_wire::topology::Seat;

use super::lead::{Lead, Member, Phase};
use super::limits::MOVE_TIME_MAX;
use super::{Copies, Copy, Follow, Peer, Role, State};
use crate::cluster::planted::{Fault, is_planted};
use crate::cluster::{CopyState, Election, Order, Report, Ring, Roles};
use crate::store::{Store, VnodeRole};
use crate::time::Instant;

impl Copies {
    /// A newer ring. What this core has no seat for any more is dropped. Cost: that of dropping it, and a look at every
    /// vnode.
    pub fn handle_ring(&mut self, now: Instant, state: &mut State<'_>, ring: &Arc<Ring>) {
        if self.ring.as_ref().is_some_and(|known| known.epoch >= ring.epoch) {
            return;
        }
        let is_next = self.ring.as_ref().is_some_and(|known| known.epoch + 1 == ring.epoch);
        self.ring = Some(Arc::clone(ring));
        // To who has gone nothing will be said any more.
        self.links.retain(|peer, _| ring.slot_of(peer.node).is_some());
        let own = ring.slot_of(self.own.node).map(|slot| Seat { node: slot, core: self.own.core });
        for (vnode, roles) in ring.vnodes.iter().enumerate().take(self.copies.len()) {
            let known = self.copies[vnode].as_deref().map(|copy| copy.fence);
            let is_primary = own == Some(roles.primary);
            let is_copy = own.and_then(|own| roles.state(own)).is_some();
            match known {
                None if !is_primary && !is_copy => {}
                // Sealed under a higher term, or told of one: this ring is of before.
                Some(fence) if roles.term < fence && (is_primary || is_copy) => {}
                _ if is_primary => self.lead(now, state, vnode, roles, ring, is_next),
                _ if is_copy => {
                    self.follow(state, vnode, roles, ring);
                    let is_in_sync = own.and_then(|own| roles.state(own)) == Some(CopyState::InSync);
                    if let Some(Copy { role: Role::Following(follow), .. }) = self.copies[vnode].as_deref_mut() {
                        follow.is_in_sync = is_in_sync;
                    }
                }
                _ => self.drop_copy(state, vnode),
            }
        }
    }

    /// The leader asks something of this core.
    pub fn handle_order(&mut self, now: Instant, state: &mut State<'_>, election: Election, order: &Order) {
        if election < self.election {
            return;
        }
        self.handle_election(election);
        let Ok(vnode) = u16::try_from(order.vnode()) else { return };
        match *order {
            Order::Seal { term, .. } => self.seal(now, vnode, term),
            Order::BeginMove { term, target, .. } => self.begin_move(now, state, vnode, term, target),
            Order::Retire { term, copy, .. } => {
                let peer = self.peer_at(copy);
                if let Some((copy, lead)) = self.leading(vnode)
                    && copy == term
                    && let Some(peer) = peer
                    && !lead.retiring.contains(&peer)
                {
                    lead.retiring.push(peer);
                }
            }
            Order::Settled { term, number, epoch, .. } => {
                let known = self.ring.as_ref().map_or(0, |ring| ring.epoch);
                if let Some((copy, lead)) = self.leading(vnode)
                    && copy == term
                    && let Some(proposal) = lead.proposal.as_mut().filter(|proposal| proposal.number == number)
                {
                    proposal.settled_by = Some(epoch);
                    lead.end_settled_proposal(known);
                }
                self.settle(now, state.store, vnode);
            }
        }
    }

    /// Reports the seals against which no promise stands any more.
    pub(super) fn report_seals(&mut self, now: Instant, state: &mut State<'_>) {
        let (copies, reports) = (&self.copies, &mut self.reports);
        self.sealed.retain(|vnode| {
            let Some(copy) = copies[usize::from(*vnode)].as_deref() else { return false };
            let Some(term) = copy.sealed else { return false };
            // What was only partly streamed is no candidate, and must not look like one.
            let is_whole = !matches!(&copy.role, Role::Following(follow) if follow.cursor < AckEntry::CURSOR_END);
            let applied = if is_whole { state.store.position(usize::from(*vnode)) } else { Version::NONE };
            let is_bound = !is_planted(Fault::NoPromise) && !is_planted(Fault::NoSeal);
            if is_bound && now < copy.promised_until {
                return true;
            }
            reports.push_back(Report::Sealed { vnode: u32::from(*vnode), term, applied });
            false
        });
    }

    /// The term and the lead of a vnode that this core leads and that nothing has ended.
    pub(super) fn leading(&mut self, vnode: u16) -> Option<(u32, &mut Lead)> {
        match self.copy(vnode)? {
            Copy { term, role: Role::Leading(lead), .. } => Some((*term, lead)),
            _ => None,
        }
    }

    /// Who sits at `seat`.
    pub(super) fn peer_at(&self, seat: Seat) -> Option<Peer> {
        let member = self.ring.as_ref()?.member(seat.node)?;
        Some(Peer { node: member.node, core: seat.core })
    }

    /// The seat of `peer`.
    pub(super) fn seat_of(&self, peer: Peer) -> Option<Seat> {
        let slot = self.ring.as_ref()?.slot_of(peer.node)?;
        Some(Seat { node: slot, core: peer.core })
    }

    /// This core is the primary of `vnode`, from now on or still. `is_next`: between this ring and the one it knew was none.
    fn lead(&mut self, now: Instant, state: &mut State<'_>, vnode: usize, roles: &Roles, ring: &Ring, is_next: bool) {
        let is_leading = matches!(
            self.copies[vnode].as_deref(),
            Some(Copy { role: Role::Leading(_), term, .. }) if *term == roles.term
        );
        if !is_leading {
            self.begin_lead(state, vnode, roles.term);
        }
        let had_members = matches!(
            self.copies[vnode].as_deref(),
            Some(Copy { role: Role::Leading(lead), .. }) if !lead.members.is_empty()
        );
        let mut is_new = !is_leading;
        if let Some((_, lead)) = self.leading(vnode as u16) {
            is_new |= lead.take_members(now, roles, ring, is_next);
            lead.end_settled_proposal(ring.epoch);
            let has_members = !lead.members.is_empty();
            let role = if has_members { VnodeRole::Followed } else { VnodeRole::Alone };
            state.store.set_vnode_role(vnode, role);
            if has_members && !had_members && is_leading {
                self.backlog.restart(vnode, state.store.sequence(vnode) + 1);
            }
        }
        if is_new {
            self.announced.push_back(vnode as u16);
        }
        self.settle(now, state.store, vnode as u16);
        self.mark_dirty(vnode as u16);
    }

    /// Takes the lead under a new term: with what is here, if the ring relies on it, or empty (C9).
    fn begin_lead(&mut self, state: &mut State<'_>, vnode: usize, term: u32) {
        let is_relied_on = self.copies[vnode].as_deref().is_some_and(|copy| copy.sealed == Some(term));
        if is_relied_on {
            state.store.begin_term(vnode, term);
        } else {
            self.drop_copy(state, vnode);
            state.store.add_vnode(vnode, term);
            self.backlog.restart(vnode, 1);
        }
        let tail = state.store.sequence(vnode);
        if !self.backlog.covers(vnode, tail + 1) {
            self.backlog.restart(vnode, tail + 1);
        }
        self.abandon(vnode);
        let mut copy = Copy::new(term, Role::Leading(Box::new(Lead::new(tail))));
        if let Some(old) = self.copies[vnode].as_deref() {
            (copy.promised_until, copy.has_idle) = (old.promised_until, old.has_idle);
        }
        self.copies[vnode] = Some(Box::new(copy));
    }

    /// This core keeps a copy of `vnode`, from now on or still.
    fn follow(&mut self, state: &mut State<'_>, vnode: usize, roles: &Roles, ring: &Ring) {
        let leader = ring.member(roles.primary.node).map(|member| Peer { node: member.node, core: roles.primary.core });
        if self.copies[vnode].is_none() {
            state.store.add_vnode(vnode, roles.term);
            self.backlog.restart(vnode, 1);
            let follow = Follow {
                leader: None,
                has_begun: false,
                cursor: 0,
                told: 0,
                is_short: false,
                is_in_sync: false,
                has_siblings: true,
            };
            self.copies[vnode] = Some(Box::new(Copy::new(roles.term, Role::Following(follow))));
        }
        self.obey_term(state.store, vnode, roles.term);
        let mut is_new = false;
        if let Some(Copy { role: Role::Following(follow), .. }) = self.copies[vnode].as_deref_mut() {
            is_new = follow.leader != leader || !follow.has_begun;
            follow.leader = leader;
            let has_siblings = roles.copies().count() > 1;
            if std::mem::replace(&mut follow.has_siblings, has_siblings) && !has_siblings {
                // Nobody else may need them, and nothing settles them any more.
                self.backlog.restart(vnode, state.store.sequence(vnode) + 1);
            }
        }
        if let Some(leader) = leader.filter(|_| is_new) {
            // Its heartbeat may have come before this ring did, and the next one is a while away.
            self.link(leader).acks.push(vnode as u16);
        }
        state.store.set_vnode_role(vnode, follower_role());
    }

    /// Follows whoever leads under `term`, which is at least as high as any this copy knows.
    pub(super) fn obey_term(&mut self, store: &mut Store, vnode: usize, term: u32) {
        let Some(copy) = self.copies[vnode].as_deref_mut().filter(|copy| copy.term < term) else { return };
        (copy.term, copy.fence, copy.sealed) = (term, term, None);
        match &mut copy.role {
            Role::Following(follow) => (follow.leader, follow.has_begun) = (None, false),
            Role::Leading(lead) => {
                lead.abandon(&mut self.tickets);
                let cursor = AckEntry::CURSOR_END;
                copy.role = Role::Following(Follow {
                    leader: None,
                    has_begun: false,
                    cursor,
                    told: cursor,
                    is_short: false,
                    is_in_sync: false,
                    has_siblings: true,
                });
                store.set_vnode_role(vnode, follower_role());
            }
        }
    }

    fn drop_copy(&mut self, state: &mut State<'_>, vnode: usize) {
        self.abandon(vnode);
        if self.copies[vnode].take().is_some() {
            state.store.drop_vnode(vnode);
            self.backlog.restart(vnode, 1);
            self.sealed.remove(&(vnode as u16));
        }
    }

    fn abandon(&mut self, vnode: usize) {
        if let Some(Copy { role: Role::Leading(lead), .. }) = self.copies[vnode].as_deref_mut() {
            lead.abandon(&mut self.tickets);
        }
    }

    fn seal(&mut self, now: Instant, vnode: u16, term: u32) {
        let Some(copy) = self.copy(vnode) else { return };
        if term > copy.term && term >= copy.fence {
            (copy.sealed, copy.report_from) = (Some(term), now);
            if !is_planted(Fault::NoSeal) {
                copy.fence = term;
            }
        }
        if copy.sealed == Some(term) {
            copy.report_from = copy.report_from.min(now);
            self.counters.seals += u64::from(self.sealed.insert(vnode));
        }
    }

    fn begin_move(&mut self, now: Instant, state: &mut State<'_>, vnode: u16, term: u32, target: Seat) {
        let Some(target) = self.peer_at(target) else { return };
        let Some(copy) = self.copy(vnode).filter(|copy| copy.term == term) else { return };
        let is_current = copy.is_current();
        let Role::Leading(lead) = &mut copy.role else { return };
        let is_member = lead.member(target).is_some();
        match lead.phase {
            Phase::Serving if is_current && is_member => {
                lead.phase = Phase::HandingOver(target);
                (copy.fence, copy.sealed, copy.report_from) = (term + 1, Some(term + 1), now + MOVE_TIME_MAX);
                self.handovers.insert(vnode);
                self.mark_dirty(vnode);
                self.counters.handovers += 1;
            }
            Phase::HandingOver(known) if known == target => self.report_ready(state.store, vnode),
            _ => {}
        }
    }

    /// Reports that the target of a move has everything, if it has, and is sealed for the next term (C10).
    pub(super) fn report_ready(&mut self, store: &Store, vnode: u16) {
        let last = store.sequence(usize::from(vnode));
        let Some((term, lead)) = self.leading(vnode) else { return };
        let Phase::HandingOver(target) = lead.phase else { return };
        let is_ready = lead.member(target).is_some_and(|member| member.term == term + 1 && member.applied == last);
        if let Some(target) = self.seat_of(target).filter(|_| is_ready) {
            self.reports.push_back(Report::MoveReady { vnode: u32::from(vnode), term, target });
        }
    }
}

/// What a copy that follows is to its store.
pub(super) fn follower_role() -> VnodeRole {
    if is_planted(Fault::CopyEvicts) { VnodeRole::Alone } else { VnodeRole::Following }
}

impl Copy {
    fn new(term: u32, role: Role) -> Self {
        let (report_from, promised_until) = (Instant::ORIGIN, Instant::ORIGIN);
        let (is_dirty, has_idle) = (false, false);
        Self { term, fence: term, sealed: None, report_from, promised_until, is_dirty, has_idle, role }
    }
}

impl Lead {
    /// The ring's copies; what is known of those that stay, stays. One that catches up, and may have been let go and taken again
    /// in a ring that this core has not seen, has to say anew where it stands; one that counts has not been, because nobody
    /// but this primary could have asked for that (C8). Whether they are others than before, or count otherwise.
    fn take_members(&mut self, now: Instant, roles: &Roles, ring: &Ring, is_next: bool) -> bool {
        let mut members = Vec::new();
        for copy in roles.copies() {
            let Some(member) = ring.member(copy.seat.node) else { continue };
            let peer = Peer { node: member.node, core: copy.seat.core };
            let is_in_sync = copy.state == CopyState::InSync;
            let known = self.member(peer).cloned();
            let stays = known.is_some() && (is_next || is_in_sync);
            let mut member = known.unwrap_or_else(|| Member::new(peer, is_in_sync, now));
            if !stays && !is_in_sync {
                member.since_epoch = ring.epoch;
            }
            members.push(Member { is_in_sync, ..member });
        }
        self.retiring.retain(|peer| members.iter().any(|member| member.peer == *peer && member.is_in_sync));
        let seen = |member: &Member| (member.peer, member.is_in_sync);
        let has_changed = !self.members.iter().map(seen).eq(members.iter().map(seen));
        self.members = members;
        has_changed
    }

    /// Forgets the open proposal once the ring that settles it is here.
    pub(super) fn end_settled_proposal(&mut self, epoch: u32) {
        if self.proposal.as_ref().is_some_and(|proposal| proposal.settled_by.is_some_and(|settled| settled <= epoch)) {
            self.proposal = None;
        }
    }
}
