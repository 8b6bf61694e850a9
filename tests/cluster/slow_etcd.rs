//! An etcd that answers late, and clocks that jump: neither is a reason to change a role, or to answer what is stale.

use std::time::Duration;

use crate::jumping_clock::JUMP_SECS;
use crate::world::{World, assert_in_time, unix_ms};

/// Late, and still in time for every request to etcd.
const LATE: Duration = Duration::from_millis(300);
/// Later than a node waits for any answer of etcd.
const TOO_LATE: Duration = Duration::from_millis(1_500);

#[test]
fn an_etcd_that_answers_late_changes_no_role_and_makes_nothing_stale() {
    let world = World::found_over_a_slow_link(&["a", "b", "c"], "--replicas 1 --write one --lease 4s");
    world.await_whole(&["a", "b", "c"]);
    let epoch = world.status().expect("a node answers").epoch();
    let load = world.load("--write one");
    world.delay_etcd(LATE);
    // Longer than a lease.
    world.await_requests(12_000);
    let stale = world.stale_replies();
    world.delay_etcd(Duration::ZERO);
    world.await_requests(1_000);
    let later_epoch = world.status().expect("a node answers").epoch();
    let report = world.end("etcd answers 300 ms late, --replicas 1 --write one", load);
    assert_in_time(&report, later_epoch == epoch, "no role has changed");
    assert_in_time(&report, stale == 0, "leases are kept alive in time");
    assert_in_time(&report, report.number("errors") == 0, "no request failed");
}

#[test]
fn a_node_that_is_killed_while_etcd_answers_late_takes_nothing_acknowledged_with_it() {
    let mut world = World::found_over_a_slow_link(&["a", "b", "c"], "--replicas 1 --write one");
    let load = world.load("--write one");
    world.delay_etcd(LATE);
    world.await_requests(1_000);
    world.kill("b");
    world.await_deletion("b");
    world.await_whole(&["a", "c"]);
    let report = world.end("one of three killed while etcd answers 300 ms late, --replicas 1 --write one", load);
    println!("{} client errors with a deadline of 5 s", report.number("errors"));
}

#[test]
fn an_etcd_whose_answers_come_too_late_is_as_one_that_is_away() {
    let world = World::found_over_a_slow_link(&["a", "b", "c"], "--replicas 1 --write async");
    world.await_whole(&["a", "b", "c"]);
    let epoch = world.status().expect("a node answers").epoch();
    let load = world.load("--write async");
    world.delay_etcd(TOO_LATE);
    world.await_stale(1_000);
    world.delay_etcd(Duration::ZERO);
    world.await_fresh();
    assert_eq!(world.status().expect("a node answers").epoch(), epoch, "the ring is as it was");
    let report = world.end("etcd answers 1.5 s late, --replicas 1 --write async", load);
    assert_in_time(&report, report.number("errors") == 0, "no request failed");
}

#[test]
fn wall_clocks_that_jump_end_no_lease_and_no_time_to_live() {
    let mut world = World::found_with_jumping_clocks(&["a", "b", "c"], "--replicas 1 --write one --lease 6s");
    let started_secs = world.metric("a", "process_start_time_seconds").expect("a node answers");
    assert!(started_secs.abs_diff(unix_ms() / 1000) > JUMP_SECS / 2, "its clock jumps: {started_secs}");
    world.await_whole(&["a", "b", "c"]);
    let epoch = world.status().expect("a node answers").epoch();
    // Half of the sets expire within so long; what does so early or late is found by whoever reads it.
    let load = world.load("--write one --ttl 2s");
    world.await_requests(12_000);
    assert_eq!(world.stale_replies(), 0, "leases are kept alive in time");
    assert_eq!(world.status().expect("a node answers").epoch(), epoch, "no role has changed");
    world.kill("b");
    world.await_deletion("b");
    world.await_whole(&["a", "c"]);
    let report = world.end("wall clocks jump by a day, one of three killed, --replicas 1 --write one", load);
    println!("{} client errors with a deadline of 5 s", report.number("errors"));
}
