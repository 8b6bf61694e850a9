//! Connections that end, and those that only look alive: what was under way is asked for again.

use std::time::Duration;

use quoit_client::{Fault, IncrementOptions, Options, Request, SetOptions};

use crate::world::{FAIR, NODES, PATIENT, Weather, World, for_each_seed};

#[test]
fn all_that_is_under_way_survives_the_loss_of_every_connection() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES, PATIENT);
        for key in 0..50 {
            assert!(world.call(Request::get(format!("key-{key}"))).is_ok());
        }
        for round in 0..4 {
            for key in 0..1_000 {
                world.submit(Request::set(format!("key-{key}"), round.to_string(), SetOptions::default()));
            }
            for _ in 0..5 {
                world.step();
            }
            let now = world.instant();
            for (link, _) in std::mem::take(&mut world.wires) {
                world.session.handle_lost(link, Fault::Closed, now);
            }
        }
        world.run_until_all_ended();
        for (_, outcome) in world.ended.drain(..) {
            outcome.into_one().expect("a repeat avoids the error");
        }
        assert!(world.session.counters().repeats > 0, "something was under way");
    });
}

#[test]
fn an_idle_client_leaves_a_cluster_that_is_away_alone() {
    let mut world = World::new(1, FAIR);
    assert!(world.call(Request::get("key")).is_ok());
    world.weather = Weather { closed_doors: 1000, ..FAIR };
    let now = world.instant();
    for (link, _) in std::mem::take(&mut world.wires) {
        world.session.handle_lost(link, Fault::Closed, now);
    }
    // While the last ones stood, it tried to stay connected to two nodes. That is over now.
    world.obey();
    assert_eq!((world.session.poll_action(), world.session.poll_timeout()), (None, None));
}

/// Asks for something of the owner of `key` all the time, until everything that was asked before has ended; how long it took.
fn ask_until_it_ends(world: &mut World, tag: u64) -> Duration {
    let began = world.now;
    let mut number = 0;
    while world.submitted.contains_key(&tag) {
        number += 1;
        if number % 5 == 0 {
            world.submit(Request::get("key"));
        }
        world.step();
    }
    world.now - began
}

#[test]
fn a_node_that_takes_bytes_and_brings_none_is_given_up_though_requests_go_on() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES, PATIENT);
        assert!(world.call(Request::get("key")).is_ok());
        world.wires.values_mut().for_each(|wire| wire.is_deaf = true);
        let tag = world.submit(Request::set("key", "value", SetOptions::default()));
        let took = ask_until_it_ends(&mut world, tag);
        assert!(took < PATIENT.stall_limit + Duration::from_millis(100), "{took:?}");
        world.run_until_all_ended();
        assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
        assert!(world.session.counters().repeats > 0);
    });
}

#[test]
fn an_answer_that_does_not_come_while_others_do_is_asked_for_again() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES, PATIENT);
        let from_one = IncrementOptions { initial: Some(1), ttl: None };
        assert!(world.call(Request::get("key")).is_ok());
        world.swallows = 1;
        let tag = world.submit(Request::increment("key", 1, from_one));
        while world.swallows > 0 {
            world.step();
        }
        let took = ask_until_it_ends(&mut world, tag);
        assert!(took > PATIENT.stall_limit, "the node is there: {took:?}");
        assert!(took < 4 * PATIENT.stall_limit + Duration::from_millis(100), "{took:?}");
        world.run_until_all_ended();
        assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
        assert_eq!(world.cluster.counter("key"), 1, "it was applied once");
    });
}

#[test]
fn a_slow_transfer_is_no_stall() {
    let hasty = Options { stall_limit: Duration::from_millis(80), ..PATIENT };
    for_each_seed(10, |seed| {
        let mut world = World::with(seed, FAIR, &NODES, hasty.clone());
        let value = vec![b'x'; 60_000];
        assert!(world.call(Request::get("key")).is_ok());
        let began = world.now;
        assert!(world.call(Request::set("key", &value, SetOptions::default())).is_ok());
        assert!(world.now - began > 2 * hasty.stall_limit, "it took {:?}", world.now - began);
        assert_eq!(world.session.counters().losses, 0);
    });
}
