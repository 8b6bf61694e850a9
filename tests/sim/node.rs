//! A node: one agent and its cores, each with a real shard, wired as the runtime wires them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quoit_wire::peer::PeerMessage;
use quoit_wire::topology::{Node as TopologyNode, Topology, vnode_of};
use quoit_wire::{
    Operation as WireOperation, Reply, Request, RequestFlags, RequestHead, Status, Version, WriteMode, request_head,
};

use super::client::ConnectionId;
use super::clock::Clock;
use crate::cluster::agent::{Agent, AgentOptions};
use crate::cluster::copies::{Copies, OnEtcdLoss, Peer, Release, Ticket};
use crate::cluster::records::Identity;
use crate::cluster::{Election, NodeRef, Order, Registration, Report, Ring};
use crate::shard::{LargeSet, Outcome, Output, ReplyLimits, Route, Shard, TopologyOutcome};
use crate::store::{Departure, PolicyKind, StoreOptions};
use crate::time::{Duration, Instant};

pub(super) const CORES: u16 = 2;
pub(super) const LEASE_SECS: i64 = 2;
pub(super) const VALUE_BYTES_MAX: usize = 1 << 20;
/// Records kept for copies that lag: few, so that copies have to be streamed anew now and then.
const BACKLOG_BYTES_MAX: usize = 16 << 10;
/// ... and where memory is filled and items are evicted, enough that a large value is no reason for that.
const BACKLOG_BYTES_MAX_EVICTING: usize = 4 << 20;
/// The least that a store can be made with.
const MEMORY_BYTES: usize = 9 << 20;
const CLUSTER: &str = "simulated";

/// Where clients reach a node, and back.
pub(super) fn address_of(id: u64) -> String {
    format!("10.0.0.{id}:7400")
}

pub(super) fn id_of_address(address: &str) -> u64 {
    let id = address.strip_prefix("10.0.0.").and_then(|rest| rest.strip_suffix(":7400"));
    id.and_then(|id| id.parse().ok()).expect("an address of this world")
}

/// What all nodes of a world have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) vnode_bits: u8,
    pub(super) hash_seed: u64,
    pub(super) replicas: u8,
    pub(super) policy: PolicyKind,
    pub(super) on_etcd_loss: OnEtcdLoss,
}

/// A watch of etcd: which one of this node's, and how far it has been told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) number: u64,
    pub(super) told: usize,
    pub(super) promised: usize,
}

pub(super) struct Node {
    pub(super) me: NodeRef,
    pub(super) clock: Clock,
    pub(super) agent: Agent,
    pub(super) cores: Vec<Core>,
    /// Flushes whose cores have not all answered, by the numbers of their attempts.
    flushes: BTreeMap<u32, Flush>,
    pub(super) watch: Option<Watch>,
    pub(super) watches: u64,
    /// It does nothing until then.
    pub(super) frozen_until_us: u64,
    /// When its agent looks again by itself.
    pub(super) agent_turn_us: u64,
}

pub(super) struct Core {
    pub(super) shard: Shard,
    pub(super) peer: Peer,
    held: BTreeMap<Ticket, Held>,
    /// Large sets whose values are still arriving, by the numbers of their attempts.
    arriving: BTreeMap<u32, Arriving>,
    /// Requests that wait for their vnode.
    waiting: BTreeMap<u16, VecDeque<Waiting>>,
    pub(super) turn_us: u64,
    /// What the node itself tells a core comes in order.
    pub(super) told_us: u64,
    /// The clock that the turn began with, while it is stopped in its middle.
    pub(super) stalled: Option<Instant>,
}

/// Who asked, and what its request is in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) connection: ConnectionId,
    /// The number of the attempt; none of what no operation needs.
    pub(super) attempt: Option<u32>,
}

/// A large set whose value is still arriving, and where in its frame that has come to.
struct Arriving {
    asker: Asker,
    set: Box<LargeSet>,
    frame: Vec<u8>,
    place: usize,
}

/// A request that came while its vnode was between two primaries, as `src/runtime/waiting.rs` keeps it.
struct Waiting {
    asker: Option<Asker>,
    since: Instant,
    frame: Vec<u8>,
    /// Its value, if it is a large set.
    set: Option<Box<LargeSet>>,
}

/// It waits so long at most.
const WAITING_TIME_MAX: Duration = Duration::from_millis(200);

/// A flush of which each core has a part.
struct Flush {
    missing: usize,
    refusal: Option<Vec<u8>>,
}

/// Of the value of a large set so much arrives at once.
const PIECE_BYTES: usize = 1 << 10;
const REPLY_LIMITS: ReplyLimits =
    ReplyLimits { pin_bytes_min: usize::MAX, copy_bytes_max: usize::MAX, retry_after_ms: 5 };

/// A reply that waits for a commit.
struct Held {
    asker: Option<Asker>,
    id: u32,
    is_write: bool,
    bytes: Vec<u8>,
}

/// What the control thread tells a core.
#[derive(Clone, Debug)]
pub(super) enum ToCore {
    Ring(Arc<Ring>),
    Lease(Instant),
    Election(Election),
    Order(Election, Order),
}

/// What became of a request.
pub(super) enum Served {
    /// It was carried out, and this is its reply, which is `Some` ticket's or may be sent.
    Replied { bytes: Vec<u8>, is_held: bool, emptied: Vec<(usize, Version)> },
    /// Another core of the node has to.
    Forward(u16),
    /// It is a large set whose value comes in pieces: the attempt of this number.
    Begun(u32),
    /// It waits for its vnode.
    Kept,
}

/// What a core's turn gives.
#[derive(Default)]
pub(super) struct Turned {
    pub(super) messages: Vec<(Peer, Vec<u8>)>,
    pub(super) reports: Vec<(Election, Report)>,
    pub(super) replies: Vec<(Asker, Vec<u8>)>,
}

impl Node {
    pub(super) fn new(plan: Plan, me: NodeRef, now_us: u64, clock: Clock) -> Self {
        let identity = Identity { cluster_id: 77, seed: plan.hash_seed, vnode_bits: plan.vnode_bits };
        let registration = Registration {
            node: me,
            name: format!("node-{}", me.id),
            address: address_of(me.id),
            zone: String::new(),
            cores: CORES,
            weight: 1,
            memory_bytes: 1 << 30,
            leaving: false,
        };
        let options = AgentOptions {
            cluster: CLUSTER.to_owned(),
            registration,
            lease_secs: LEASE_SECS,
            identity,
            replicas: plan.replicas,
            write_mode: WriteMode::One,
        };
        Self {
            me,
            clock,
            agent: Agent::new(clock.now(now_us), options),
            cores: (0..CORES).map(|core| Core::new(plan, Peer { node: me, core })).collect(),
            flushes: BTreeMap::new(),
            watch: None,
            watches: 0,
            frozen_until_us: 0,
            agent_turn_us: u64::MAX,
        }
    }

    /// Every core has its part of this flush.
    pub(super) fn begin_flush(&mut self, attempt: u32) {
        self.flushes.insert(attempt, Flush { missing: usize::from(CORES), refusal: None });
    }

    /// A core's reply: what the client is to be told, which of a flush is nothing until its last part, and then the first
    /// refusal, if there is one.
    pub(super) fn gather(&mut self, attempt: Option<u32>, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let attempt = attempt.filter(|attempt| self.flushes.contains_key(attempt));
        let Some((attempt, flush)) = attempt.and_then(|it| Some((it, self.flushes.get_mut(&it)?))) else {
            return Some(bytes);
        };
        flush.missing -= 1;
        let (reply, _) = Reply::decode(&bytes).expect("a reply").expect("a whole reply");
        if reply.status != Status::Ok && flush.refusal.is_none() {
            flush.refusal = Some(bytes.clone());
        }
        if flush.missing > 0 {
            return None;
        }
        self.flushes.remove(&attempt).and_then(|flush| flush.refusal).or(Some(bytes))
    }
}

impl Core {
    fn new(plan: Plan, peer: Peer) -> Self {
        let own = TopologyNode {
            id: peer.node.id,
            incarnation: peer.node.incarnation,
            name: String::new(),
            address: address_of(peer.node.id),
            zone: String::new(),
            cores: CORES,
            weight: 1,
        };
        let nothing = Topology::unassigned(own, plan.vnode_bits, plan.hash_seed, CLUSTER.to_owned());
        let options = StoreOptions {
            memory_bytes: MEMORY_BYTES,
            value_bytes_max: VALUE_BYTES_MAX,
            policy: plan.policy,
            vnode_bits: plan.vnode_bits,
            hash_seed: plan.hash_seed,
        };
        let mut shard = Shard::new(peer.core, 0, Arc::new(nothing), options).expect("memory for a store");
        let backlog_bytes_max = match plan.policy {
            PolicyKind::None => BACKLOG_BYTES_MAX,
            _ => BACKLOG_BYTES_MAX_EVICTING,
        };
        shard.join_cluster(Copies::new(peer, plan.vnode_bits, backlog_bytes_max, plan.on_etcd_loss));
        shard.set_may_defer(true);
        let (held, arriving, waiting) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut core = Self { shard, peer, held, arriving, waiting, turn_us: u64::MAX, told_us: 0, stalled: None };
        core.copies().1.store.log_departures();
        core
    }

    /// What has left its store by itself since the last time, and whether that was a copy that follows.
    pub(super) fn departures(&mut self) -> Vec<(Departure, bool)> {
        let departures = self.copies().1.store.take_departures();
        if departures.is_empty() {
            return Vec::new();
        }
        let statuses = self.shard.vnodes();
        let bits = self.shard.topology().vnode_bits;
        let follows = |key: &[u8]| {
            let vnode = vnode_of(self.shard.hash(key), bits);
            let status = statuses.iter().find(|status| usize::from(status.vnode) == vnode);
            status.is_none_or(|status| matches!(status.role, "following" | "catching up"))
        };
        departures.into_iter().map(|departure| (departure.clone(), follows(&departure.key))).collect()
    }

    pub(super) fn copies(&mut self) -> (&mut Copies, crate::cluster::copies::State<'_>) {
        self.shard.copies().expect("it has joined a cluster")
    }

    /// Takes what the node tells it; whether that is a newer topology.
    pub(super) fn take_told(&mut self, now: Instant, told: ToCore) -> bool {
        match told {
            ToCore::Ring(ring) => return self.shard.handle_ring(now, &ring) == TopologyOutcome::Taken,
            ToCore::Lease(until) => self.copies().0.handle_lease(until),
            ToCore::Election(election) => self.copies().0.handle_election(election),
            ToCore::Order(election, order) => {
                let (copies, mut state) = self.copies();
                copies.handle_order(now, &mut state, election, &order);
            }
        }
        false
    }

    pub(super) fn take_messages(&mut self, now: Instant, from: Peer, mut bytes: &[u8]) {
        while let Some((message, length)) = PeerMessage::decode(bytes).expect("what a core sends is understood") {
            let (copies, mut state) = self.copies();
            copies.handle_message(now, &mut state, from, &message).expect("no core breaks the rules");
            bytes = &bytes[length..];
        }
    }

    pub(super) fn serve(&mut self, now: Instant, asker: Option<Asker>, frame: &[u8], is_forwarded: bool) -> Served {
        let head = request_head(frame, VALUE_BYTES_MAX).expect("a request").expect("a whole head");
        let request = Request::decode(head, frame).expect("a request");
        let hash = request.body.key().map_or(0, |key| self.shard.hash(key));
        let mut output = Output::default();
        if request.body.key().is_some() {
            let takes_any = head.operation == WireOperation::Get && head.flags.has(RequestFlags::ANY_COPY);
            match self.shard.route(hash) {
                Route::Here => {}
                Route::Moved { .. } if takes_any && self.shard.keeps_copy(hash) => {}
                Route::Core(core) if !is_forwarded => return Served::Forward(core),
                Route::Core(_) | Route::Moved { .. } => {
                    self.shard.answer_moved(&head, &mut output);
                    return answered(output.bytes);
                }
            }
        }
        if let Some(asker @ Asker { attempt: Some(_), .. }) = asker
            && head.operation == WireOperation::Set
            && head.payload_bytes() > PIECE_BYTES
        {
            return self.begin_large(now, asker, head, hash, frame);
        }
        let before = self.positions(&head);
        let outcome = self.shard.execute_frame(now, head, frame, hash, REPLY_LIMITS, &mut output);
        if outcome == Outcome::Later {
            return self.keep(hash, Waiting { asker, since: now, frame: frame.to_vec(), set: None });
        }
        let after = self.positions(&head).into_iter().enumerate();
        let emptied = after.zip(before).filter(|((_, after), before)| after != before).map(|(it, _)| it).collect();
        match self.replied(asker, &head, outcome, output) {
            Served::Replied { bytes, is_held, .. } => Served::Replied { bytes, is_held, emptied },
            served => served,
        }
    }

    /// The last write of each vnode, before and after a flush.
    fn positions(&mut self, head: &RequestHead) -> Vec<Version> {
        let vnodes = if head.operation == WireOperation::Flush { self.shard.topology().vnodes.len() } else { 0 };
        let (_, state) = self.copies();
        (0..vnodes).map(|vnode| state.store.position(vnode)).collect()
    }

    fn begin_large(&mut self, now: Instant, asker: Asker, head: RequestHead, hash: u64, frame: &[u8]) -> Served {
        let (place, attempt) = (head.payload_offset(), asker.attempt.unwrap_or_default());
        match self.shard.open_large_set(now, head, &frame[..place], hash) {
            Ok(set) => {
                let arriving = Arriving { asker, set: Box::new(set), frame: frame.to_vec(), place };
                assert!(self.arriving.insert(attempt, arriving).is_none(), "an attempt has a number of its own");
                Served::Begun(attempt)
            }
            Err(status) => answered(refusal(head.id, status, Version::NONE)),
        }
    }

    /// The next piece of a large set's value arrives; with the last one it is carried out, and this is the frame, too.
    pub(super) fn take_piece(&mut self, now: Instant, attempt: u32) -> Option<(Asker, Vec<u8>, Served)> {
        let arriving = self.arriving.get_mut(&attempt)?;
        let rest = &arriving.frame[arriving.place..];
        arriving.place += self.shard.fill_large_set(&mut arriving.set, &rest[..rest.len().min(PIECE_BYTES)]);
        if arriving.set.missing_bytes() > 0 {
            return Some((arriving.asker, Vec::new(), Served::Begun(attempt)));
        }
        let Arriving { asker, set, frame, .. } = self.arriving.remove(&attempt)?;
        let (head, mut output) = (set.head(), Output::default());
        match self.shard.publish_large_set(now, set, REPLY_LIMITS, &mut output) {
            Ok(outcome) => Some((asker, frame, self.replied(Some(asker), &head, outcome, output))),
            Err(set) => {
                let hash = self.shard.hash(set.key());
                let kept = self.keep(hash, Waiting { asker: Some(asker), since: now, frame, set: Some(set) });
                Some((asker, Vec::new(), kept))
            }
        }
    }

    /// Keeps a request for which it is too early; whoever comes later for its vnode waits behind it.
    fn keep(&mut self, hash: u64, waiting: Waiting) -> Served {
        let vnode = vnode_of(hash, self.shard.topology().vnode_bits) as u16;
        self.waiting.entry(vnode).or_default().push_back(waiting);
        self.shard.set_waiting(vnode, true);
        Served::Kept
    }

    /// Carries out the requests whose vnodes can be asked again, and answers those that have waited for too long.
    pub(super) fn serve_waiting(&mut self, now: Instant) -> Vec<(Asker, Vec<u8>, Served)> {
        let mut all = Vec::new();
        for vnode in self.waiting.keys().copied().collect::<Vec<_>>() {
            let has_to_wait = self.shard.has_to_wait(now, vnode);
            self.shard.set_waiting(vnode, false);
            let Some(mut requests) = self.waiting.remove(&vnode) else { continue };
            let is_over = |request: &Waiting| !has_to_wait || now.since(request.since) >= WAITING_TIME_MAX;
            self.shard.set_may_defer(false);
            while requests.front().is_some_and(is_over)
                && let Some(request) = requests.pop_front()
            {
                let Waiting { asker, frame, set, .. } = request;
                let served = self.serve_waited(now, asker, &frame, set, has_to_wait);
                all.extend(asker.map(|asker| (asker, frame, served)));
            }
            self.shard.set_may_defer(true);
            if !requests.is_empty() {
                self.shard.set_waiting(vnode, true);
                self.waiting.insert(vnode, requests);
            }
        }
        all
    }

    fn serve_waited(
        &mut self,
        now: Instant,
        asker: Option<Asker>,
        frame: &[u8],
        set: Option<Box<LargeSet>>,
        is_expired: bool,
    ) -> Served {
        let head = request_head(frame, VALUE_BYTES_MAX).expect("a request").expect("a whole head");
        let hash = self.shard.hash(head.key(frame));
        let mut output = Output::default();
        if is_expired || self.shard.route(hash) != Route::Here {
            set.into_iter().for_each(|set| self.shard.abandon_large_set(*set));
            match is_expired {
                true => self.shard.answer_later(&head, &mut output),
                false => self.shard.answer_moved(&head, &mut output),
            }
            return answered(output.bytes);
        }
        let outcome = match set {
            Some(set) => self.shard.publish_large_set(now, set, REPLY_LIMITS, &mut output),
            None => Ok(self.shard.execute_frame(now, head, frame, hash, REPLY_LIMITS, &mut output)),
        };
        let Ok(outcome) = outcome else { unreachable!("it may not be deferred again") };
        self.replied(asker, &head, outcome, output)
    }

    /// The connection ends over which a large set's value was arriving; which one that is.
    pub(super) fn lose_pieces(&mut self, attempt: u32) -> Option<ConnectionId> {
        let Arriving { asker, set, .. } = self.arriving.remove(&attempt)?;
        self.shard.abandon_large_set(*set);
        Some(asker.connection)
    }

    fn replied(&mut self, asker: Option<Asker>, head: &RequestHead, outcome: Outcome, output: Output) -> Served {
        let bytes = output.bytes;
        if let Outcome::Pending(ticket) = outcome {
            let held = Held { asker, id: head.id, is_write: head.operation.is_write(), bytes: bytes.clone() };
            assert!(self.held.insert(ticket, held).is_none(), "a ticket is issued once");
        }
        Served::Replied { bytes, is_held: outcome != Outcome::Done, emptied: Vec::new() }
    }

    /// A turn's end: what the copies decide, and what there is to send.
    pub(super) fn turn(&mut self, now: Instant) -> Turned {
        self.shard.turn_cluster(now);
        let _ = self.shard.work(now, 4);
        let epoch = u64::from(self.shard.topology().epoch);
        let mut turned = Turned::default();
        let (copies, _) = self.shard.copies().expect("it has joined a cluster");
        while let Some(message) = copies.poll_send(|_| true) {
            turned.messages.push(message);
        }
        while let Some(report) = copies.poll_report() {
            turned.reports.push(report);
        }
        while let Some((ticket, release)) = copies.poll_release() {
            let held = self.held.remove(&ticket).expect("a ticket is released once");
            let bytes = match (release, held.is_write) {
                (Release::Committed, _) => held.bytes,
                (Release::Abandoned, true) => refusal(held.id, Status::OutcomeUnknown, Version::NONE),
                (Release::Abandoned, false) => refusal(held.id, Status::Moved, Version::from_u64(epoch)),
            };
            turned.replies.extend(held.asker.map(|asker| (asker, bytes)));
        }
        turned
    }

    /// When it has to turn again though nothing happens.
    pub(super) fn wait_ms(&mut self, now: Instant) -> u64 {
        let waiting = self.waiting.values().filter_map(VecDeque::front);
        let until = waiting.map(|request| request.since + WAITING_TIME_MAX).min();
        let at = self.copies().0.poll_timeout(now);
        until.map_or(at, |until| until.min(at)).since(now).as_millis()
    }
}

fn answered(bytes: Vec<u8>) -> Served {
    Served::Replied { bytes, is_held: false, emptied: Vec::new() }
}

fn refusal(id: u32, status: Status, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    Reply { version, ..Reply::status(id, status) }.encode(&mut bytes);
    bytes
}
