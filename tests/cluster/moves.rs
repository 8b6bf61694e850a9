//! Vnodes that move under load: nodes that join, are drained, or end cost no request.

use crate::world::World;

#[test]
fn a_join_and_a_drain_fail_no_request() {
    let mut world = World::found(&["a", "b"], "--replicas 1 --write one");
    let load = world.load("--write one");
    world.start("c");
    world.await_whole(&["a", "b", "c"]);
    let answer = world.ask("a", "PUT", "/cluster/nodes/b/draining").expect("the node answers");
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    world.await_status("b is drained", |status| status.state("b") == Some("drained"));
    world.await_whole(&["a", "c"]);
    let report = world.end("one joins and another is drained, --replicas 1 --write one", load);
    assert_eq!(report.number("errors"), 0, "{}", report.text);
    println!(
        "a vnode answered nothing for {} ms at most, and no write for {} ms",
        report.fraction("client/vnode_gap_ms") as u64,
        report.fraction("client/vnode_write_gap_ms") as u64
    );
}
