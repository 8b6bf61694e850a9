//! Nodes that live and are not heard: frozen past their lease and woken, or cut off from everybody and connected again. They
//! must not answer what is no longer theirs to answer.

use crate::several::Several;
use crate::world::World;

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
