//! Clusters that change: the client finds them, follows their topologies, and goes on when nodes leave or die.

use std::time::Duration;

use quoit_client::{Error, IncrementOptions, Request, SetOptions};
use rand::RngExt;

use crate::model::{Changes, in_turn, topology};
use crate::world::{FAIR, NODES, PATIENT, Weather, World, for_each_seed};

#[test]
fn a_cluster_that_is_away_is_named_and_found_again() {
    let mut world = World::new(1, Weather { closed_doors: 1000, ..FAIR });
    while world.session.startup_error().is_none() {
        world.step();
    }
    let error = world.call(Request::get("key")).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }) && !error.maybe_applied(), "{error}");
    world.weather = FAIR;
    let outcome = world.call(Request::set("key", "value", SetOptions::default()));
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(world.session.topology().is_some());
}

#[test]
fn a_change_of_topology_costs_one_request_for_it() {
    for_each_seed(20, |seed| {
        let mut world = World::new(seed, FAIR);
        for key in 0..50 {
            world.call(Request::get(format!("key-{key}"))).unwrap();
        }
        world.weather.moves = 1000;
        world.move_vnodes();
        world.weather.moves = 0;
        let epoch = world.cluster.topology.epoch;
        for key in 0..300 {
            world.submit(Request::set(format!("key-{key}"), "value", SetOptions::default()));
        }
        world.run_until_all_ended();
        assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
        assert_eq!(world.session.topology().map(|topology| topology.epoch), Some(epoch));
        assert_eq!((world.cluster.topologies_told, world.cluster.changes_told), (1, 1), "what has changed will do");
    });
}

#[test]
fn changes_that_can_not_be_told_or_do_not_fit_cost_the_whole_topology_and_nothing_else() {
    const CHANGES: [Changes; 6] = [
        Changes::Unknown,
        Changes::Garbage,
        Changes::OfAnotherEpoch,
        Changes::OfAnotherTopology,
        Changes::OfNoVnode,
        Changes::ToNoTopology,
    ];
    for_each_seed(10, |seed| {
        for changes in CHANGES {
            let mut world = World::new(seed, FAIR);
            world.cluster.changes = changes;
            for round in 1..3 {
                for key in 0..50 {
                    world.call(Request::get(format!("key-{key}"))).unwrap();
                }
                world.weather.moves = 1000;
                world.move_vnodes();
                world.weather.moves = 0;
                let epoch = world.cluster.topology.epoch;
                while world.session.topology().is_none_or(|topology| topology.epoch < epoch) {
                    world.step();
                }
                assert_eq!(world.session.topology().unwrap().as_ref(), &world.cluster.topology, "{changes:?}");
                assert_eq!(world.cluster.topologies_told, 1 + round, "{changes:?}");
            }
            assert_eq!((world.session.counters().topology_changes, world.session.counters().losses), (0, 0));
        }
    });
}

#[test]
fn a_node_that_leaves_hands_its_requests_on() {
    for_each_seed(20, |seed| {
        let mut world = World::new(seed, FAIR);
        for key in 0..50 {
            assert!(world.call(Request::get(format!("key-{key}"))).is_ok());
        }
        for key in 0..300 {
            world.submit(Request::set(format!("key-{key}"), "value", SetOptions::default()));
        }
        world.step();
        world.cluster.topology = topology(2, seed, &NODES[..2], in_turn(2));
        world.tell_news();
        world.run_until_all_ended();
        assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
        while world.wires.values().any(|wire| wire.end.node == NODES[2]) {
            world.step();
        }
    });
}

#[test]
fn a_node_that_dies_costs_no_request_that_has_time_left() {
    for_each_seed(40, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        for key in 0..50 {
            assert!(world.call(Request::get(format!("key-{key}"))).is_ok());
        }
        for key in 0..300 {
            world.submit(Request::increment(format!("key-{key}"), 1, IncrementOptions { initial: Some(1), ttl: None }));
        }
        world.step();
        // The seed among them: nobody may be special.
        let dead = NODES[world.rng.random_range(0..3)];
        world.kill(dead);
        let lost_at = world.now;
        let sooner = Duration::from_millis(world.rng.random_range(500..3_500));
        world.run_until(lost_at + sooner);
        let left: Vec<u64> = NODES.into_iter().filter(|node| *node != dead).collect();
        world.cluster.topology = topology(2, seed, &left, in_turn(2));
        world.tell_news();
        world.run_until_all_ended();
        for (_, outcome) in world.ended.drain(..) {
            outcome.into_one().expect("the deadline is not over");
        }
    });
}

#[test]
fn a_key_that_nobody_owns_for_a_while_costs_no_request_that_has_time_left() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        assert!(world.call(Request::get("key")).is_ok());
        // The nodes know of a node that the client can't reach, and say `Moved` for three seconds.
        let epoch_before = world.cluster.topology.epoch;
        let all = world.cluster.topology.vnodes.clone();
        let vnode = world.cluster.topology.vnode(b"key");
        let owner = usize::from(all[vnode].primary.node);
        world.cluster.topology.vnodes[vnode].primary.node = ((owner + 1) % 3) as u16;
        let tag = world.submit(Request::set("key", "value", SetOptions::default()));
        world.run_until(world.now + Duration::from_secs(3));
        assert!(world.submitted.contains_key(&tag), "it goes on waiting");
        // Nobody tells the news: the client finds out by itself.
        world.cluster.topology.epoch = epoch_before + 1;
        world.run_until_all_ended();
        world.ended.pop_front().unwrap().1.into_one().expect("the deadline is not over");
    });
}

#[test]
fn the_cluster_is_found_again_though_every_server_that_was_named_is_gone() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        assert!(world.call(Request::get("key")).is_ok());
        NODES.into_iter().for_each(|node| world.kill(node));
        world.cluster.topology = topology(2, seed, &NODES[1..], in_turn(2));
        let tag = world.submit(Request::set("key", "value", SetOptions::default()));
        world.run_until(world.now + Duration::from_secs(1));
        assert!(world.submitted.contains_key(&tag));
        // The others are back; the one that was named never is.
        world.dead = vec![NODES[0]];
        world.run_until_all_ended();
        world.ended.pop_front().unwrap().1.into_one().expect("the deadline is not over");
    });
}

#[test]
fn a_client_in_use_stays_connected_to_two_nodes() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        let connected = |world: &World| {
            let nodes: std::collections::BTreeSet<u64> =
                world.wires.values().filter(|wire| wire.end.greeted).map(|wire| wire.end.node).collect();
            nodes.len()
        };
        assert!(world.call(Request::get("key")).is_ok());
        while connected(&world) < 2 {
            world.step();
        }
        let one = world.wires.values().next().unwrap().end.node;
        world.kill(one);
        while connected(&world) < 2 {
            world.step();
        }
    });
}
