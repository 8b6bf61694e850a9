//! Shards of three nodes in one thread: real requests in, real frames out, and the peers' messages between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use quoit_wire::peer::*;
use quoit_wire::topology::{Seat, Topology};
use quoit_wire::*;

use super::*;
use crate::cluster::copies::limits::HEARTBEAT_STEPS;
use crate::cluster::copies::{Copies, OnEtcdLoss, Peer, Release, Ticket, VnodeStatus};
use crate::cluster::{CopyState, Member, NodeRef, Order, Report, Ring, Roles};
use crate::store::PolicyKind;
use crate::time::Duration;

const SEED: u64 = 5;
const TERM: u32 = 7;

struct World {
    now: Instant,
    shards: Vec<Shard>,
    ring: Ring,
    /// What releases came to, by node and ticket.
    released: BTreeMap<(usize, Ticket), Release>,
    reports: Vec<(usize, Report)>,
    /// Slices are kept back here while this is there.
    late_slices: Option<Vec<(Peer, Peer, Vec<u8>)>>,
}

fn peer(node: usize) -> Peer {
    Peer { node: NodeRef { id: node as u64 + 1, incarnation: 1 }, core: 0 }
}

fn seat(node: usize) -> Seat {
    Seat { node: node as u16, core: 0 }
}

fn shard(node: usize) -> Shard {
    shard_with(node, OnEtcdLoss::Fence)
}

fn shard_with(node: usize, on_etcd_loss: OnEtcdLoss) -> Shard {
    // Copies need a little more room than what they copy.
    shard_of(node, on_etcd_loss, if node == 0 { 16 << 20 } else { 24 << 20 })
}

fn shard_of(node: usize, on_etcd_loss: OnEtcdLoss, memory_bytes: usize) -> Shard {
    let own = topology::Node {
        id: node as u64 + 1,
        incarnation: 1,
        name: String::new(),
        address: String::new(),
        zone: String::new(),
        cores: 1,
        weight: 1,
    };
    // As a node of a cluster begins: it is known, and owns nothing.
    let nowhere = topology::Placement { primary: Seat::NOWHERE, replicas: [Seat::NOWHERE; 3], term: 0 };
    let nobody = Topology {
        epoch: 0,
        vnode_bits: 0,
        seed: SEED,
        cluster: "demo".to_owned(),
        nodes: vec![own],
        vnodes: vec![nowhere],
    };
    let options = StoreOptions {
        memory_bytes,
        value_bytes_max: 1 << 20,
        policy: PolicyKind::S3Fifo,
        vnode_bits: 0,
        hash_seed: SEED,
    };
    let mut shard = Shard::new(0, 0, Arc::new(nobody), options).unwrap();
    shard.join_cluster(Copies::new(peer(node), 0, 4 << 20, on_etcd_loss));
    shard
}

impl World {
    /// `nodes` nodes; node 0 leads the one vnode, the others are in-sync copies.
    fn new(nodes: usize) -> Self {
        Self::with(nodes, OnEtcdLoss::Fence)
    }

    fn with(nodes: usize, on_etcd_loss: OnEtcdLoss) -> Self {
        let mut roles = Roles::new(TERM, seat(0));
        (1..nodes).for_each(|node| assert!(roles.put(seat(node), CopyState::InSync)));
        let member = |node: usize| Member {
            node: peer(node).node,
            name: String::new(),
            address: String::new(),
            zone: String::new(),
            cores: 1,
            weight: 1,
            draining: false,
        };
        let ring = Ring {
            epoch: 1,
            cluster: "demo".to_owned(),
            cluster_id: 1,
            seed: SEED,
            vnode_bits: 0,
            replicas: nodes as u8 - 1,
            write_mode: WriteMode::One,
            slots: (0..nodes).map(|node| Some(member(node))).collect(),
            vnodes: vec![roles],
        };
        let now = Instant::from_millis(10_000);
        let mut world = Self {
            now,
            shards: (0..nodes).map(|node| shard_with(node, on_etcd_loss)).collect(),
            ring,
            released: BTreeMap::new(),
            reports: Vec::new(),
            late_slices: None,
        };
        world.tell_ring();
        world.pump(300);
        world
    }

    fn tell_ring(&mut self) {
        let ring = Arc::new(self.ring.clone());
        for shard in &mut self.shards {
            assert_eq!(shard.handle_ring(self.now, &ring), TopologyOutcome::Taken);
        }
    }

    /// Lets `ms` pass, every message arriving at once.
    fn pump(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now + Duration::from_millis(1);
            for node in 0..self.shards.len() {
                let until = self.now + Duration::from_millis(1800);
                self.shards[node].copies().unwrap().0.handle_lease(until);
                self.shards[node].turn_cluster(self.now);
                while let Some((to, bytes)) = self.shards[node].copies().unwrap().0.poll_send(|_| true) {
                    self.deliver(peer(node), to, &bytes);
                }
                let (copies, _) = self.shards[node].copies().unwrap();
                while let Some((ticket, release)) = copies.poll_release() {
                    assert!(self.released.insert((node, ticket), release).is_none());
                }
                while let Some((_, report)) = copies.poll_report() {
                    self.reports.push((node, report));
                }
            }
        }
    }

    fn deliver(&mut self, from: Peer, to: Peer, mut bytes: &[u8]) {
        let node = to.node.id as usize - 1;
        while let Some((message, length)) = PeerMessage::decode(bytes).unwrap() {
            if let (PeerMessage::Slice { .. }, Some(late)) = (message, &mut self.late_slices) {
                late.push((from, to, bytes[..length].to_vec()));
                bytes = &bytes[length..];
                continue;
            }
            let (copies, mut state) = self.shards[node].copies().unwrap();
            copies.handle_message(self.now, &mut state, from, &message).unwrap();
            bytes = &bytes[length..];
        }
    }

    /// Node 1 takes over: every copy but the lost primary is sealed and reports, and the ring makes it the primary.
    fn fail_over(&mut self) {
        for node in 1..self.shards.len() {
            let order = Order::Seal { vnode: 0, term: TERM + 1 };
            let (copies, mut state) = self.shards[node].copies().unwrap();
            copies.handle_order(self.now, &mut state, 1, &order);
        }
        // The lost primary says nothing any more.
        let lost = std::mem::replace(&mut self.shards[0], shard(0));
        self.pump(1200);
        let sealed = |(node, report): &(usize, Report)| {
            *node == 1 && matches!(report, Report::Sealed { term, .. } if *term == TERM + 1)
        };
        assert!(self.reports.iter().any(sealed), "{:?}", self.reports);
        let mut roles = Roles::new(TERM + 1, seat(1));
        (2..self.shards.len()).for_each(|node| assert!(roles.put(seat(node), CopyState::InSync)));
        self.ring.vnodes[0] = roles;
        self.ring.epoch += 1;
        let ring = Arc::new(self.ring.clone());
        for shard in self.shards.iter_mut().skip(1) {
            assert_eq!(shard.handle_ring(self.now, &ring), TopologyOutcome::Taken);
        }
        drop(lost);
        self.pump(300);
    }

    fn ask(
        &mut self,
        node: usize,
        body: RequestBody<'_>,
        mode: WriteMode,
        retry: Option<RetryToken>,
    ) -> (Outcome, Reply<'static>) {
        let mut flags = RequestFlags::default();
        if body.operation().is_write() {
            flags = flags.with_write_mode(mode);
        }
        self.ask_with(node, body, flags, retry)
    }

    fn ask_with(
        &mut self,
        node: usize,
        body: RequestBody<'_>,
        flags: RequestFlags,
        retry: Option<RetryToken>,
    ) -> (Outcome, Reply<'static>) {
        let mut frame = Vec::new();
        let epoch = self.shards[node].topology().epoch;
        body.encode(1, RequestOptions { epoch, retry, flags, ..RequestOptions::default() }, &mut frame);
        let head = request_head(&frame, 1 << 20).unwrap().unwrap();
        let request = Request::decode(head, &frame).unwrap();
        let hash = request.body.key().map_or(0, |key| self.shards[node].hash(key));
        let limits = ReplyLimits { pin_bytes_min: usize::MAX, copy_bytes_max: usize::MAX, retry_after_ms: 9 };
        let mut output = Output::default();
        let outcome = self.shards[node].execute(self.now, &request, hash, limits, &mut output);
        let bytes: &'static [u8] = output.bytes.leak();
        (outcome, Reply::decode(bytes).unwrap().unwrap().0)
    }

    fn set(&mut self, key: &[u8], value: &[u8], mode: WriteMode) -> (Outcome, Reply<'static>) {
        let (parameters, condition) = (SetParameters::default(), SetCondition::Always);
        self.ask(0, RequestBody::Set { key, parameters, condition, value }, mode, None)
    }

    fn get(&mut self, node: usize, key: &[u8]) -> (Outcome, Reply<'static>) {
        self.ask(node, RequestBody::Get { key }, WriteMode::ClusterDefault, None)
    }

    /// A get that any copy may answer.
    fn get_any(&mut self, node: usize, key: &[u8]) -> (Outcome, Reply<'static>) {
        self.ask_with(node, RequestBody::Get { key }, RequestFlags::ANY_COPY, None)
    }

    /// The reply's wait is over, and well.
    fn assert_committed(&self, node: usize, outcome: Outcome) {
        let Outcome::Pending(ticket) = outcome else { panic!("it did not wait") };
        assert_eq!(self.released.get(&(node, ticket)), Some(&Release::Committed));
    }
}

#[test]
fn a_write_and_reads_of_it_wait_for_the_commit() {
    let mut world = World::new(3);
    let (written, reply) = world.set(b"key", b"value", WriteMode::One);
    assert_eq!(reply.status, Status::Ok);
    let (read, hit) = world.get(0, b"key");
    assert_eq!((hit.status, hit.value), (Status::Ok, &b"value"[..]));
    let (other, miss) = world.get(0, b"other");
    assert_eq!((other, miss.status), (Outcome::Done, Status::Miss), "it rests on nothing");
    let condition = SetCondition::IfAbsent;
    let parameters = SetParameters { condition: condition as u8, ..SetParameters::default() };
    let (failed, refused) =
        world.ask(0, RequestBody::Set { key: b"key", parameters, condition, value: b"" }, WriteMode::Async, None);
    assert_eq!(refused.status, Status::ConditionFailed);
    assert!(world.released.is_empty());
    world.pump(20);
    [written, read, failed].into_iter().for_each(|outcome| world.assert_committed(0, outcome));
    assert_eq!(world.get(0, b"key").0, Outcome::Done);
    assert_eq!(world.set(b"key", b"newer", WriteMode::Async).0, Outcome::Done, "async waits for nobody");
}

#[test]
fn who_is_not_the_primary_says_who_is_and_missing_copies_are_refused() {
    let mut world = World::new(2);
    let (outcome, reply) = world.get(1, b"key");
    assert_eq!((outcome, reply.status, reply.version.as_u64()), (Outcome::Done, Status::Moved, 1));
    let mut alone = World::new(1);
    for mode in [WriteMode::One, WriteMode::All, WriteMode::ClusterDefault] {
        assert_eq!(alone.set(b"key", b"value", mode).1.status, Status::NotEnoughCopies);
    }
    assert_eq!(alone.get(0, b"key").1.status, Status::Miss, "refused means unapplied");
    assert_eq!(alone.set(b"key", b"value", WriteMode::Async).1.status, Status::Ok);
}

/// Node 0 leads alone, with items; then node 1 is to become a copy.
fn catching_up() -> World {
    let mut world = World::new(2);
    world.ring.vnodes[0].remove(seat(1));
    world.ring.epoch += 1;
    world.tell_ring();
    for number in 0..100u32 {
        assert_eq!(world.set(&number.to_le_bytes(), b"value", WriteMode::Async).1.status, Status::Ok);
    }
    assert!(world.ring.vnodes[0].put(seat(1), CopyState::CatchingUp));
    world.ring.epoch += 1;
    world.late_slices = Some(Vec::new());
    world.tell_ring();
    world.pump(150);
    world
}

#[test]
fn a_copy_that_catches_up_does_not_count() {
    let mut world = catching_up();
    assert_eq!(world.set(b"key", b"value", WriteMode::One).1.status, Status::NotEnoughCopies);
    assert!(!world.reports.iter().any(|(_, report)| matches!(report, Report::InSync { .. })), "{:?}", world.reports);
    let late = world.late_slices.take().unwrap();
    late.into_iter().for_each(|(from, to, bytes)| world.deliver(from, to, &bytes));
    world.pump(300);
    let proposal = world.reports.iter().find_map(|(node, report)| match report {
        Report::InSync { term, in_sync, number, .. } => Some((*node, *term, in_sync[0], *number)),
        _ => None,
    });
    let (node, term, copy, number) = proposal.expect("the primary proposes it once it has everything (C8)");
    assert_eq!((node, term, copy), (0, TERM, seat(1)));
    assert_eq!(
        world.set(b"key", b"value", WriteMode::One).1.status,
        Status::NotEnoughCopies,
        "proposed is not settled"
    );
    assert!(world.ring.vnodes[0].put(seat(1), CopyState::InSync));
    world.ring.epoch += 1;
    world.tell_ring();
    let settled = Order::Settled { vnode: 0, term, number, epoch: world.ring.epoch };
    let (copies, mut state) = world.shards[0].copies().unwrap();
    copies.handle_order(world.now, &mut state, 1, &settled);
    let (outcome, reply) = world.set(b"key", b"value", WriteMode::One);
    assert_eq!(reply.status, Status::Ok);
    world.pump(20);
    world.assert_committed(0, outcome);
}

#[test]
fn a_copy_that_was_let_go_and_taken_again_unseen_is_not_proposed_for_what_it_had() {
    let mut world = World::new(2);
    assert_eq!(world.set(b"key", b"value", WriteMode::Async).1.status, Status::Ok);
    world.pump(150);
    world.shards[1].turn_cluster(world.now);
    let ack = AckEntry {
        vnode: 0,
        marks: AckEntry::BEGUN | AckEntry::PROMISE,
        term: TERM,
        last_term: TERM,
        applied: 1,
        cursor: AckEntry::CURSOR_END,
    };
    // The copy sees both rings and is empty; its primary has missed the first.
    let mut rings = Vec::new();
    for put in [false, true] {
        world.ring.vnodes[0].remove(seat(1));
        assert!(!put || world.ring.vnodes[0].put(seat(1), CopyState::CatchingUp));
        world.ring.epoch += 1;
        rings.push(Arc::new(world.ring.clone()));
    }
    rings.iter().for_each(|ring| assert_eq!(world.shards[1].handle_ring(world.now, ring), TopologyOutcome::Taken));
    assert_eq!(world.shards[0].handle_ring(world.now, &rings[1]), TopologyOutcome::Taken);
    let proposes = |world: &mut World| {
        world.shards[0].turn_cluster(world.now);
        let (copies, _) = world.shards[0].copies().unwrap();
        std::iter::from_fn(|| copies.poll_report()).any(|(_, report)| matches!(report, Report::InSync { .. }))
    };
    assert!(!proposes(&mut world), "what it was known to have it had before");
    // An acknowledgement of before comes late.
    let mut late = Vec::new();
    let head = AckHead { stamp: world.now.as_millis(), epoch: 1, entries: 0 };
    PeerMessage::push_acks(head, [ack].into_iter(), &mut late);
    world.deliver(peer(1), peer(0), &late);
    world.now = world.now + Duration::from_millis(100);
    assert!(!proposes(&mut world));
    // It says itself that it has nothing, gets everything, and is proposed then.
    world.pump(400);
    assert!(world.reports.iter().any(|(node, report)| *node == 0 && matches!(report, Report::InSync { epoch: 3, .. })));
    assert_eq!(world.shards[1].copies().unwrap().1.store.sequence(0), 1);
}

#[test]
fn what_is_said_of_vnodes_that_are_not_there_is_not_heard() {
    let mut world = World::new(2);
    for vnode in [1, 4095, u16::MAX] {
        let mut bytes = Vec::new();
        let term = TERM + 1;
        PeerMessage::push_heartbeat(1, &[HeartbeatEntry { vnode, term, sequence: 5, settled: 5 }], &mut bytes);
        let head = AckHead { stamp: 1, epoch: 1, entries: 0 };
        PeerMessage::push_acks(head, [AckEntry { vnode, term, ..AckEntry::default() }].into_iter(), &mut bytes);
        let begin = BeginHead { vnode, wipes: 1, term, ..BeginHead::default() };
        PeerMessage::push_begin(begin, &[TermEntry { term, first_sequence: 1 }], &[], &mut bytes);
        let mut record = Vec::new();
        Record { change: Change::Delete { key: b"key" }, result: None }.push(&mut record);
        let mut frame = AppendsFrame::begin(1, &mut bytes);
        let head = AppendHead { vnode, term, first_sequence: 1, ..AppendHead::default() };
        frame.push(head, [&record[..]].into_iter(), 1000, &mut bytes);
        frame.end(&mut bytes);
        let head = SliceHead { vnode, term, at_sequence: 0, from: 0, next: 1, items: 0 };
        PeerMessage::push_slice(head, &[], &mut bytes);
        PeerMessage::push_handover(Handover { vnode, term, next_term: term + 1, sequence: 0 }, &mut bytes);
        for (from, to) in [(0, 1), (1, 0)] {
            world.deliver(peer(from), peer(to), &bytes);
        }
        world.pump(120);
    }
    let (outcome, reply) = world.set(b"key", b"value", WriteMode::One);
    assert_eq!(reply.status, Status::Ok);
    world.pump(20);
    world.assert_committed(0, outcome);
}

#[test]
fn reports_are_for_whoever_leads_now_also_before_it_has_ordered_anything() {
    let mut world = World::new(2);
    world.shards[0].copies().unwrap().0.handle_election(9);
    // The copy is silent for too long.
    world.now = world.now + Duration::from_millis(600);
    // It shows at the vnode's heartbeat, which is one of the next steps.
    (0..HEARTBEAT_STEPS).for_each(|_| world.shards[0].turn_cluster(world.now));
    let report = world.shards[0].copies().unwrap().0.poll_report();
    assert!(matches!(report, Some((9, Report::InSync { .. }))), "{report:?}");
}

#[test]
fn a_late_slice_brings_nothing_back_that_was_deleted() {
    let mut world = catching_up();
    for number in 0..50u32 {
        let key = number.to_le_bytes();
        assert_eq!(world.ask(0, RequestBody::Delete { key: &key }, WriteMode::Async, None).1.status, Status::Ok);
    }
    world.pump(20);
    let late = world.late_slices.take().unwrap();
    assert!(!late.is_empty(), "slices were sent");
    late.into_iter().for_each(|(from, to, bytes)| world.deliver(from, to, &bytes));
    assert_eq!(world.shards[1].store.items(), 0, "a slice of another moment is not taken");
    world.pump(500);
    assert_eq!(world.shards[1].store.items(), 50);
}

#[test]
fn a_repeat_after_a_failover_gets_the_first_result() {
    let mut world = World::new(3);
    let token = RetryToken { session: 77, number: 1 };
    let parameters = IncrementParameters { delta: 5, initial: 100, ttl_ms: 0, create: 1 };
    let add = RequestBody::Increment { key: b"counter", parameters };
    let (outcome, first) = world.ask(0, add, WriteMode::One, Some(token));
    world.pump(20);
    world.assert_committed(0, outcome);
    world.fail_over();
    let (outcome, again) = world.ask(1, add, WriteMode::One, Some(token));
    assert_eq!((outcome, again.status), (Outcome::Done, Status::Ok));
    assert_eq!((again.version, again.value), (first.version, first.value), "applied once");
    let (_, next) = world.ask(1, add, WriteMode::Async, Some(RetryToken { session: 77, number: 2 }));
    assert_eq!(next.value, 105i64.to_le_bytes());
    assert!(next.version > first.version && next.version.term() == TERM + 1);
}

#[test]
fn multi_operations_flushes_and_idle_hits_reach_the_copies() {
    let mut world = World::new(2);
    let mut entries = Vec::new();
    for key in [&b"one"[..], b"two", b"one"] {
        Items::push(Item { key, value: key, ttl_ms: 0, client_flags: 3 }, &mut entries);
    }
    let items = Items::parse(3, &entries).unwrap();
    let (outcome, _) = world.ask(0, RequestBody::MultiSet(items), WriteMode::All, None);
    let parameters = SetParameters { ttl_ms: 1000, options: SetParameters::IDLE_EXPIRY, ..SetParameters::default() };
    let condition = SetCondition::Always;
    let set = RequestBody::Set { key: b"idle", parameters, condition, value: b"" };
    assert_eq!(world.ask(0, set, WriteMode::Async, None).1.status, Status::Ok);
    world.pump(700);
    world.assert_committed(0, outcome);
    assert_eq!(world.get(0, b"idle").1.status, Status::Ok);
    world.pump(700);
    let now = world.now;
    let sequence = world.shards[0].store.position(0).sequence();
    let copy = &world.shards[1];
    assert_eq!(copy.store.position(0).sequence(), sequence);
    let hash = |key: &[u8]| key_hash(SEED, key);
    assert!(copy.store.peek(now, hash(b"one"), b"one").is_some_and(|item| item.client_flags == 3));
    assert!(copy.store.peek(now, hash(b"idle"), b"idle").is_some(), "the hit has kept it alive here, too");
    let (outcome, reply) = world.ask(0, RequestBody::Flush, WriteMode::All, None);
    let (read, miss) = world.get(0, b"two");
    assert_eq!((reply.status, miss.status), (Status::Ok, Status::Miss));
    world.pump(20);
    world.assert_committed(0, outcome);
    world.assert_committed(0, read);
    assert_eq!(world.shards[1].store.items(), 0);
}

#[test]
fn evictions_are_the_primarys_and_reach_the_copies() {
    let mut world = World::new(2);
    let value = vec![1; 4000];
    for number in 0..6000u32 {
        let reply = world.set(&number.to_le_bytes(), &value, WriteMode::Async).1;
        assert_eq!(reply.status, Status::Ok);
        if number % 100 == 0 {
            world.pump(2);
        }
    }
    world.pump(500);
    let (primary, copy) = (&world.shards[0].store, &world.shards[1].store);
    assert!(primary.items() < 5000, "something was evicted: {}", primary.items());
    assert_eq!((copy.items(), copy.position(0)), (primary.items(), primary.position(0)));
}

#[test]
fn without_etcd_serve_answers_what_may_be_stale_and_says_so_and_fence_answers_nothing() {
    for on_etcd_loss in [OnEtcdLoss::Serve, OnEtcdLoss::Fence] {
        let mut world = World::with(2, on_etcd_loss);
        let _ = world.set(b"key", b"value", WriteMode::One);
        world.pump(20);
        assert!(!world.get(0, b"key").1.is_stale);
        // Nothing renews the leases any more, and no copy answers.
        world.now = world.now + Duration::from_secs(3);
        let serves = on_etcd_loss == OnEtcdLoss::Serve;
        let (outcome, hit) = world.get(0, b"key");
        let (_, miss) = world.get(0, b"other");
        let (_, any) = world.get_any(0, b"key");
        let (_, from_copy) = world.get_any(1, b"key");
        let mut keys = Vec::new();
        Keys::push(b"key", &mut keys);
        let multi = RequestBody::MultiGet(Keys::parse(1, &keys).unwrap());
        let (_, multi) = world.ask(0, multi, WriteMode::ClusterDefault, None);
        let result = MultiResult::take(multi.value).unwrap().0;
        let reads = [(hit.status, hit.is_stale), (any.status, any.is_stale), (from_copy.status, from_copy.is_stale)];
        let expected = if serves { (Status::Ok, true) } else { (Status::Overloaded, false) };
        assert_eq!((outcome, reads), (Outcome::Done, [expected; 3]), "{on_etcd_loss:?}");
        assert_eq!((result.status, result.is_stale), expected, "{on_etcd_loss:?}");
        assert_eq!((miss.status == Status::Miss, miss.is_stale), (serves, serves), "{on_etcd_loss:?}");
        let written = [WriteMode::Async, WriteMode::One, WriteMode::All].map(|mode| {
            let (outcome, reply) = world.set(b"key", b"newer", mode);
            assert_eq!(outcome, Outcome::Done);
            reply.status
        });
        let (refused, later) = (Status::NotEnoughCopies, Status::Overloaded);
        let expected = if serves { [Status::Ok, refused, refused] } else { [later; 3] };
        assert_eq!(written, expected, "{on_etcd_loss:?}");
    }
}

#[test]
fn any_copy_answers_with_what_it_has_and_its_version_and_changes_nothing() {
    let mut world = World::new(3);
    let parameters = SetParameters { ttl_ms: 1000, options: SetParameters::IDLE_EXPIRY, ..SetParameters::default() };
    let condition = SetCondition::Always;
    let set = RequestBody::Set { key: b"key", parameters, condition, value: b"value" };
    let (outcome, written) = world.ask(0, set, WriteMode::One, None);
    let (read, uncommitted) = world.get_any(0, b"key");
    assert_eq!(
        (read, uncommitted.value, uncommitted.is_stale),
        (Outcome::Done, &b"value"[..], true),
        "it does not wait"
    );
    world.pump(20);
    world.assert_committed(0, outcome);
    assert!(!world.get_any(0, b"key").1.is_stale, "the primary knows that it is committed");
    let position = world.shards[1].store.position(0);
    for node in [1, 2] {
        let (outcome, reply) = world.get_any(node, b"key");
        assert_eq!((outcome, reply.status, reply.value), (Outcome::Done, Status::Ok, &b"value"[..]));
        assert_eq!((reply.version, reply.is_stale), (written.version, true));
        assert_eq!(world.get_any(node, b"other").1.status, Status::Miss);
        assert_eq!(world.get(node, b"key").1.status, Status::Moved, "only who allows it is answered by a copy");
    }
    for node in [0, 1] {
        let mut entries = Vec::new();
        [&b"key"[..], b"other"].iter().for_each(|key| Keys::push(key, &mut entries));
        let keys = Keys::parse(2, &entries).unwrap();
        let (outcome, reply) = world.ask_with(node, RequestBody::MultiGet(keys), RequestFlags::ANY_COPY, None);
        let (hit, rest) = MultiResult::take(reply.value).unwrap();
        let (miss, _) = MultiResult::take(rest).unwrap();
        assert_eq!(
            (outcome, hit.status, hit.value, hit.version),
            (Outcome::Done, Status::Ok, &b"value"[..], written.version)
        );
        assert_eq!((hit.is_stale, miss.status, miss.is_stale), (node == 1, Status::Miss, node == 1));
        let (_, moved) = world.ask_with(node, RequestBody::MultiGet(keys), RequestFlags::default(), None);
        let moved = MultiResult::take(moved.value).unwrap().0.status;
        assert_eq!(moved == Status::Moved, node == 1, "only who allows it is answered by a copy");
    }
    world.now = world.now + Duration::from_millis(900);
    assert_eq!(world.get_any(1, b"key").1.status, Status::Ok, "hits on a copy keep nothing alive");
    world.now = world.now + Duration::from_millis(200);
    let (_, ended) = world.get_any(1, b"key");
    assert_eq!((ended.status, ended.is_stale), (Status::Miss, true));
    let copy = &world.shards[1].store;
    assert_eq!((copy.items(), copy.position(0)), (1, position), "the primary removes it");
}

#[test]
fn what_is_at_risk_and_how_far_copies_lag_is_told_for_each_vnode() {
    let mut world = World::new(3);
    let told = |world: &World| {
        let vnodes = world.shards[0].vnodes();
        let VnodeStatus { at_risk_writes, waiting_replies, ref copies, .. } = vnodes[0];
        let lags: Vec<u64> = copies.iter().map(|copy| copy.lag_writes).collect();
        (vnodes[0].role, at_risk_writes, waiting_replies, lags)
    };
    assert_eq!(told(&world), ("leading", 0, 0, vec![0, 0]));
    let _ = world.set(b"one", b"value", WriteMode::Async);
    let _ = world.set(b"two", b"value", WriteMode::One);
    assert_eq!(told(&world), ("leading", 1, 1, vec![2, 2]), "what waits is not acknowledged, so not at risk");
    let lagging = world.shards[0].vnodes()[0].copies[0].lag_bytes;
    assert!(lagging > 2 * 5, "{lagging} bytes of records");
    world.pump(20);
    assert_eq!(told(&world), ("leading", 0, 0, vec![0, 0]));
    assert_eq!(world.shards[1].vnodes()[0].role, "following");
    let mut samples = Vec::new();
    world.shards[0].samples(&mut samples);
    let value = |name| samples.iter().find(|sample| sample.name == name).map(|sample| sample.value);
    assert_eq!((value("vnodes_led"), value("vnodes_led_alone"), value("at_risk_writes")), (Some(1), Some(0), Some(0)));
}

#[test]
fn a_copy_that_does_not_count_answers_no_read() {
    let mut world = catching_up();
    assert_eq!(world.get_any(1, &1u32.to_le_bytes()).1.status, Status::Moved);
    let late = world.late_slices.take().unwrap();
    late.into_iter().for_each(|(from, to, bytes)| world.deliver(from, to, &bytes));
    world.pump(300);
    assert_eq!(world.get_any(1, &1u32.to_le_bytes()).1.status, Status::Moved, "the ring does not say so yet");
    assert!(world.ring.vnodes[0].put(seat(1), CopyState::InSync));
    world.ring.epoch += 1;
    world.tell_ring();
    assert_eq!(world.get_any(1, &1u32.to_le_bytes()).1.status, Status::Ok);
}

#[test]
fn a_copy_is_filled_no_faster_than_either_side_may_move() {
    // Twenty times 100 kB: two seconds at 1 MB/s.
    for slow in [0, 1] {
        let mut world = World::new(2);
        world.ring.vnodes[0].remove(seat(1));
        world.ring.epoch += 1;
        world.tell_ring();
        for number in 0..20u32 {
            let reply = world.set(&number.to_le_bytes(), &[7; 100_000], WriteMode::Async).1;
            assert_eq!(reply.status, Status::Ok);
        }
        world.shards[slow].copies().unwrap().0.set_move_bandwidth(1_000_000);
        assert!(world.ring.vnodes[0].put(seat(1), CopyState::CatchingUp));
        world.ring.epoch += 1;
        world.tell_ring();
        let begin = world.now;
        let is_whole = |world: &World| world.shards[0].vnodes()[0].copies[0].progress == "following";
        while !is_whole(&world) && world.now.since(begin) < Duration::from_secs(20) {
            world.pump(10);
        }
        let time_ms = world.now.since(begin).as_millis();
        assert_eq!(world.shards[1].store.items(), 20);
        assert!((1700..2600).contains(&time_ms), "{time_ms} ms, node {slow} being slow");
    }
}

#[test]
fn a_copy_that_was_short_of_memory_is_filled_once_there_is_less() {
    let mut world = World::new(2);
    world.ring.vnodes[0].remove(seat(1));
    world.ring.epoch += 1;
    world.tell_ring();
    // For five seconds there is more than the copy has room for; then nothing is written any more that could tell of it.
    let parameters = SetParameters { ttl_ms: 5_000, ..SetParameters::default() };
    for number in 0..40u32 {
        let (key, value) = (&number.to_le_bytes(), &[7; 300_000]);
        let set = RequestBody::Set { key, parameters, condition: SetCondition::Always, value };
        assert_eq!(world.ask(0, set, WriteMode::Async, None).1.status, Status::Ok);
    }
    assert_eq!(world.set(b"stays", b"value", WriteMode::Async).1.status, Status::Ok);
    world.shards[1] = shard_of(1, OnEtcdLoss::Fence, 9 << 20);
    assert!(world.ring.vnodes[0].put(seat(1), CopyState::CatchingUp));
    world.ring.epoch += 1;
    world.tell_ring();
    world.pump(4_000);
    let progress = |world: &World| world.shards[0].vnodes()[0].copies[0].progress;
    assert_eq!(progress(&world), "streaming", "it has no room");
    world.pump(4_000);
    let now = world.now;
    world.shards.iter_mut().for_each(|shard| while shard.work(now, 100) == Progress::More {});
    world.pump(15_000);
    assert_eq!(progress(&world), "following");
    assert_eq!(world.shards[1].store.items(), 1);
}

#[test]
fn a_flush_by_another_topology_than_the_cores_is_refused() {
    let mut world = World::new(2);
    assert_eq!(world.set(b"key", b"value", WriteMode::Async).1.status, Status::Ok);
    let own = u64::from(world.ring.epoch);
    for epoch in [0, world.ring.epoch - 1, world.ring.epoch + 1] {
        let mut frame = Vec::new();
        RequestBody::Flush.encode(1, RequestOptions { epoch, ..RequestOptions::default() }, &mut frame);
        let head = request_head(&frame, 1 << 20).unwrap().unwrap();
        let limits = ReplyLimits { pin_bytes_min: usize::MAX, copy_bytes_max: usize::MAX, retry_after_ms: 9 };
        let mut output = Output::default();
        assert_eq!(world.shards[0].execute_frame(world.now, head, &frame, 0, limits, &mut output), Outcome::Done);
        let (reply, _) = Reply::decode(&output.bytes).unwrap().unwrap();
        assert_eq!((reply.status, reply.version.as_u64()), (Status::Moved, own), "asked by epoch {epoch}");
    }
    assert_eq!(world.get(0, b"key").1.status, Status::Ok, "nothing was flushed");
    assert_eq!(world.ask(0, RequestBody::Flush, WriteMode::Async, None).1.status, Status::Ok);
    assert_eq!(world.get(0, b"key").1.status, Status::Miss);
}
