//! Nodes that live and are not heard: frozen past their lease and woken, or cut off from everybody and connected again. They
//! must not answer what is no longer theirs to answer.

use quoit_client::SetOptions;
use quoit_wire::{RequestBody, RequestOptions};

use crate::several::Several;
use crate::wire_client::WireClient;
use crate::world::World;
use crate::{client, key};

#[test]
fn a_frozen_node_that_wakes_past_its_lease_answers_nothing_stale() {
    let world = World::found(&["a", "b", "c"], "--replicas 1 --write one");
    let load = world.load("--write one");
    world.signal("b", libc::SIGSTOP);
    world.await_deletion("b");
    world.await_whole(&["a", "c"]);
    // What it had received before it froze, and connections made to it since, are answered now.
    world.signal("b", libc::SIGCONT);
    world.await_whole(&["a", "b", "c"]);
    let report = world.end("frozen past its lease and woken, --replicas 1 --write one", load);
    println!("{} client errors with a deadline of 5 s", report.number("errors"));
}

#[test]
fn a_frozen_node_that_wakes_has_no_old_part_of_several_keys_and_no_old_large_value() {
    let world = World::found(&["a", "b", "c"], "--replicas 2 --write all");
    let (load, several) = (world.load("--write all"), Several::begin(&world.servers()));
    several.await_rounds(5);
    world.signal("b", libc::SIGSTOP);
    world.await_deletion("b");
    world.await_whole(&["a", "c"]);
    several.await_rounds(5);
    world.signal("b", libc::SIGCONT);
    world.await_whole(&["a", "b", "c"]);
    several.await_rounds(5);
    several.end();
    world.end("frozen and woken, large values and requests for several keys beside, --replicas 2 --write all", load);
}

#[test]
fn a_frozen_node_that_wakes_answers_nothing_stale_to_who_asked_while_it_was_frozen() {
    let world = World::found(&["a", "b", "c"], "--replicas 1 --write one");
    world.await_whole(&["a", "b", "c"]);
    let mut client = client(world.address_of("a"));
    let topology = client.topology().expect("a node answers");
    let is_frozens = |key: &String| {
        let owner = topology.owner(key.as_bytes());
        topology.nodes[usize::from(owner.node)].name == "b"
    };
    let keys: Vec<String> = (0..200).map(key).filter(is_frozens).collect();
    assert!(keys.len() > 20, "a third of them: {}", keys.len());
    let mut set = |value: &str| {
        for key in &keys {
            client.set(key, value, SetOptions::default()).expect("a set succeeds");
        }
    };
    set("old");
    // No client of ours asks a node that the ring no longer names; one that has not heard of it does.
    let mut asker = WireClient::connect(world.address_of("b"), 0);
    world.signal("b", libc::SIGSTOP);
    for key in &keys {
        asker.send(&RequestBody::Get { key: key.as_bytes() }, RequestOptions::default());
    }
    world.await_deletion("b");
    world.await_whole(&["a", "c"]);
    set("new");
    world.signal("b", libc::SIGCONT);
    for _ in &keys {
        // It knows that its lease is over: what it has all the same, it marks.
        let answer = asker.receive().expect("it answers each, if only that it can't");
        assert!(answer.is_stale || answer.value != b"old", "{answer:?}");
    }
}

#[test]
fn a_node_that_is_cut_off_stops_answering_and_comes_back() {
    let world = World::found_in_namespaces(&["a", "b", "c"], "--replicas 1 --write all");
    let load = world.load("--write all");
    world.cut("c", true);
    world.await_deletion("c");
    world.await_whole(&["a", "b"]);
    world.cut("c", false);
    world.await_whole(&["a", "b", "c"]);
    let report = world.end("cut off in a namespace and connected again, --replicas 1 --write all", load);
    println!("{} client errors with a deadline of 5 s", report.number("errors"));
}
