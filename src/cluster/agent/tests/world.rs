//! A cluster in one thread: agents, an etcd, messages that are late, lost and doubled, and copies that do what copies are
//! told, each a counter of writes.
//!
//! Writes go to copies at once or not at all, so what is checked is the leader's part: that whoever becomes the primary has
//! everything that was acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quoit_wire::topology::Seat;
use quoit_wire::{Version, WriteMode};

use super::etcd::Etcd;
use crate::cluster::agent::{Agent, AgentOptions, News};
use crate::cluster::etcd::{EtcdFailure, EtcdRequest, EtcdResponse, WatchEvent};
use crate::cluster::messages::{ControlMessage, Election, Order, Report};
use crate::cluster::records::Identity;
use crate::cluster::ring::{COPIES_MAX, CopyState, NodeRef, Registration, Ring};
use crate::time::{Duration, Instant};

/// Length of one step.
pub(super) const STEP: Duration = Duration::from_millis(10);
/// A core looks around and repeats itself this often.
const ACT_EVERY_MS: u64 = 50;
/// So often a core has looked around until a copy has caught up.
const CATCH_UP_STEPS: u32 = 3;
/// Silence after which a primary proposes to do without a copy (C8).
const SILENCE: Duration = Duration::from_millis(500);
/// Steps by which a request may come to etcd late that is not answered: longer than its sender waits.
const HELD_BACK_MAX: u64 = 300;
const CORES: u16 = 2;

/// What goes wrong, in thousandths.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    /// A message between nodes is lost.
    pub(super) lost: u64,
    /// It is doubled.
    pub(super) doubled: u64,
    /// A request to etcd is not answered: half of these are carried out, at some time.
    pub(super) unanswered: u64,
    /// Steps by which a message or an answer may be late.
    pub(super) late_max: u64,
}

/// One seat of one vnode, as its core has it.
#[derive(Clone, Debug, Default)]
struct Copy {
    term: u32,
    applied: Version,
    /// Refuses everything below this term, though no ring has it yet.
    sealed: u32,
    /// Sealed by its own hand, towards this target, since then, and whether that was reported as ready.
    moving: Option<(Seat, Instant, bool)>,
    /// Its number, the ring it was made under, and the set.
    proposal: Option<(u64, u32, Vec<Seat>)>,
    next_number: u64,
    caught_up: BTreeMap<Seat, u32>,
    retired: Vec<Seat>,
    silent_since: BTreeMap<Seat, Instant>,
}

pub(super) struct Node {
    pub(super) agent: Agent,
    pub(super) node: NodeRef,
    ring: Option<Arc<Ring>>,
    election: Election,
    copies: BTreeMap<(u32, Seat), Copy>,
    settled_at: BTreeMap<(u32, Seat), u32>,
    answers: VecDeque<(Instant, u64, EtcdResponse)>,
    watch: Option<usize>,
    /// It does not turn until then.
    pub(super) frozen_until: Instant,
    /// It does not reach etcd until then.
    pub(super) cut_until: Instant,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) etcd: Etcd,
    pub(super) nodes: BTreeMap<u64, Node>,
    wire: VecDeque<(Instant, NodeRef, NodeRef, ControlMessage)>,
    /// Requests on their way to etcd, from whom, and whether the answer comes back.
    requests: VecDeque<(Instant, NodeRef, u64, EtcdRequest, bool)>,
    pub(super) faults: Faults,
    random: u64,
    /// The last acknowledged write of each vnode.
    acknowledged: Vec<Version>,
    /// Who led under each term.
    leaders: BTreeMap<(usize, u32), Seat>,
    pub(super) rings: Vec<Arc<Ring>>,
    pub(super) lost_vnodes: usize,
    /// More than one node failed at a time: acknowledged writes of `one` may go.
    pub(super) may_lose: bool,
    /// Whether primaries write; a large world does without.
    pub(super) writes: bool,
    pub(super) replicas: u8,
    vnode_bits: u8,
    incarnations: u64,
}

impl World {
    pub(super) fn new(seed: u64, vnode_bits: u8, replicas: u8) -> Self {
        Self {
            now: Instant::from_millis(1_000_000),
            etcd: Etcd::default(),
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            requests: VecDeque::new(),
            faults: Faults::default(),
            random: seed | 1,
            acknowledged: vec![Version::NONE; 1 << vnode_bits],
            leaders: BTreeMap::new(),
            rings: Vec::new(),
            lost_vnodes: 0,
            may_lose: false,
            writes: true,
            replicas,
            vnode_bits,
            incarnations: 0,
        }
    }

    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below.max(1)
    }

    pub(super) fn start(&mut self, id: u64) {
        self.incarnations += 1;
        let node = NodeRef { id, incarnation: self.incarnations };
        let zone = format!("zone-{}", id % 3);
        let address = format!("10.0.0.{id}:7400");
        let registration = Registration {
            node,
            name: format!("node-{id}"),
            address,
            zone,
            cores: CORES,
            weight: 1,
            memory_bytes: 1 << 30,
            leaving: false,
        };
        let options = AgentOptions {
            cluster: "test".to_owned(),
            registration,
            lease_secs: 2,
            identity: Identity { cluster_id: id, seed: 1, vnode_bits: self.vnode_bits },
            replicas: self.replicas,
            write_mode: WriteMode::One,
        };
        let entry = Node {
            agent: Agent::new(self.now, options),
            node,
            ring: None,
            election: 0,
            copies: BTreeMap::new(),
            settled_at: BTreeMap::new(),
            answers: VecDeque::new(),
            watch: None,
            frozen_until: Instant::ORIGIN,
            cut_until: Instant::ORIGIN,
        };
        self.nodes.insert(id, entry);
    }

    pub(super) fn kill(&mut self, id: u64) {
        self.nodes.remove(&id);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until `holds`; fails after a minute.
    pub(super) fn run_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let begin = self.now;
        while !holds(self) {
            assert!(
                self.now.since(begin) < Duration::from_secs(60),
                "after a minute still not: {what}\n{}",
                self.describe()
            );
            self.step();
        }
        self.now.since(begin)
    }

    pub(super) fn ring(&self) -> Option<&Arc<Ring>> {
        self.rings.last()
    }

    /// Whether every vnode has a live primary and all its replicas, nothing moves, and nobody waits.
    pub(super) fn is_settled(&self) -> bool {
        let Some(ring) = self.ring() else { return false };
        let is_there = |seat: Seat| ring.member(seat.node).is_some_and(|member| self.find(member.node).is_some());
        let takers = ring.slots.iter().flatten().filter(|member| !member.draining).count();
        let copies = usize::from(self.replicas).min(takers.saturating_sub(1));
        let slots = ring.slots.iter().flatten().count();
        let all_in_sync = ring.vnodes.iter().all(|roles| {
            let copies_now = roles.copies().count();
            copies_now == copies && roles.in_sync().count() == copies && roles.in_sync_members().all(is_there)
        });
        all_in_sync && slots == self.nodes.len()
    }

    /// The last ring, for whoever has to find out why a test fails.
    fn describe(&self) -> String {
        let Some(ring) = self.ring() else { return "no ring".to_owned() };
        let slots: Vec<_> = ring.slots.iter().map(|slot| slot.as_ref().map(|member| member.node)).collect();
        let nodes = self.nodes.values().map(|node| (node.node, node.agent.leads(self.now), node.agent.trouble()));
        let mut text = format!("epoch {}, slots {slots:?}\nnodes {:?}\n", ring.epoch, nodes.collect::<Vec<_>>());
        for (vnode, roles) in ring.vnodes.iter().enumerate().filter(|(_, roles)| {
            roles.copies().count() != usize::from(self.replicas) || roles.in_sync().count() != roles.copies().count()
        }) {
            text += &format!("vnode {vnode}: {roles:?}\n");
            for node in self.nodes.values() {
                for ((_, seat), copy) in node.copies.iter().filter(|((of, _), _)| *of as usize == vnode) {
                    text += &format!("  {}: {seat:?} {copy:?}\n", node.node.id);
                }
            }
        }
        text
    }

    fn find(&self, node: NodeRef) -> Option<&Node> {
        self.nodes.get(&node.id).filter(|found| found.node == node)
    }

    pub(super) fn leader(&self) -> Option<u64> {
        self.nodes.values().find(|node| node.agent.leads(self.now)).map(|node| node.node.id)
    }

    pub(super) fn step(&mut self) {
        self.now = self.now + STEP;
        self.etcd.expire(self.now);
        self.deliver();
        self.deliver_to_etcd();
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let Some(mut node) = self.nodes.remove(&id) else { continue };
            if self.now >= node.frozen_until {
                self.turn(&mut node);
            }
            self.nodes.insert(id, node);
        }
        if self.writes {
            self.write();
        }
    }

    fn deliver(&mut self) {
        for _ in 0..self.wire.len() {
            let Some((due, from, to, message)) = self.wire.pop_front() else { break };
            if due > self.now {
                self.wire.push_back((due, from, to, message));
                continue;
            }
            let now = self.now;
            if let Some(node) = self.nodes.get_mut(&to.id).filter(|node| node.node == to && now >= node.frozen_until) {
                // As it would come over a wire.
                let message = ControlMessage::from_bytes(&message.to_bytes()).expect("its own bytes");
                node.agent.handle_message(now, from, message);
            }
        }
    }

    fn deliver_to_etcd(&mut self) {
        for _ in 0..self.requests.len() {
            let Some((due, from, ticket, request, is_answered)) = self.requests.pop_front() else { break };
            if due > self.now {
                self.requests.push_back((due, from, ticket, request, is_answered));
                continue;
            }
            let response = self.etcd.execute(self.now, &request);
            let response = match self.draw(2) {
                _ if is_answered => response,
                0 => EtcdResponse::Failed(EtcdFailure::Unanswered),
                _ => continue,
            };
            let late = Duration::from_millis(self.draw(self.faults.late_max + 1) * STEP.as_millis());
            if let Some(node) = self.nodes.get_mut(&from.id).filter(|node| node.node == from) {
                node.answers.push_back((self.now + late, ticket, response));
            }
        }
    }

    fn turn(&mut self, node: &mut Node) {
        (0..CORES).for_each(|core| node.agent.handle_core_alive(self.now, core));
        self.exchange_with_etcd(node);
        while let Some(news) = node.agent.poll_news() {
            match news {
                News::Ring(ring) => self.take_ring(node, ring),
                News::Leader(leader) => node.election = leader.map_or(0, |(_, election)| election),
                News::Order(election, seat, order) if election == node.election => obey(self.now, node, seat, order),
                News::Order(..) | News::Lease(_) | News::Trouble(_) | News::Wish(..) => {}
            }
        }
        self.act(node);
        while let Some((to, message)) = node.agent.poll_message(self.now) {
            for _ in 0..1 + u64::from(self.draw(1000) < self.faults.doubled) {
                if self.draw(1000) >= self.faults.lost {
                    let late = self.draw(self.faults.late_max + 1) * STEP.as_millis();
                    self.wire.push_back((self.now + Duration::from_millis(late), node.node, to, message.clone()));
                }
            }
        }
    }

    fn exchange_with_etcd(&mut self, node: &mut Node) {
        let is_cut = self.now < node.cut_until;
        while let Some((ticket, request)) = node.agent.poll_request(self.now) {
            let fate = self.draw(1000);
            if is_cut || fate < self.faults.unanswered / 2 {
                if let EtcdRequest::Watch { .. } = request {
                    node.agent.handle_watch(self.now, vec![WatchEvent::Closed]);
                }
                continue;
            }
            if let EtcdRequest::Watch { from_revision, .. } = request {
                node.watch = Some(self.etcd.place_of(from_revision));
                continue;
            }
            // One that is not answered may also be carried out long after its sender has given it up.
            let is_answered = fate >= self.faults.unanswered;
            let late_max = if is_answered { self.faults.late_max } else { HELD_BACK_MAX };
            let late = Duration::from_millis(self.draw(late_max + 1) * STEP.as_millis());
            self.requests.push_back((self.now + late, node.node, ticket, request, is_answered));
        }
        for _ in 0..node.answers.len() {
            let Some((due, ticket, response)) = node.answers.pop_front() else { break };
            match due <= self.now {
                true => node.agent.handle_response(self.now, ticket, response),
                false => node.answers.push_back((due, ticket, response)),
            }
        }
        if is_cut && node.watch.take().is_some() {
            node.agent.handle_watch(self.now, vec![WatchEvent::Closed]);
        }
        if let Some(place) = node.watch.filter(|place| *place < self.etcd.events.len()) {
            node.watch = Some(self.etcd.events.len());
            node.agent.handle_watch(self.now, self.etcd.events[place..].to_vec());
        }
    }

    /// A node's cores get the ring, and the world checks it when it is the first to see it.
    fn take_ring(&mut self, node: &mut Node, ring: Arc<Ring>) {
        if self.rings.last().is_none_or(|last| last.epoch < ring.epoch) {
            self.check(&ring);
            self.rings.push(ring.clone());
        }
        let own = ring.slot_of(node.node);
        for (vnode, roles) in (0u32..).zip(&ring.vnodes) {
            let seats = std::iter::once(roles.primary).chain(roles.copies().map(|copy| copy.seat));
            for seat in seats.filter(|seat| Some(seat.node) == own) {
                let copy = node.copies.entry((vnode, seat)).or_default();
                if roles.term > copy.term {
                    let (applied, sealed) = (copy.applied, copy.sealed);
                    let was = roles.state(seat);
                    let stays = was != Some(CopyState::CatchingUp) || roles.last().any(|last| last == seat);
                    *copy = Copy {
                        term: roles.term,
                        applied: if stays { applied } else { Version::NONE },
                        ..Copy::default()
                    };
                    copy.sealed = if sealed > roles.term { sealed } else { 0 };
                }
            }
        }
        // What the ring does not give to this node is gone.
        let has = |&(vnode, seat): &(u32, Seat)| {
            let roles = &ring.vnodes[vnode as usize];
            Some(seat.node) == own && (roles.primary == seat || roles.state(seat).is_some())
        };
        node.copies.retain(|key, _| has(key));
        node.ring = Some(ring);
    }

    /// C2: terms rise and belong to one primary each. C8: a set changes under one term by a proposal alone.
    fn check(&mut self, ring: &Arc<Ring>) {
        assert_eq!(ring.check(), Ok(()));
        for (vnode, roles) in ring.vnodes.iter().enumerate() {
            let leader = *self.leaders.entry((vnode, roles.term)).or_insert(roles.primary);
            assert_eq!(leader, roles.primary, "two primaries under term {} of vnode {vnode}", roles.term);
            let Some(before) = self.rings.last().map(|ring| ring.vnodes[vnode]) else { continue };
            assert!(roles.term >= before.term, "vnode {vnode}: a term went back");
            let mut candidates = before.in_sync_members().chain(before.last());
            if before.term < roles.term && !candidates.any(|member| member == roles.primary) {
                self.lost_vnodes += 1;
                self.acknowledged[vnode] = Version::NONE;
            }
        }
    }

    /// What a core does by itself: it catches up, proposes, and repeats what was not heard.
    fn act(&mut self, node: &mut Node) {
        let Some(ring) = node.ring.clone().filter(|_| self.now.as_millis().is_multiple_of(ACT_EVERY_MS)) else {
            return;
        };
        let own: BTreeMap<_, _> = node.copies.iter().map(|(key, copy)| (*key, (copy.term, copy.sealed))).collect();
        let mut reports = Vec::new();
        for (&(vnode, seat), copy) in &mut node.copies {
            let roles = &ring.vnodes[vnode as usize];
            if copy.sealed > roles.term {
                reports.push((seat, Report::Sealed { vnode, term: copy.sealed, applied: copy.applied }));
                continue;
            }
            if roles.primary != seat {
                continue;
            }
            let hears = |at: Seat| {
                let known =
                    if at.node == seat.node { own.get(&(vnode, at)).copied() } else { self.hears(&ring, vnode, at) };
                known == Some((copy.term, 0))
            };
            if let Some((target, since, is_ready)) = &mut copy.moving {
                *is_ready |= hears(*target) && roles.state(*target) == Some(CopyState::InSync);
                if *is_ready {
                    reports.push((seat, Report::MoveReady { vnode, term: copy.term, target: *target }));
                } else if self.now.since(*since) >= SILENCE {
                    copy.moving = None;
                }
                continue;
            }
            // Done; should the leader want it again, it is a copy like any other.
            copy.retired.retain(|retired| roles.state(*retired) == Some(CopyState::InSync));
            if copy.proposal.is_none() && node.settled_at.get(&(vnode, seat)).is_none_or(|epoch| ring.epoch >= *epoch) {
                let mut in_sync: Vec<Seat> = Vec::new();
                for it in roles.copies() {
                    let since = copy.silent_since.entry(it.seat).or_insert(self.now);
                    if hears(it.seat) {
                        *since = self.now;
                    }
                    let since = *since;
                    let counts = match it.state {
                        CopyState::InSync => self.now.since(since) < SILENCE && !copy.retired.contains(&it.seat),
                        CopyState::CatchingUp => {
                            let steps = copy.caught_up.entry(it.seat).or_default();
                            *steps = if hears(it.seat) { *steps + 1 } else { 0 };
                            *steps > CATCH_UP_STEPS
                        }
                    };
                    in_sync.extend(Some(it.seat).filter(|_| counts));
                }
                let mut known: Vec<Seat> = roles.in_sync().collect();
                known.sort();
                in_sync.sort();
                if known != in_sync {
                    copy.next_number += 1;
                    copy.proposal = Some((copy.next_number, ring.epoch, in_sync));
                }
            }
            if let Some((number, epoch, proposed)) = &copy.proposal {
                let mut in_sync = [Seat::NOWHERE; COPIES_MAX];
                in_sync.iter_mut().zip(proposed).for_each(|(place, seat)| *place = *seat);
                reports
                    .push((seat, Report::InSync { vnode, term: copy.term, number: *number, epoch: *epoch, in_sync }));
            }
        }
        for (seat, report) in reports {
            node.agent.handle_report(self.now, node.election, seat, report);
        }
    }

    /// The term and seal of the copy at a seat of another node, if that node turns.
    fn hears(&self, ring: &Ring, vnode: u32, at: Seat) -> Option<(u32, u32)> {
        let node = self.find(ring.member(at.node)?.node).filter(|node| self.now >= node.frozen_until)?;
        node.copies.get(&(vnode, at)).map(|copy| (copy.term, copy.sealed))
    }

    /// Every primary that serves writes once, in mode `one`.
    fn write(&mut self) {
        let mut writes = Vec::new();
        for node in self.nodes.values().filter(|node| self.now >= node.frozen_until) {
            let Some(ring) = &node.ring else { continue };
            for (&(vnode, seat), copy) in &node.copies {
                let roles = ring.vnodes[vnode as usize];
                let serves =
                    roles.primary == seat && copy.term == roles.term && copy.sealed == 0 && copy.moving.is_none();
                if serves {
                    writes.push((
                        node.node.id,
                        vnode,
                        seat,
                        roles,
                        copy.term,
                        copy.proposal.clone(),
                        copy.caught_up.clone(),
                    ));
                }
            }
        }
        for (id, vnode, seat, roles, term, proposal, caught_up) in writes {
            let mut holders = Vec::new();
            for copy in roles
                .copies()
                .filter(|it| it.state == CopyState::InSync || caught_up.get(&it.seat) > Some(&CATCH_UP_STEPS))
            {
                let Some(at) = self.seat_of(copy.seat, vnode, term) else { continue };
                let counts = copy.state == CopyState::InSync
                    && proposal.as_ref().is_none_or(|(_, _, set)| set.contains(&copy.seat));
                holders.push((at, copy.seat, counts && copy.seat.node != seat.node));
            }
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let copy = node.copies.get_mut(&(vnode, seat)).expect("it was there");
            let others = holders.iter().map(|(at, ..)| *at).collect::<Vec<_>>();
            let is_new = copy.applied.term() < term;
            copy.applied = Version::new(term, if is_new { 1 } else { copy.applied.sequence() + 1 });
            let applied = copy.applied;
            for (at, (_, copy_seat, _)) in others.iter().zip(&holders) {
                let copy = self.nodes.get_mut(at).and_then(|node| node.copies.get_mut(&(vnode, *copy_seat)));
                copy.into_iter().for_each(|copy| copy.applied = applied);
            }
            let acknowledged = &mut self.acknowledged[vnode as usize];
            if holders.iter().any(|(.., counts)| *counts) && applied > *acknowledged {
                *acknowledged = applied;
            }
        }
    }

    /// The node at a seat, if its copy takes what a primary of this term sends.
    fn seat_of(&self, seat: Seat, vnode: u32, term: u32) -> Option<u64> {
        let at = self.nodes.values().find(|node| {
            let own = node.ring.as_ref().and_then(|ring| ring.slot_of(node.node));
            own == Some(seat.node) && self.now >= node.frozen_until
        })?;
        let copy = at.copies.get(&(vnode, seat))?;
        (copy.term == term && copy.sealed <= term).then_some(at.node.id)
    }

    /// Every primary has everything that was acknowledged.
    pub(super) fn check_nothing_lost(&self) {
        let Some(ring) = self.ring() else { return };
        for (vnode, roles) in ring.vnodes.iter().enumerate() {
            let node = ring.member(roles.primary.node).and_then(|member| self.find(member.node));
            let Some(node) = node.filter(|node| node.ring.as_ref().is_some_and(|it| it.epoch == ring.epoch)) else {
                continue;
            };
            let applied = node.copies.get(&(vnode as u32, roles.primary)).map_or(Version::NONE, |copy| copy.applied);
            let acknowledged = self.acknowledged[vnode];
            assert!(
                self.may_lose || applied >= acknowledged,
                "vnode {vnode}: {applied} where {acknowledged} was acknowledged"
            );
        }
    }
}

fn obey(now: Instant, node: &mut Node, seat: Seat, order: Order) {
    let vnode = order.vnode();
    let Some(copy) = node.copies.get_mut(&(vnode, seat)) else { return };
    match order {
        Order::Seal { term, .. } if term > copy.term => copy.sealed = copy.sealed.max(term),
        Order::BeginMove { term, target, .. } if term == copy.term && copy.sealed == 0 && copy.proposal.is_none() => {
            copy.moving.get_or_insert((target, now, false));
        }
        Order::Retire { term, copy: retired, .. } if term == copy.term => copy.retired.push(retired),
        Order::Settled { term, number, epoch, .. }
            if term == copy.term && copy.proposal.as_ref().is_some_and(|(open, ..)| *open == number) =>
        {
            copy.proposal = None;
            node.settled_at.insert((vnode, seat), epoch);
        }
        _ => {}
    }
}
