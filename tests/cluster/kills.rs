//! Nodes that are killed under load: nothing acknowledged is lost, nothing stale is read, and the cluster goes on soon.

use crate::generator::Report;
use crate::several::Several;
use crate::world::{LEASE_MS, World, assert_in_time};

/// etcd's deletion of a lease to the first success in every vnode that was led there; the test allows twice as much.
const DELETION_TO_SUCCESS_MS: u64 = 500;
/// The kill to that success, beyond the lease; the test allows twice as much.
const KILL_TO_SUCCESS_MS: u64 = 1_500;

#[test]
fn a_killed_node_takes_nothing_acknowledged_with_it() {
    let mut world = World::found(&["a", "b", "c"], "--replicas 1 --write one");
    let load = world.load("--write one");
    let killed = world.kill("b");
    let deleted = world.await_deletion("b");
    world.await_whole(&["a", "c"]);
    let report = world.end("one of three killed, --replicas 1 --write one", load);
    assert_soon(&report, killed, deleted);
    println!(
        "writes of a vnode refused for {} ms, until its copy is restored",
        report.fraction("client/vnode_write_gap_ms") as u64
    );
}

#[test]
fn a_killed_node_takes_no_part_of_several_keys_and_no_large_value_with_it() {
    let mut world = World::found(&["a", "b", "c"], "--replicas 1 --write one");
    let (load, several) = (world.load("--write one"), Several::begin(&world.servers()));
    several.await_rounds(5);
    world.kill("b");
    world.await_deletion("b");
    world.await_whole(&["a", "c"]);
    several.await_rounds(5);
    several.end();
    world.end("one of three killed, large values and requests for several keys beside, --replicas 1 --write one", load);
}

#[test]
fn a_primary_that_is_killed_while_its_copy_is_cut_off_takes_nothing_acknowledged_with_it() {
    let mut world = World::found_in_namespaces(&["a", "b", "c"], "--replicas 1 --write one --lease 5s");
    let load = world.load("--write one");
    // What b takes now, and whose copy is on c, nobody else has heard of, nor will the kernel send it when b is dead.
    world.cut("c", true);
    world.await_requests_to("a", 40);
    world.cut("b", true);
    world.kill("b");
    world.cut("c", false);
    world.await_deletion("b");
    world.await_whole(&["a", "c"]);
    if world.lost_vnodes() > 0 {
        // Half a second is enough for a copy to be given up, and with its primary the last one is lost, too.
        return println!("the machine was too busy to kill one node soon after another one was cut off");
    }
    world.end("one killed while the copies of half of it were cut off, --replicas 1 --write one", load);
}

#[test]
fn a_failover_among_nodes_that_evict_brings_nothing_stale_back() {
    let mut world = World::found_narrow(&["a", "b", "c"], "--replicas 1 --write one");
    let load = world.load("--write one");
    world.await_evictions();
    world.kill("a");
    world.await_deletion("a");
    world.await_whole(&["b", "c"]);
    let report = world.end("one of three killed, all of them evicting, --replicas 1 --write one", load);
    println!("{} client errors with a deadline of 5 s", report.number("errors"));
}

#[test]
fn with_two_replicas_a_killed_node_costs_no_request_that_may_take_five_seconds() {
    let mut world = World::found(&["a", "b", "c"], "--replicas 2 --write all");
    let load = world.load("--write all");
    let killed = world.kill("c");
    let deleted = world.await_deletion("c");
    world.await_whole(&["a", "b"]);
    let report = world.end("one of three killed, --replicas 2 --write all", load);
    assert_in_time(&report, report.number("errors") == 0, "no request failed");
    assert_soon(&report, killed, deleted);
}

#[test]
fn a_node_that_restarts_within_its_lease_has_lost_its_roles_and_nothing_else() {
    let mut world = World::found(&["a", "b", "c"], "--replicas 1 --write all");
    let load = world.load("--write all");
    world.kill("a");
    // It waits for its former life's lease to end.
    world.start("a");
    world.await_whole(&["a", "b", "c"]);
    let report = world.end("killed and restarted within the lease, --replicas 1 --write all", load);
    println!("{} client errors with a deadline of 5 s", report.number("errors"));
}

#[test]
fn the_leader_killed_in_the_middle_of_a_move_leaves_a_whole_cluster() {
    let mut world = World::found(&["a", "b", "c"], "--replicas 1 --write one");
    let load = world.load("--write one");
    let leader = world.status().expect("a node answers").leader().expect("a node leads").to_owned();
    world.start_beside("d", |world| {
        world.await_status("vnodes move to d", |status| status.leads("d") + status.catching_up("d") > 0);
        world.kill(&leader);
    });
    let mut left = vec!["a", "b", "c", "d"];
    left.retain(|name| *name != leader);
    world.await_whole(&left);
    let report = world.end("the leader killed in the middle of a join, --replicas 1 --write one", load);
    println!("{} client errors with a deadline of 5 s", report.number("errors"));
}

fn assert_soon(report: &Report, killed_unix_ms: u64, deleted_unix_ms: u64) {
    let success_unix_ms = report.number("client/vnode_gap_ended_unix_ms");
    let from_deletion_ms = success_unix_ms.saturating_sub(deleted_unix_ms);
    let from_kill_ms = success_unix_ms.saturating_sub(killed_unix_ms);
    println!(
        "deletion of the lease to the last vnode's first success {from_deletion_ms} ms, from the kill {from_kill_ms} ms"
    );
    let is_soon = from_deletion_ms <= 2 * DELETION_TO_SUCCESS_MS && from_kill_ms <= LEASE_MS + 2 * KILL_TO_SUCCESS_MS;
    assert_in_time(report, is_soon, "every vnode answered soon after the lease's end");
}
