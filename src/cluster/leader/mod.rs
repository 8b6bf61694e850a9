//! The leader: who leads which vnode, which copies count, and what moves.
//!
//! It exists on the node that won the election and only while that node's lease is good. It knows the ring as etcd has it,
//! who is registered, and what copies report; it answers with orders and with the next ring, one write at a time
//! (`plan.rs`). All it remembers beside the ring can be lost: a new leader asks again, and whoever waits for an
//! answer repeats its report. With etcd out of reach it is told nothing and changes nothing (C15).

mod moves;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quoit_wire::topology::{Placement, Seat};
use quoit_wire::{Version, WriteMode};

use self::moves::Moves;
use super::messages::{ENTRIES_MAX, Election, Order, Report};
use super::records::{Identity, Intent};
use super::ring::{CopyState, NodeRef, Registration, Ring, Roles};
use crate::time::{Duration, Instant};

/// Between two writes of the ring: at most 20 transactions a second. Longer: moves and proposals take longer.
const WRITE_GAP: Duration = Duration::from_millis(50);
/// Between two looks at whether there is something to write, when there was not. Reports come one by one, and a look costs
/// that of a walk over the ring.
const PLAN_GAP: Duration = Duration::from_millis(5);
/// Who is told to seal has so long to answer before the others' answers are written without it: what is ordered together is
/// written together. Shorter: the last answers wait for the next write; longer: all wait for one that will not come.
const GATHER_TIME: Duration = Duration::from_millis(30);
/// An order without effect is given again after this long. Shorter: more messages while copies are busy; longer: a lost
/// seal delays a failover by as much.
const ORDER_REPEAT: Duration = Duration::from_millis(200);
/// How long an empty vnode waits for a node that might have only lost touch with etcd (C9).
const LOST_WAIT: Duration = Duration::from_secs(10);
/// A new cluster begins when no node has come for this long, so that its first nodes share it without moving anything.
const FOUNDING_QUIET: Duration = Duration::from_secs(2);
/// One in so many vnodes may be catching up on one node, or from one node, at a time. Whoever streams them does so few at a
/// time (`copies::limits::STREAMS_MAX`), so more of them cost nothing when they are large; fewer make a join take longer
/// when they are small, because each batch waits for a round of reports and a write of the ring.
const VNODES_PER_CATCH_UP: usize = 16;
/// As many may in any case, in clusters of few vnodes.
const CATCHING_UP_MIN: usize = 16;
/// What a new cluster is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster's name.
    pub cluster: String,
    /// What etcd says of it.
    pub identity: Identity,
    /// Replicas beside each primary.
    pub replicas: u8,
    /// What a write waits for that does not say.
    pub write_mode: WriteMode,
}

/// What is left to do until everything lies where it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepsLeft {
    /// Vnodes to be handed over.
    pub handovers: usize,
    /// Copies that are being made.
    pub copies_begun: usize,
    /// Copies that will be made later.
    pub copies_to_begin: usize,
}

impl StepsLeft {
    /// All of them together.
    pub const fn total(self) -> usize {
        self.handovers + self.copies()
    }

    /// Copies that are to be made, begun or not.
    pub const fn copies(self) -> usize {
        self.copies_begun + self.copies_to_begin
    }
}

/// The cluster as etcd has it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The ring; none before the cluster is founded.
    pub ring: Option<Arc<Ring>>,
    /// Who is registered, by id.
    pub registrations: BTreeMap<u64, Registration>,
    /// What operators want, by the node's id.
    pub intents: BTreeMap<u64, Intent>,
}

/// The decisions of the elected node.
#[derive(Debug)]
pub struct Leader {
    election: Election,
    founding: Founding,
    known: Known,
    /// When who is registered last changed.
    changed: Instant,
    /// The ring that brought each vnode's present roles, as far as this leader has seen it.
    roles_since: Vec<u32>,
    failovers: BTreeMap<u32, Failover>,
    /// Valid proposals that the ring does not show yet.
    proposals: BTreeMap<u32, Proposal>,
    /// The last settled proposal of each vnode, to answer repetitions and to refuse what comes late.
    settled: BTreeMap<u32, (Proposal, u32)>,
    /// Sources that have sealed themselves: the term that is to end, and who can go on.
    ready: BTreeMap<u32, (u32, Seat)>,
    /// Where everything should be, in the ring's slots, and for which slots that was computed.
    targets: Vec<Placement>,
    targets_of: Vec<(u16, u16)>,
    given: BTreeMap<(u32, Seat), Given>,
    moves: Moves,
    /// Vnodes that have to change their primary, and can; each with its term.
    movable: Vec<(u32, u32)>,
    answers: Vec<(Seat, Order)>,
    is_writing: bool,
    next_write: Instant,
    /// Something happened since the last plan.
    is_stale: bool,
}

/// An order that has no effect yet.
#[derive(Clone, Copy, Debug)]
struct Given {
    order: Order,
    /// When it was given first, and last.
    first: Instant,
    last: Instant,
}

/// A vnode whose primary is lost, or that somebody found sealed.
#[derive(Debug)]
struct Failover {
    /// The term under which it will go on.
    term: u32,
    /// What the sealed members have.
    reports: BTreeMap<Seat, Version>,
    /// Since when no in-sync member is registered.
    deserted: Option<Instant>,
}

/// An in-sync set that a primary proposes.
#[derive(Clone, Debug)]
struct Proposal {
    term: u32,
    number: u64,
    /// The ring that its primary went by.
    epoch: u32,
    in_sync: Vec<Seat>,
}

impl Leader {
    /// The leader of this election; the ring and the registrations come by [`Self::handle_known`].
    pub fn new(now: Instant, election: Election, founding: Founding) -> Self {
        Self {
            election,
            founding,
            known: Known::default(),
            changed: now,
            roles_since: Vec::new(),
            failovers: BTreeMap::new(),
            proposals: BTreeMap::new(),
            settled: BTreeMap::new(),
            ready: BTreeMap::new(),
            targets: Vec::new(),
            targets_of: Vec::new(),
            given: BTreeMap::new(),
            moves: Moves::new(now),
            movable: Vec::new(),
            answers: Vec::new(),
            is_writing: false,
            next_write: now,
            is_stale: true,
        }
    }

    /// The election it won.
    pub fn election(&self) -> Election {
        self.election
    }

    /// What etcd has now. Called whenever any of it changes.
    pub fn handle_known(&mut self, now: Instant, known: Known) {
        if known.registrations != self.known.registrations {
            self.changed = now;
        }
        self.note_changed_roles(known.ring.as_deref());
        self.known = known;
        self.is_stale = true;
        self.forget_what_is_past();
        self.find_failovers();
        self.aim();
        self.settle_moves(now);
    }

    /// The outstanding write was answered, whichever way; what it led to has been given to [`Self::handle_known`] before.
    pub fn handle_write_done(&mut self, now: Instant) {
        self.is_writing = false;
        self.next_write = now + WRITE_GAP;
        self.is_stale = true;
    }

    /// A report of a seat on `from`, under this leader's election.
    pub fn handle_report(&mut self, from: NodeRef, seat: Seat, report: Report) {
        let Some(ring) = self.known.ring.clone() else { return };
        let is_its_own = ring.member(seat.node).is_some_and(|member| member.node == from);
        let Some(roles) = ring.vnodes.get(report.vnode() as usize).filter(|_| is_its_own) else { return };
        let leads = |term: u32| roles.term == term && roles.primary == seat;
        self.is_stale = true;
        match report {
            Report::Sealed { vnode, term, applied } => {
                if term <= roles.term || !roles.in_sync_members().chain(roles.last()).any(|member| member == seat) {
                    return;
                }
                // Also when this leader asked for nothing: an earlier one has sealed it, so it must go on under a new term.
                let failover = self.failovers.entry(vnode).or_insert_with(|| Failover::new(term));
                if term > failover.term {
                    *failover = Failover::new(term);
                }
                if term == failover.term {
                    failover.reports.insert(seat, applied);
                    self.given.remove(&(vnode, seat));
                }
            }
            // While a vnode is sealed, nobody but the leader changes its set.
            _ if self.failovers.contains_key(&report.vnode()) => {}
            Report::InSync { vnode, term, number, epoch, in_sync } if leads(term) => {
                let in_sync = in_sync.into_iter().filter(|seat| *seat != Seat::NOWHERE).collect();
                self.propose(vnode, seat, Proposal { term, number, epoch, in_sync });
            }
            Report::MoveReady { vnode, term, target } if leads(term) => {
                self.ready.insert(vnode, (term, target));
                self.given.remove(&(vnode, seat));
            }
            Report::InSync { .. } | Report::MoveReady { .. } => {}
        }
    }

    /// The next ring, if there is something to write and nothing is being written. [`Self::handle_write_done`] follows.
    pub fn poll_write(&mut self, now: Instant) -> Option<Ring> {
        self.watch_the_deserted(now);
        if self.is_writing || now < self.write_at(now) || !self.is_stale {
            return None;
        }
        self.is_stale = false;
        let next = match self.known.ring.clone() {
            Some(ring) => self.next_ring(now, &ring),
            None => self.found(now),
        };
        self.next_write = now + if next.is_some() { WRITE_GAP } else { PLAN_GAP };
        self.is_writing = next.is_some();
        next
    }

    /// When the next ring may be written, as far as it is known: not too soon after the last one, and not while those who
    /// were just told to seal are about to answer.
    fn write_at(&self, now: Instant) -> Instant {
        let seals = |given: &&Given| matches!(given.order, Order::Seal { .. } | Order::BeginMove { .. });
        let answers = self.given.values().filter(seals).map(|given| given.first + GATHER_TIME);
        answers.filter(|until| now < *until).max().map_or(self.next_write, |until| until.max(self.next_write))
    }

    /// Orders that are due, by the node that they are for.
    pub fn poll_orders(&mut self, now: Instant) -> Vec<(NodeRef, Vec<(Seat, Order)>)> {
        let Some(ring) = self.known.ring.clone() else { return Vec::new() };
        self.begin_moves(now, &ring);
        let wanted = self.wanted_orders(&ring);
        let keys: BTreeSet<(u32, Seat)> = wanted.iter().map(|(seat, order)| (order.vnode(), *seat)).collect();
        self.given.retain(|key, _| keys.contains(key));
        let mut due = std::mem::take(&mut self.answers);
        for (seat, order) in wanted {
            let known = self.given.get(&(order.vnode(), seat)).filter(|known| known.order == order);
            if known.is_none_or(|known| now >= known.last + ORDER_REPEAT) {
                let first = known.map_or(now, |known| known.first);
                self.given.insert((order.vnode(), seat), Given { order, first, last: now });
                due.push((seat, order));
            }
        }
        let mut by_slot: BTreeMap<u16, Vec<(Seat, Order)>> = BTreeMap::new();
        due.into_iter().for_each(|(seat, order)| by_slot.entry(seat.node).or_default().push((seat, order)));
        let parts = by_slot.into_iter().filter_map(|(slot, orders)| Some((ring.member(slot)?.node, orders)));
        let parts = parts.flat_map(|(node, orders)| {
            orders.chunks(ENTRIES_MAX).map(|part| (node, part.to_vec())).collect::<Vec<_>>()
        });
        parts.collect()
    }

    /// When to poll again though nothing has come.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.known.ring.is_none() {
            return Some(self.changed + FOUNDING_QUIET);
        }
        let writes = Some(self.write_at(now).max(now)).filter(|_| self.is_stale && !self.is_writing);
        let orders = self.given.values().map(|given| given.last + ORDER_REPEAT).min();
        let can_move = !self.movable.is_empty() && !self.is_writing;
        let moves = Some(self.moves.due().max(self.next_write).max(now)).filter(|_| can_move);
        let answers = Some(now).filter(|_| !self.answers.is_empty());
        // Past its time there is nobody to start it with: who comes is told to `handle_known`.
        let over = self.failovers.values().filter_map(|failover| Some(failover.deserted? + LOST_WAIT));
        let deserted = over.filter(|over| *over > now).min();
        [writes, orders, moves, answers, deserted].into_iter().flatten().min()
    }

    /// Takes a proposal in, or answers one that was settled before.
    fn propose(&mut self, vnode: u32, primary: Seat, proposal: Proposal) {
        match self.settled.get(&vnode) {
            Some((last, epoch)) if last.term == proposal.term && proposal.number <= last.number => {
                let (term, number) = (last.term, last.number);
                self.answers.push((primary, Order::Settled { vnode, term, number, epoch: *epoch }));
            }
            _ => {
                self.proposals.insert(vnode, proposal);
                self.settle();
            }
        }
    }

    /// Answers the proposals that the ring shows, and those that were made under older roles: nothing is changed for them.
    fn settle(&mut self) {
        let Some(ring) = self.known.ring.clone() else { return };
        let proposals = std::mem::take(&mut self.proposals);
        for (vnode, proposal) in proposals {
            let roles = &ring.vnodes[vnode as usize];
            if roles.term != proposal.term || self.failovers.contains_key(&vnode) {
                continue;
            }
            // Made under roles that are not these any more: what it rests on may not be so any more.
            let is_outdated = proposal.epoch < self.roles_since[vnode as usize];
            if !is_outdated && self.accept(&ring, roles, &proposal) != *roles {
                self.proposals.insert(vnode, proposal);
                continue;
            }
            let Proposal { term, number, .. } = proposal;
            self.answers.push((roles.primary, Order::Settled { vnode, term, number, epoch: ring.epoch }));
            self.settled.insert(vnode, (proposal, ring.epoch));
        }
    }

    /// Which vnodes have other roles in the `next` ring than in the one that is known.
    fn note_changed_roles(&mut self, next: Option<&Ring>) {
        let Some(next) = next else { return };
        let known = self.known.ring.as_deref().filter(|known| known.vnodes.len() == next.vnodes.len());
        // What was before this leader's time may all have changed just now.
        self.roles_since.resize(next.vnodes.len(), next.epoch);
        for (vnode, since) in self.roles_since.iter_mut().enumerate() {
            if known.is_none_or(|known| known.vnodes[vnode] != next.vnodes[vnode]) {
                *since = next.epoch;
            }
        }
    }

    /// Drops what the ring has overtaken.
    fn forget_what_is_past(&mut self) {
        let Some(ring) = &self.known.ring else { return };
        let term = |vnode: &u32| ring.vnodes[*vnode as usize].term;
        self.failovers.retain(|vnode, failover| failover.term > term(vnode));
        self.ready.retain(|vnode, (ready, _)| *ready == term(vnode));
        self.settled.retain(|vnode, (settled, _)| settled.term == term(vnode));
        self.settle();
    }

    /// Every vnode whose primary is not registered any more has to fail over (C6).
    fn find_failovers(&mut self) {
        let Some(ring) = self.known.ring.clone() else { return };
        let alive = self.alive(&ring);
        for (vnode, roles) in (0u32..).zip(&ring.vnodes) {
            if !alive.has(roles.primary) {
                self.failovers.entry(vnode).or_insert_with(|| Failover::new(roles.term + 1));
                self.proposals.remove(&vnode);
                self.ready.remove(&vnode);
            }
        }
    }

    /// Notes since when vnodes have no member at all.
    fn watch_the_deserted(&mut self, now: Instant) {
        let Some(ring) = self.known.ring.clone().filter(|_| !self.failovers.is_empty()) else { return };
        let alive = self.alive(&ring);
        for (vnode, failover) in &mut self.failovers {
            let members = ring.vnodes[*vnode as usize].in_sync_members();
            let is_deserted = !{ members }.any(|member| alive.has(member));
            failover.deserted = Some(failover.deserted.unwrap_or(now)).filter(|_| is_deserted);
            self.is_stale |= failover.deserted.is_some_and(|since| now >= since + LOST_WAIT);
        }
    }

    /// What has to be ordered in the ring as it is. It is the same until reports or the ring change.
    fn wanted_orders(&self, ring: &Ring) -> Vec<(Seat, Order)> {
        let alive = self.alive(ring);
        let mut orders = Vec::new();
        for (&vnode, failover) in &self.failovers {
            let roles = &ring.vnodes[vnode as usize];
            let members = roles.in_sync_members().chain(roles.last());
            for member in members.filter(|&member| alive.has(member) && !failover.reports.contains_key(&member)) {
                orders.push((member, Order::Seal { vnode, term: failover.term }));
            }
        }
        for (vnode, (roles, target)) in (0u32..).zip(ring.vnodes.iter().zip(&self.targets)) {
            let is_busy = self.failovers.contains_key(&vnode) || self.ready.contains_key(&vnode);
            if is_busy || !alive.has(roles.primary) {
                continue;
            }
            let (source, term) = (roles.primary, roles.term);
            let counts = |seat: Seat| roles.state(seat) == Some(CopyState::InSync);
            if self.moves.has(vnode) && can_move(roles, target, &alive) {
                orders.push((source, Order::BeginMove { vnode, term, target: target.primary }));
                continue;
            }
            let wanted = |seat: Seat| target.seats().any(|wanted| wanted == seat);
            let all_count = target.seats().all(|seat| seat == source || counts(seat));
            let is_full = roles.copies().count() == super::ring::COPIES_MAX;
            if let Some(copy) = roles.in_sync().find(|&copy| !wanted(copy))
                && (is_full || (all_count && target.primary == source))
            {
                orders.push((source, Order::Retire { vnode, term, copy }));
            }
        }
        orders
    }

    /// Looks anew at who can move, and at the moves that are under way.
    fn settle_moves(&mut self, now: Instant) {
        let Some(ring) = self.known.ring.clone() else { return };
        let alive = self.alive(&ring);
        let vnodes = (0u32..).zip(ring.vnodes.iter().zip(&self.targets));
        let movable = vnodes.filter(|(_, (roles, target))| can_move(roles, target, &alive));
        self.movable = movable.map(|(vnode, (roles, _))| (vnode, roles.term)).collect();
        let movable = &self.movable;
        self.moves.settle(now, |vnode, term| movable.binary_search(&(vnode, term)).is_ok());
    }

    /// Begins the next moves, if it is time and the ring can be written as soon as they are ready.
    fn begin_moves(&mut self, now: Instant, ring: &Ring) {
        if self.movable.is_empty() || self.is_writing || now < self.moves.due().max(self.next_write) {
            return;
        }
        let is_busy = |vnode: &u32| self.failovers.contains_key(vnode) || self.ready.contains_key(vnode);
        let movable: Vec<_> = self.movable.iter().copied().filter(|(vnode, _)| !is_busy(vnode)).collect();
        self.moves.begin(now, ring.vnodes.len(), &movable);
    }

    fn alive(&self, ring: &Ring) -> Alive {
        let is_registered = |node: NodeRef| self.known.registrations.get(&node.id).is_some_and(|it| it.node == node);
        Alive(ring.slots.iter().map(|slot| slot.as_ref().is_some_and(|member| is_registered(member.node))).collect())
    }
}

/// Whether the vnode has to go to another primary, and that one has everything.
fn can_move(roles: &Roles, target: &Placement, alive: &Alive) -> bool {
    target.primary != roles.primary
        && roles.state(target.primary) == Some(CopyState::InSync)
        && alive.has(target.primary)
        && alive.has(roles.primary)
}

/// Which slots are lives that are registered.
struct Alive(Vec<bool>);

impl Alive {
    /// Whether the seat's node is; nobody is at [`Seat::NOWHERE`].
    fn has(&self, seat: Seat) -> bool {
        self.0.get(usize::from(seat.node)).is_some_and(|is_alive| *is_alive)
    }
}

impl Failover {
    fn new(term: u32) -> Self {
        Self { term, reports: BTreeMap::new(), deserted: None }
    }
}

#[cfg(test)]
mod tests;
