//! Vnodes that move under load: nodes that join, are drained, or are told to stop cost no request.

use crate::several::Several;
use crate::world::{World, assert_in_time};

#[test]
fn a_join_and_a_drain_fail_no_request() {
    let mut world = World::found(&["a", "b"], "--replicas 1 --write one");
    let load = world.load("--write one");
    join_and_drain(&mut world);
    let report = world.end("one joins and another is drained, --replicas 1 --write one", load);
    assert_in_time(&report, report.number("errors") == 0, "no request failed");
    println!(
        "a vnode answered nothing for {} ms at most, and no write for {} ms",
        report.fraction("client/vnode_gap_ms") as u64,
        report.fraction("client/vnode_write_gap_ms") as u64
    );
}

#[test]
fn a_join_and_a_drain_fail_no_request_for_several_keys_and_no_large_value() {
    let mut world = World::found(&["a", "b"], "--replicas 1 --write one");
    let load = Several::begin(&world.servers());
    join_and_drain(&mut world);
    load.await_rounds(20);
    let found = load.end();
    assert!(found.failed.is_empty(), "{:#?}", found.failed);
    let told = world.answered("topology_changes");
    assert!(told > 0, "clients are told what has changed");
    println!(
        "clients asked {} times for a whole topology, and were told {told} times what had changed",
        world.answered("topology")
    );
}

#[test]
fn a_node_that_is_told_to_stop_fails_no_request() {
    let mut world = World::found(&["a", "b", "c"], "--replicas 1 --write all");
    let load = world.load("--write all");
    world.stop("b");
    world.await_whole(&["a", "c"]);
    let report = world.end("one of three is told to stop, --replicas 1 --write all", load);
    assert_in_time(&report, report.number("errors") == 0, "no request failed");
    println!("a vnode answered nothing for {} ms at most", report.fraction("client/vnode_gap_ms") as u64);
}

/// A third node joins the two, and one of those is drained.
fn join_and_drain(world: &mut World) {
    world.start("c");
    world.await_whole(&["a", "b", "c"]);
    let answer = world.ask("a", "PUT", "/cluster/nodes/b/draining").expect("the node answers");
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    world.await_status("b is drained", |status| status.state("b") == Some("drained"));
    world.await_whole(&["a", "c"]);
}
