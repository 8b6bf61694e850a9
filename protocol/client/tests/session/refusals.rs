//! Vnodes that refuse for a while: requests wait, few ask, and what nobody knows is told.

use std::time::Duration;

use quoit_client::{Answer, Error, IncrementOptions, Request, SetOptions, Status};
use quoit_wire::topology::Seat;

use crate::model::{Seal, topology};
use crate::world::{FAIR, NODES, PATIENT, World, for_each_seed};

/// A vnode between two primaries.
const SEALED: Seal = Seal { status: Status::Overloaded, spares_reads: false, applies: false };
/// A vnode whose node is in its next life, and knows no newer topology than the client.
const REBORN: Seal = Seal { status: Status::Moved, ..SEALED };
/// A vnode whose copy is lost, in the write mode `one`.
const ALONE: Seal = Seal { status: Status::NotEnoughCopies, spares_reads: true, applies: false };
/// A vnode whose primary has just lost its role: it has applied what it can't acknowledge.
const DEPOSED: Seal = Seal { status: Status::OutcomeUnknown, spares_reads: true, applies: true };

#[test]
fn vnodes_that_refuse_for_seconds_cost_no_request_that_has_time_left_and_are_asked_by_few() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        assert!(world.call(Request::get("key")).is_ok());
        let seal = if seed % 2 == 0 { SEALED } else { REBORN };
        for vnode in 0..8 {
            world.cluster.sealed.insert(vnode, seal);
        }
        for key in 0..3_000 {
            let from_one = IncrementOptions { initial: Some(1), ttl: None };
            world.submit(Request::increment(format!("key-{key}"), 1, from_one));
        }
        let three_seconds = world.now + Duration::from_secs(3);
        world.run_until(three_seconds);
        let waiting = world.submitted.len();
        assert!((400..1_200).contains(&waiting), "{waiting} wait: a quarter is refused, the others went through");
        // What was under way when the first refusal came; then each vnode is asked after 50 to 130 ms, by one request.
        let refusals = world.cluster.refusals;
        assert!(refusals < 800 + 8 * 60, "{refusals} refusals in 3 s for {waiting} requests of 8 vnodes");
        world.cluster.sealed.clear();
        world.run_until_all_ended();
        for (_, outcome) in world.ended.drain(..) {
            outcome.into_one().expect("the deadline is not over");
        }
    });
}

#[test]
fn what_a_vnode_refuses_to_its_writes_does_not_hold_up_its_reads() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    assert!(world.call(Request::set("key", "before", SetOptions::default())).is_ok());
    let vnode = world.cluster.topology.vnode(b"key");
    world.cluster.sealed.insert(vnode, ALONE);
    let set = world.submit(Request::set("key", "after", SetOptions::default()));
    for _ in 0..200 {
        assert_eq!(world.call(Request::get("key")).expect("reads are answered").value, b"before");
    }
    assert!(world.submitted.contains_key(&set), "the write waits");
    world.cluster.sealed.clear();
    world.run_until_all_ended();
    assert_eq!(world.call(Request::get("key")).expect("reads are answered").value, b"after");
    assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
}

#[test]
fn a_topology_ends_the_wait_of_who_was_refused() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    assert!(world.call(Request::get("key")).is_ok());
    let vnode = world.cluster.topology.vnode(b"key");
    world.cluster.sealed.insert(vnode, SEALED);
    for _ in 0..100 {
        world.submit(Request::set("key", "value", SetOptions::default()));
    }
    world.run_until(world.now + Duration::from_secs(1));
    assert_eq!(world.submitted.len(), 100);
    let old = world.cluster.topology.clone();
    let elsewhere = (old.vnodes[vnode].primary.node + 1) % 3;
    world.cluster.sealed.clear();
    world.cluster.topology = topology(2, old.seed, &NODES, |other| {
        let primary = old.vnodes[other].primary;
        if other == vnode { Seat { node: elsewhere, ..primary } } else { primary }
    });
    let refused_before = world.session.counters().redirects;
    world.tell_news();
    world.run_until_all_ended();
    assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
    assert!(world.session.counters().redirects <= refused_before + 100, "each learns it at most once");
}

#[test]
fn a_write_whose_outcome_a_deposed_primary_does_not_know_is_settled_by_the_next() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        let from_one = IncrementOptions { initial: Some(1), ttl: None };
        assert!(world.call(Request::get("counter")).is_ok());
        let vnode = world.cluster.topology.vnode(b"counter");
        world.cluster.sealed.insert(vnode, DEPOSED);
        let tag = world.submit(Request::increment("counter", 1, from_one));
        while world.cluster.refusals == 0 {
            world.step();
        }
        world.cluster.sealed.clear();
        world.run_until_all_ended();
        let (ended, outcome) = world.ended.pop_back().expect("it ended");
        assert_eq!(ended, tag);
        let counter = outcome.into_one().and_then(Answer::into_counter).expect("it is settled");
        assert_eq!((counter.map(|counter| counter.value), world.cluster.counter("counter")), (Some(1), 1));
    });
}

#[test]
fn a_write_whose_outcome_nobody_knows_is_told_so() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    assert!(world.call(Request::get("counter")).is_ok());
    let vnode = world.cluster.topology.vnode(b"counter");
    world.cluster.sealed.insert(vnode, Seal { applies: false, ..DEPOSED });
    let error = world.call(Request::append("counter", "x")).expect_err("nobody knows");
    assert!(matches!(error, Error::OutcomeUnknown) && error.maybe_applied(), "{error}");
    assert_eq!(world.cluster.refusals, 2, "it was asked again once");
}
