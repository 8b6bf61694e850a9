//! A topology that changes while cores serve.

use std::sync::Arc;

use quoit_wire::changes::TopologyChanges;
use quoit_wire::topology::{Node, Seat, Topology};
use quoit_wire::{RequestBody, Status};

use super::{Client, PATIENCE, Stepped, set};
use crate::runtime::clock::Reading;
use crate::runtime::core::Core;
use crate::runtime::limits::NEWS_PER_TURN;
use crate::runtime::news::News;
use crate::shard::TopologyOutcome;

/// The node's topology with another node in it, which gets the vnode of `key`, as `epoch`.
fn without(node: &Stepped, key: &[u8], epoch: u32) -> Arc<Topology> {
    let mut topology = Topology::clone(&node.topology);
    let other = Node {
        id: 8,
        incarnation: 1,
        name: String::new(),
        address: String::new(),
        zone: String::new(),
        cores: 1,
        weight: 1,
    };
    // Its slot stands before ours: a node is known by its id, not by its place.
    topology.nodes.insert(0, other);
    topology.vnodes.iter_mut().for_each(|placement| placement.primary.node += 1);
    let vnode = topology.vnode(key);
    topology.vnodes[vnode].primary = Seat { node: 0, core: 0 };
    topology.vnodes[vnode].term += 1;
    topology.epoch = epoch;
    Arc::new(topology)
}

/// The node's first topology as `epoch`, in which the vnode of `key` is back under a higher term.
fn with_again(node: &Stepped, key: &[u8], epoch: u32) -> Arc<Topology> {
    let mut topology = Topology::clone(&node.topology);
    let vnode = topology.vnode(key);
    topology.vnodes[vnode].term += 2;
    topology.epoch = epoch;
    Arc::new(topology)
}

fn tell(node: &mut Stepped, topology: &Arc<Topology>) {
    for core in &mut node.cores {
        take(core, topology);
    }
}

/// As a core takes a ring.
fn take(core: &mut Core, topology: &Arc<Topology>) {
    assert_eq!(core.shard.set_topology(topology.clone()), TopologyOutcome::Taken);
    core.news = Some(News { cursor: 0 });
}

fn news(node: &mut Stepped, client: &mut Client, epoch: u64) {
    let (id, status, _) = client.receive(node).expect("news");
    assert_eq!((id, status, client.last_version), (0, Status::TopologyChanged, epoch));
}

#[test]
fn connections_hear_of_a_new_topology_and_what_left_is_moved() {
    let mut node = Stepped::new(2, |_| {});
    let (mut near, mut far) = (node.client(0), node.client(1));
    let key = node.key(0, 0);
    let kept = node.key(1, 0);
    for key in [&key, &kept] {
        assert_eq!(near.call(&mut node, &set(key, b"value")).1, Status::Ok);
    }
    let left = without(&node, &key, 5);
    tell(&mut node, &left);
    for client in [&mut near, &mut far] {
        news(&mut node, client, 5);
        assert_eq!(client.call(&mut node, &RequestBody::Get { key: &key }).1, Status::Moved);
        assert_eq!(client.last_version, 5);
        assert_eq!(client.call(&mut node, &RequestBody::Get { key: &kept }).1, Status::Ok);
        let (_, status, body) = client.call(&mut node, &RequestBody::Topology { known_epoch: 1 });
        assert_eq!((status, Topology::from_bytes(&body)), (Status::Ok, Ok(Topology::clone(&left))));
        assert_eq!(client.call(&mut node, &RequestBody::Topology { known_epoch: 5 }).2, b"");
    }
    assert_eq!(node.cores[0].shard.set_topology(node.topology.clone()), TopologyOutcome::Stale);
    drop((near, far));
    node.end();
}

#[test]
fn a_client_is_told_what_has_changed_since_the_topology_it_has() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    let key = node.key(0, 0);
    let (first, left) = (Topology::clone(&node.topology), without(&node, &key, 5));
    tell(&mut node, &left);
    news(&mut node, &mut client, 5);
    let (_, status, body) = client.call(&mut node, &RequestBody::TopologyChanges { known_epoch: first.epoch });
    assert_eq!((status, body, client.last_version), (Status::Miss, Vec::new(), 5), "the places of all nodes have");
    let mut later = Topology { epoch: 9, ..Topology::clone(&left) };
    later.vnodes[3].replicas[0] = Seat { node: 0, core: 0 };
    let later = Arc::new(later);
    tell(&mut node, &later);
    news(&mut node, &mut client, 9);
    let (_, status, body) = client.call(&mut node, &RequestBody::TopologyChanges { known_epoch: 5 });
    let made = TopologyChanges::from_bytes(&body).and_then(|changes| changes.apply(&left));
    assert_eq!((status, made, client.last_version), (Status::Ok, Ok(Topology::clone(&later)), 9));
    assert!(body.len() < 80, "{} bytes for one vnode", body.len());
    let (_, status, body) = client.call(&mut node, &RequestBody::TopologyChanges { known_epoch: 9 });
    assert_eq!((status, body), (Status::Ok, Vec::new()), "nothing has");
    drop(client);
    node.end();
}

#[test]
fn a_vnode_that_comes_back_is_empty_under_its_new_term() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    let key = node.key(0, 0);
    client.call(&mut node, &set(&key, b"old"));
    let (left, back) = (without(&node, &key, 2), with_again(&node, &key, 3));
    // At once, before the background work can have dropped anything.
    tell(&mut node, &left);
    tell(&mut node, &back);
    news(&mut node, &mut client, 3);
    assert_eq!(client.call(&mut node, &RequestBody::Get { key: &key }).1, Status::Miss);
    assert_eq!(client.call(&mut node, &set(&key, b"new")).1, Status::Ok);
    assert_eq!(client.last_version >> quoit_wire::SEQUENCE_BITS, 3, "written under the vnode's new term");
    drop(client);
    node.end();
}

#[test]
fn a_request_on_its_way_to_a_core_that_loses_the_vnode_is_moved() {
    let mut node = Stepped::new(2, |_| {});
    let mut client = node.client(0);
    let key = node.key(1, 0);
    let (id, frame) = client.frame(&set(&key, b"value"));
    client.try_send(&frame);
    // The asking core alone takes turns: the other one does not see the request before it hears of the topology.
    let start = Reading::now();
    while node.cores[0].mesh.inflight() == 0 {
        assert!(!Reading::now().is_past(start, PATIENCE), "the request is never in the mesh");
        node.cores[0].turn().unwrap();
    }
    let left = without(&node, &key, 2);
    take(&mut node.cores[1], &left);
    assert_eq!(client.receive(&mut node).unwrap(), (id, Status::Moved, Vec::new()));
    assert_eq!(client.last_version, 2);
    drop(client);
    node.end();
}

#[test]
fn a_large_value_that_arrives_while_its_vnode_leaves_is_moved() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    let key = node.key(0, 0);
    let value = vec![7; 300_000];
    let (id, frame) = client.frame(&set(&key, &value));
    let (front, rest) = frame.split_at(100_000);
    client.send_bytes(&mut node, front);
    node.rest();
    let left = without(&node, &key, 2);
    tell(&mut node, &left);
    news(&mut node, &mut client, 2);
    client.send_bytes(&mut node, rest);
    assert_eq!(client.receive(&mut node).unwrap(), (id, Status::Moved, Vec::new()));
    let back = with_again(&node, &key, 3);
    tell(&mut node, &back);
    news(&mut node, &mut client, 3);
    assert_eq!(client.call(&mut node, &RequestBody::Get { key: &key }).1, Status::Miss);
    drop(client);
    node.end();
}

#[test]
fn news_to_many_connections_is_spread_over_turns() {
    let mut node = Stepped::new(1, |_| {});
    let mut clients: Vec<Client> = (0..2 * NEWS_PER_TURN + 10).map(|_| node.client(0)).collect();
    let key = node.key(0, 0);
    let left = without(&node, &key, 2);
    tell(&mut node, &left);
    node.turn();
    let told_once = node.cores[0].counters.news as usize;
    assert!((1..=NEWS_PER_TURN).contains(&told_once), "{told_once} in one turn");
    for client in &mut clients {
        news(&mut node, client, 2);
    }
    assert_eq!(node.cores[0].counters.news as usize, clients.len());
    drop(clients);
    node.end();
}
