//! An etcd that is gone for a while: nobody's role changes.

use crate::world::World;

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
