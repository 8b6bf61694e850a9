//! Replies that wait for a commit, and requests that wait for a vnode: two nodes of a cluster, both stepped by hand in one
//! thread.

use std::sync::Arc;

use quoit_wire::topology::Seat;
use quoit_wire::{Item, Items, Keys, MultiResult, Reply, RequestBody, Status, WriteMode};

use super::{BUFFER_BYTES, CLUSTER, Client, HASH_SEED, PATIENCE, Stepped, VNODE_BITS, set};
use crate::cluster::{CopyState, Member, NodeRef, Order, Ring, Roles};
use crate::runtime::budget::Charge;
use crate::runtime::clock::Reading;
use crate::runtime::cluster::ClusterNews;
use crate::runtime::connection::{CloseCause, Connection};
use crate::runtime::limits::{HELD_SHARE, RESERVE_BYTES_MIN, WAITING_SHARE};
use crate::runtime::peers::PeerAddress;
use crate::time::Duration;

/// The first node leads every vnode, on as many cores as it has; the one core of the second keeps a copy of each.
struct Pair {
    one: Stepped,
    two: Stepped,
    ring: Ring,
}

impl Pair {
    fn new(cores: usize) -> Self {
        let vnode = |vnode: usize| {
            let mut roles = Roles::new(1, Seat { node: 0, core: (vnode % cores) as u16 });
            assert!(roles.put(Seat { node: 1, core: 0 }, CopyState::InSync));
            roles
        };
        let ring = Ring {
            epoch: 1,
            cluster: "demo".to_owned(),
            cluster_id: CLUSTER,
            seed: HASH_SEED,
            vnode_bits: VNODE_BITS,
            replicas: 1,
            write_mode: WriteMode::One,
            slots: vec![Some(member(7, cores)), Some(member(8, 1))],
            vnodes: (0..1 << VNODE_BITS).map(vnode).collect(),
        };
        let mut pair = Self { one: Stepped::in_cluster(7, cores), two: Stepped::in_cluster(8, 1), ring };
        pair.tell_ring();
        let key = pair.one.key(0, 0);
        let mut client = pair.one.client(0);
        // Until links are made and the copies have said where they stand, requests are told to come later.
        for body in [set(&key, b"first"), RequestBody::Flush] {
            let start = Reading::now();
            while pair.call(&mut client, &body).0 != Status::Ok {
                assert!(!Reading::now().is_past(start, PATIENCE), "never carried out: {body:?}");
            }
        }
        drop(client);
        pair
    }

    fn tell_ring(&mut self) {
        let address = |node: &Stepped| node.addresses[0];
        let peers: Arc<[PeerAddress]> = [(7, &self.one), (8, &self.two)]
            .map(|(id, node)| PeerAddress {
                node: node_ref(id),
                address: address(node),
                cores: node.cores.len() as u16,
            })
            .into();
        self.one.topology = Arc::new(self.ring.to_topology());
        let ring = Arc::new(self.ring.clone());
        let now = Reading::now().instant();
        for (id, node) in [(7, &mut self.one), (8, &mut self.two)] {
            let others: Arc<[PeerAddress]> = peers.iter().filter(|peer| peer.node.id != id).copied().collect();
            for core in &mut node.cores {
                let ring = Some((ring.clone(), others.clone()));
                let lease_until = Some(now + Duration::from_secs(3600));
                core.take_cluster_news(now, ClusterNews { ring, lease_until, ..ClusterNews::default() });
            }
        }
    }

    fn turn(&mut self) {
        self.one.turn();
        self.two.turn();
    }

    /// Sends a request and takes turns until it is answered: its status and value.
    fn call(&mut self, client: &mut Client, body: &RequestBody<'_>) -> (Status, Vec<u8>) {
        let (id, frame) = client.frame(body);
        client.send_bytes(&mut self.one, &frame);
        let (answered, status, value) = self.receive(client);
        assert_eq!(answered, id);
        (status, value)
    }

    fn receive(&mut self, client: &mut Client) -> super::Answer {
        let start = Reading::now();
        loop {
            client.read();
            if let Some(answer) = client.decode() {
                return answer;
            }
            assert!(!Reading::now().is_past(start, PATIENCE), "no reply");
            self.turn();
        }
    }

    /// Lets the first node alone take turns until it holds `count` replies back.
    fn hold(&mut self, count: usize) {
        self.one.until("the replies are held", |node| (held(node) == count).then_some(()));
    }

    fn end(mut self) {
        // Nobody may be talked to any more.
        for core in self.one.cores.iter_mut().chain(&mut self.two.cores) {
            core.set_peers(&[]);
        }
        let start = Reading::now();
        let is_over = |node: &Stepped| node.cores.iter().all(|core| core.connections.is_empty());
        while !is_over(&self.one) || !is_over(&self.two) {
            assert!(!Reading::now().is_past(start, PATIENCE), "links stay");
            self.turn();
        }
        self.one.end();
        self.two.end();
    }
}

fn node_ref(id: u64) -> NodeRef {
    NodeRef { id, incarnation: 1 }
}

fn member(id: u64, cores: usize) -> Member {
    Member {
        node: node_ref(id),
        name: String::new(),
        address: String::new(),
        zone: String::new(),
        cores: cores as u16,
        weight: 1,
        draining: false,
    }
}

fn held(node: &Stepped) -> usize {
    node.cores.iter().map(|core| core.held.len()).sum()
}

/// Items that a multi-set writes.
fn items(keys: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for key in keys {
        Items::push(Item { key, value: b"many", ttl_ms: 0, client_flags: 0 }, &mut body);
    }
    body
}

#[test]
fn a_write_and_reads_that_rest_on_it_are_answered_when_the_copy_has_it() {
    let mut pair = Pair::new(1);
    let (key, other) = (pair.one.key(0, 0), pair.one.key(0, 1));
    let mut client = pair.one.client(0);
    let (written, mut frames) = client.frame(&set(&key, b"value"));
    let (read, frame) = client.frame(&RequestBody::Get { key: &key });
    frames.extend(frame);
    let (elsewhere, frame) = client.frame(&RequestBody::Get { key: &other });
    frames.extend(frame);
    client.send_bytes(&mut pair.one, &frames);
    pair.hold(2);
    pair.one.rest();
    assert_eq!(client.received_now(), [(elsewhere, Status::Miss, Vec::new())], "it rests on nothing");
    assert_eq!(pair.receive(&mut client), (written, Status::Ok, Vec::new()));
    assert_eq!(pair.receive(&mut client), (read, Status::Ok, b"value".to_vec()));
    assert_eq!(held(&pair.one), 0);
    drop(client);
    pair.end();
}

#[test]
fn a_released_reply_leaves_with_those_that_are_missing_or_when_its_time_is_over() {
    let mut pair = Pair::new(1);
    let key = pair.one.key(0, 0);
    for is_late in [false, true] {
        let mut client = pair.one.client(0);
        let mut connections = pair.one.cores[0].connections.iter_mut();
        let is_client = |(_, it): &(usize, &mut Option<Box<Connection>>)| it.as_ref().unwrap().peer.is_none();
        let (slot, connection) = connections.find(is_client).unwrap();
        let connection = connection.as_mut().unwrap();
        // As if it had asked for something else, too.
        connection.inflight += 1;
        let generation = connection.generation;
        let (written, frame) = client.frame(&set(&key, b"value"));
        client.send_bytes(&mut pair.one, &frame);
        pair.hold(1);
        let start = Reading::now();
        while held(&pair.one) > 0 {
            assert!(!Reading::now().is_past(start, PATIENCE), "released");
            pair.turn();
        }
        assert!(!pair.one.cores[0].together.is_empty(), "the other is missing");
        // Its time is over, or never will be.
        let since = if is_late { Reading::default() } else { start.plus_nanos(1 << 60) };
        pair.one.cores[0].together.wait_since(since);
        pair.one.rest();
        let written = (written, Status::Ok, Vec::new());
        let (before, mut after) = if is_late { (vec![written], vec![]) } else { (vec![], vec![written]) };
        assert_eq!(client.received_now(), before);
        let mut other = Vec::new();
        Reply::status(99, Status::Miss).encode(&mut other);
        pair.one.cores[0].deliver(slot as u32, generation, &other, true);
        pair.one.rest();
        after.push((99, Status::Miss, Vec::new()));
        assert_eq!(client.received_now(), after, "late: {is_late}");
        drop(client);
        pair.one.until("it is gone", |node| {
            node.cores[0].connections.iter().all(|(_, it)| it.as_ref().unwrap().peer.is_some()).then_some(())
        });
    }
    pair.end();
}

#[test]
fn replies_wait_over_the_mesh_in_gathers_and_for_large_values() {
    let mut pair = Pair::new(2);
    let keys: Vec<Vec<u8>> = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(core, number)| pair.one.key(core, number)).into();
    let mut client = pair.one.client(0);
    assert_eq!(pair.call(&mut client, &set(&keys[1], b"far")).0, Status::Ok, "from another core");
    assert_eq!(pair.call(&mut client, &RequestBody::Get { key: &keys[1] }), (Status::Ok, b"far".to_vec()));

    let body = items(&keys);
    let (status, results) = pair.call(&mut client, &RequestBody::MultiSet(Items::parse(4, &body).unwrap()));
    let mut rest = &results[..];
    let statuses: Vec<Status> =
        std::iter::from_fn(|| MultiResult::take(rest).map(|(result, after)| (rest = after, result.status).1)).collect();
    assert_eq!((status, statuses), (Status::Ok, vec![Status::Ok; 4]));
    let mut body = Vec::new();
    keys.iter().for_each(|key| Keys::push(key, &mut body));
    assert_eq!(pair.call(&mut client, &RequestBody::MultiGet(Keys::parse(4, &body).unwrap())).0, Status::Ok);

    let large = vec![7; 300_000];
    for key in &keys[..2] {
        let (id, frame) = client.frame(&set(key, &large));
        client.send_bytes(&mut pair.one, &frame);
        pair.hold(1);
        assert_eq!(pair.receive(&mut client), (id, Status::Ok, Vec::new()));
        assert_eq!(pair.call(&mut client, &RequestBody::Get { key }), (Status::Ok, large.clone()));
    }
    assert_eq!(pair.call(&mut client, &RequestBody::Flush).0, Status::Ok);
    assert_eq!(pair.call(&mut client, &RequestBody::Get { key: &keys[3] }).0, Status::Miss);
    drop(client);
    pair.end();
}

#[test]
fn what_is_not_known_to_be_committed_when_the_vnode_leaves_is_said_to_be_unknown_and_reads_are_moved() {
    let mut pair = Pair::new(2);
    // The asking core is another one than the vnode's: the fate of the reply goes its way, too.
    for asked in 0..2 {
        let key = pair.one.key(0, 0);
        let mut client = pair.one.client(asked);
        let (written, mut frames) = client.frame(&set(&key, b"value"));
        let (read, frame) = client.frame(&RequestBody::Get { key: &key });
        frames.extend(frame);
        client.send_bytes(&mut pair.one, &frames);
        pair.hold(2);
        let vnode = pair.one.topology.vnode(&key);
        let mut roles = Roles::new(pair.ring.vnodes[vnode].term + 1, Seat { node: 1, core: 0 });
        assert!(roles.put(Seat { node: 0, core: 0 }, CopyState::InSync));
        (pair.ring.vnodes[vnode], pair.ring.epoch) = (roles, pair.ring.epoch + 1);
        pair.tell_ring();
        pair.one.until("both are answered", |node| (held(node) == 0).then_some(()));
        let mut answers = Vec::new();
        while answers.len() < 3 {
            pair.one.turn();
            answers.extend(client.received_now());
        }
        answers.sort_by_key(|(id, _, _)| *id);
        let news = (0, Status::TopologyChanged, Vec::new());
        let expected = [news, (written, Status::OutcomeUnknown, Vec::new()), (read, Status::Moved, Vec::new())];
        assert_eq!(answers, expected, "asked by core {asked}");
        drop(client);
    }
    pair.end();
}

#[test]
fn who_has_gone_before_the_commit_leaves_nothing_behind() {
    let mut pair = Pair::new(2);
    let mut client = pair.one.client(0);
    let mut frames = client.frame(&set(&pair.one.key(0, 0), b"near")).1;
    frames.extend(client.frame(&set(&pair.one.key(1, 0), b"far")).1);
    client.send_bytes(&mut pair.one, &frames);
    pair.hold(2);
    let opened =
        |node: &Stepped| node.cores[0].connections.iter().filter(|(_, it)| it.as_ref().unwrap().peer.is_none()).count();
    drop(client);
    pair.one.until("its end is noticed", |node| (opened(node) == 0 || held(node) == 2).then_some(()));
    let start = Reading::now();
    while held(&pair.one) > 0 {
        assert!(!Reading::now().is_past(start, PATIENCE), "released");
        pair.turn();
    }
    pair.end();
}

#[test]
fn a_lost_link_is_made_again_and_what_waited_is_committed() {
    let mut pair = Pair::new(1);
    let mut client = pair.one.client(0);
    let (id, frame) = client.frame(&set(&pair.one.key(0, 0), b"value"));
    client.send_bytes(&mut pair.one, &frame);
    pair.hold(1);
    for node in [&mut pair.one, &mut pair.two] {
        let core = &mut node.cores[0];
        let is_link = |(_, it): &(usize, &Option<Box<Connection>>)| it.as_ref().unwrap().peer.is_some();
        let slots: Vec<u32> = core.connections.iter().filter(is_link).map(|(slot, _)| slot as u32).collect();
        for slot in slots {
            let mut connection = core.take(slot).unwrap();
            core.close(slot, &mut connection, CloseCause::Failed);
            core.put_or_free(slot, connection);
        }
    }
    assert_eq!(pair.receive(&mut client), (id, Status::Ok, Vec::new()));
    drop(client);
    pair.end();
}

#[test]
fn so_much_is_held_back_and_what_would_wait_then_is_refused_and_not_carried_out() {
    let mut pair = Pair::new(1);
    let (large_key, key) = (pair.one.key(0, 0), pair.one.key(0, 1));
    let mut client = pair.one.client(0);
    let value = vec![7; BUFFER_BYTES / HELD_SHARE / 3];
    let mut frames = client.frame(&set(&large_key, &value)).1;
    let reads: Vec<u32> = (0..5)
        .map(|_| {
            let (id, frame) = client.frame(&RequestBody::Get { key: &large_key });
            frames.extend(frame);
            id
        })
        .collect();
    let (refused, frame) = client.frame(&set(&key, b"value"));
    frames.extend(frame);
    let (answered, frame) = client.frame(&RequestBody::Get { key: &key });
    frames.extend(frame);
    client.send_bytes(&mut pair.one, &frames);
    let mut answers = Vec::new();
    while answers.len() < 4 {
        pair.one.turn();
        answers.extend(client.received_now());
    }
    answers.sort_by_key(|(id, _, _)| *id);
    let overloaded = |id| (id, Status::Overloaded, Vec::new());
    let expected =
        [overloaded(reads[3]), overloaded(reads[4]), overloaded(refused), (answered, Status::Miss, Vec::new())];
    assert_eq!((answers, held(&pair.one)), (expected.to_vec(), 4), "the write and three reads");
    let mut committed = 0;
    while committed < 4 {
        pair.turn();
        committed += client.received_now().into_iter().filter(|(_, status, _)| *status == Status::Ok).count();
    }
    assert_eq!(pair.call(&mut client, &RequestBody::Get { key: &key }).0, Status::Miss, "it was refused unapplied");
    drop(client);
    pair.end();
}

#[test]
fn what_copies_say_is_heard_though_the_buffers_have_no_room() {
    let mut pair = Pair::new(1);
    let mut client = pair.one.client(0);
    let (id, frame) = client.frame(&set(&pair.one.key(0, 0), b"value"));
    client.send_bytes(&mut pair.one, &frame);
    pair.hold(1);
    // Others have all room, and what they send takes every receive buffer.
    let all = Charge { bytes: BUFFER_BYTES, received_bytes: 0 };
    let mut others: Vec<Client> = (0..60).map(|_| pair.one.client(0)).collect();
    pair.one.cores[0].budget.recharge(Charge::default(), all);
    let pings: Vec<Vec<u8>> =
        others.iter_mut().map(|it| it.frame(&RequestBody::Ping { payload: &[7; 1000] }).1.repeat(100)).collect();
    for (other, pings) in others.iter_mut().zip(&pings) {
        other.try_send(pings);
    }
    pair.one.until("no receive buffer is left", |node| (node.cores[0].ring.buffers.with_kernel() == 0).then_some(()));
    assert_eq!(pair.receive(&mut client), (id, Status::Ok, Vec::new()));
    pair.one.cores[0].budget.recharge(all, Charge::default());
    drop((client, others));
    pair.end();
}

impl Pair {
    /// The first node seals the vnode of `key`, to hand it over to the second.
    fn begin_move(&mut self, key: &[u8]) {
        let vnode = self.one.topology.vnode(key);
        let Roles { term, primary, .. } = self.ring.vnodes[vnode];
        let order = Order::BeginMove { vnode: vnode as u32, term, target: Seat { node: 1, core: 0 } };
        let news = ClusterNews { orders: vec![(1, order)], ..ClusterNews::default() };
        self.one.cores[usize::from(primary.core)].take_cluster_news(Reading::now().instant(), news);
    }

    /// The ring that ends the move: `primary` leads the vnode of `key` now, and `copy` counts.
    fn end_move(&mut self, key: &[u8], primary: Seat, copy: Seat) {
        let vnode = self.one.topology.vnode(key);
        let mut roles = Roles::new(self.ring.vnodes[vnode].term + 1, primary);
        assert!(roles.put(copy, CopyState::InSync));
        (self.ring.vnodes[vnode], self.ring.epoch) = (roles, self.ring.epoch + 1);
        self.tell_ring();
    }
}

fn waiting(node: &Stepped) -> usize {
    node.cores.iter().map(|core| core.waiting.len()).sum()
}

#[test]
fn requests_of_a_vnode_that_moves_wait_and_are_carried_out_in_order_when_it_stays() {
    let mut pair = Pair::new(2);
    // The asking core is another one than the vnode's: what waits there is answered its way, too.
    for asked in 0..2 {
        let (key, other) = (pair.one.key(0, 0), pair.one.key(0, 1));
        assert_ne!(pair.one.topology.vnode(&key), pair.one.topology.vnode(&other));
        let mut client = pair.one.client(asked);
        pair.begin_move(&key);
        let (first, mut frames) = client.frame(&set(&key, b"first"));
        let (second, frame) = client.frame(&set(&key, b"second"));
        frames.extend(frame);
        let (read, frame) = client.frame(&RequestBody::Get { key: &key });
        frames.extend(frame);
        let (elsewhere, frame) = client.frame(&RequestBody::Get { key: &other });
        frames.extend(frame);
        client.send_bytes(&mut pair.one, &frames);
        assert_eq!(pair.receive(&mut client), (elsewhere, Status::Miss, Vec::new()), "asked by core {asked}");
        assert_eq!(waiting(&pair.one), 3);
        pair.end_move(&key, Seat { node: 0, core: 0 }, Seat { node: 1, core: 0 });
        let mut answers: Vec<_> = (0..4).map(|_| pair.receive(&mut client)).collect();
        answers.sort_by_key(|(id, _, _)| *id);
        let stored = |id| (id, Status::Ok, Vec::new());
        let news = (0, Status::TopologyChanged, Vec::new());
        let expected = [news, stored(first), stored(second), (read, Status::Ok, b"second".to_vec())];
        assert_eq!(answers, expected, "asked by core {asked}");
        drop(client);
    }
    pair.end();
}

#[test]
fn who_asks_for_a_vnode_that_moves_does_not_overtake_those_that_wait_for_it() {
    let mut pair = Pair::new(1);
    let key = pair.one.key(0, 0);
    let mut client = pair.one.client(0);
    assert_eq!(pair.call(&mut client, &set(&key, b"")).0, Status::Ok);
    pair.begin_move(&key);
    // One comes in each turn, also in that in which the vnode is served again.
    for number in 0..200 {
        if number == 5 {
            pair.end_move(&key, Seat { node: 0, core: 0 }, Seat { node: 1, core: 0 });
        }
        let (_, frame) = client.frame(&RequestBody::Append { key: &key, value: &[number] });
        client.send_bytes(&mut pair.one, &frame);
        pair.turn();
    }
    let answers: Vec<_> = (0..201).map(|_| pair.receive(&mut client).1).collect();
    assert_eq!(answers.iter().filter(|status| **status == Status::Ok).count(), 200, "and one is news");
    assert!(pair.one.cores[0].waiting.counters.served > 1, "too few waited: this proves nothing");
    assert_eq!(pair.call(&mut client, &RequestBody::Get { key: &key }).1, (0..200).collect::<Vec<u8>>());
    drop(client);
    pair.end();
}

#[test]
fn requests_that_have_waited_for_a_vnode_are_told_at_once_where_it_has_gone() {
    let mut pair = Pair::new(2);
    for asked in 0..2 {
        let key = pair.one.key(0, 0);
        let mut client = pair.one.client(asked);
        pair.begin_move(&key);
        let (written, mut frames) = client.frame(&set(&key, b"value"));
        let (read, frame) = client.frame(&RequestBody::Get { key: &key });
        frames.extend(frame);
        client.send_bytes(&mut pair.one, &frames);
        pair.one.until("both wait", |node| (waiting(node) == 2).then_some(()));
        pair.end_move(&key, Seat { node: 1, core: 0 }, Seat { node: 0, core: 0 });
        let mut answers = Vec::new();
        while answers.len() < 3 {
            pair.one.turn();
            answers.extend(client.received_now());
        }
        answers.sort_by_key(|(id, _, _)| *id);
        let moved = |id| (id, Status::Moved, Vec::new());
        assert_eq!(answers, [(0, Status::TopologyChanged, Vec::new()), moved(written), moved(read)]);
        assert_eq!(client.last_version, u64::from(pair.ring.epoch), "asked by core {asked}");
        drop(client);
    }
    pair.end();
}

#[test]
fn a_large_value_waits_for_its_vnode_where_it_was_received_and_in_order() {
    let mut pair = Pair::new(1);
    let key = pair.one.key(0, 0);
    let large = vec![7; 3 * RESERVE_BYTES_MIN];
    for stays in [true, false] {
        let mut client = pair.one.client(0);
        pair.begin_move(&key);
        let mut frames = Vec::new();
        let bodies = [set(&key, b"first"), set(&key, &large), RequestBody::Get { key: &key }, set(&key, b"last")];
        let ids = bodies.map(|body| {
            let (id, frame) = client.frame(&body);
            frames.extend(frame);
            id
        });
        client.send_bytes(&mut pair.one, &frames);
        pair.one.until("all wait", |node| (waiting(node) == 4).then_some(()));
        assert!(pair.one.cores[0].waiting.bytes() < large.len(), "the value is in the arena");
        let (one, two) = (Seat { node: 0, core: 0 }, Seat { node: 1, core: 0 });
        match stays {
            true => pair.end_move(&key, one, two),
            false => pair.end_move(&key, two, one),
        }
        let mut answers = Vec::new();
        while answers.len() < 5 {
            pair.turn();
            answers.extend(client.received_now());
        }
        answers.sort_by_key(|(id, _, _)| *id);
        let status = if stays { Status::Ok } else { Status::Moved };
        let read = if stays { large.clone() } else { Vec::new() };
        let expected = [Vec::new(), Vec::new(), read, Vec::new()].into_iter().zip(ids);
        let expected: Vec<_> = expected.map(|(value, id)| (id, status, value)).collect();
        assert_eq!(answers[0].1, Status::TopologyChanged);
        assert_eq!(answers[1..], expected, "stays: {stays}");
        let samples = pair.one.cores[0].snapshot().samples;
        let arriving = samples.iter().find(|sample| sample.name == "arriving_bytes").expect("it is told");
        assert_eq!(arriving.value, 0, "what was not stored has given its room back");
        drop(client);
    }
    pair.end();
}

#[test]
fn nothing_waits_for_a_vnode_for_longer_than_it_may_or_in_more_bytes() {
    let mut pair = Pair::new(1);
    let key = pair.one.key(0, 0);
    let mut client = pair.one.client(0);
    pair.begin_move(&key);
    let value = vec![7; 30_000];
    let frame_bytes = client.frame(&set(&key, &value)).1.len();
    // The last one takes what is left, and more.
    let fitting = (BUFFER_BYTES / WAITING_SHARE).div_ceil(frame_bytes);
    let mut written = Vec::new();
    for _ in 0..fitting + 2 {
        let (id, frame) = client.frame(&set(&key, &value));
        client.send_bytes(&mut pair.one, &frame);
        written.push((id, Status::Overloaded, Vec::new()));
    }
    let mut answers = Vec::new();
    let mut await_answers = |pair: &mut Pair, count| {
        pair.one.until("so many answers", |_| {
            answers.extend(client.received_now());
            (answers.len() >= count).then(|| answers.clone())
        })
    };
    assert_eq!(await_answers(&mut pair, 2), written[fitting..]);
    assert_eq!(waiting(&pair.one), fitting);
    let answers = await_answers(&mut pair, fitting + 2);
    assert_eq!(answers[2..], written[..fitting], "their time is over");
    drop(client);
    pair.end_move(&key, Seat { node: 0, core: 0 }, Seat { node: 1, core: 0 });
    pair.end();
}
