//! An etcd that is gone for a while: nobody's role changes, and nobody waits for it in vain.

use super::etcd::Etcd;
use super::found;
use crate::world::{World, assert_in_time};

#[test]
fn etcd_killed_and_restarted_changes_no_role_and_loses_nothing() {
    let mut world = World::found(&["a", "b", "c"], "--replicas 1 --write one");
    world.await_whole(&["a", "b", "c"]);
    let epoch = world.status().expect("a node answers").epoch();
    let load = world.load("--write one");
    world.etcd.kill();
    // Copies vouch for their primaries as long as their own leases may stand.
    world.await_requests(1_000);
    world.etcd.restart();
    world.await_requests(6_000);
    assert_eq!(world.status().expect("a node answers").epoch(), epoch, "the ring is as it was");
    let report = world.end("etcd killed and restarted, --replicas 1 --write one", load);
    println!("{} client errors with a deadline of 5 s", report.number("errors"));
}

#[test]
fn an_etcd_that_is_away_for_longer_than_the_lease_costs_answers_their_freshness_and_nothing_else() {
    let mut world = World::found(&["a", "b", "c"], "--replicas 1 --write async");
    world.await_whole(&["a", "b", "c"]);
    let epoch = world.status().expect("a node answers").epoch();
    let load = world.load("--write async");
    world.etcd.kill();
    // Past the lease all of them are stale: so many of them take two seconds and more.
    world.await_stale(3_000);
    world.etcd.restart();
    let stale = world.await_fresh();
    world.await_requests(3_000);
    assert_eq!(world.status().expect("a node answers").epoch(), epoch, "the ring is as it was");
    let report = world.end("etcd away for longer than the lease, --replicas 1 --write async", load);
    assert_in_time(&report, report.number("errors") == 0, "no request failed");
    println!("{stale} answers were marked stale");
}

#[test]
fn a_node_that_is_told_to_stop_while_etcd_is_away_says_so_and_does_not_wait_for_it() {
    let mut etcd = Etcd::start();
    // It may hand over for far longer than this test waits for its end.
    let options = ["--replicas", "1", "--write", "one", "--drain-timeout", "1h"];
    let mut nodes = found(&etcd, &["a", "b"], &options);
    etcd.kill();
    let mut leaving = nodes.remove("a").expect("it is there");
    leaving.signal(libc::SIGTERM);
    let (code, log) = leaving.wait();
    assert_eq!(code, Some(0), "{log}");
    let told =
        ["nothing can be handed over while this lasts", "etcd does not answer", "not everything could be handed over"];
    assert!(told.iter().all(|told| log.contains(told)), "{log}");
}
