//! Reads that any copy may answer.

use quoit_client::{Outcome, Request, SetOptions};
use quoit_wire::topology::Seat;

use crate::world::{FAIR, NODES, PATIENT, World};

#[test]
fn reads_that_any_copy_may_answer_spread_over_the_copies_and_say_what_may_be_stale() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    let mut replicated = world.cluster.topology.clone();
    for placement in &mut replicated.vnodes {
        let other = |by: u16| Seat { node: (placement.primary.node + by) % 3, core: 1 };
        (placement.replicas[0], placement.replicas[1]) = (other(1), other(2));
    }
    world.cluster.topology = replicated;
    assert!(world.call(Request::set("key", "value", SetOptions::default())).is_ok());
    let mut stale = 0;
    for _ in 0..300 {
        let answer = world.call(Request::get("key").from_any_copy()).expect("somebody answers");
        assert_eq!(answer.value, b"value");
        stale += u32::from(answer.is_stale);
    }
    let by_copies = &world.cluster.answered_by_copies;
    assert!(by_copies.len() == 2 && by_copies.values().all(|count| *count > 60), "{by_copies:?}");
    assert_eq!(stale, by_copies.values().sum::<u32>());
    assert_eq!(world.session.counters().redirects, 0);
    assert!(!world.call(Request::get("key")).expect("the primary answers").is_stale);

    // Copies that are gone, and those that leave the permission unused, cost nothing but time.
    let primary = world.cluster.topology.nodes[usize::from(world.cluster.topology.owner(b"key").node)].id;
    let copy = NODES.into_iter().find(|node| *node != primary).expect("three nodes");
    world.kill(copy);
    world.cluster.copies_answer = false;
    for _ in 0..50 {
        let answer = world.call(Request::get("key").from_any_copy()).expect("the primary answers");
        assert!(!answer.is_stale);
    }
}

#[test]
fn a_multi_get_that_any_copy_may_answer_spreads_over_the_copies_and_says_of_each_key_what_may_be_stale() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    for placement in &mut world.cluster.topology.vnodes {
        placement.replicas[0] = Seat { node: (placement.primary.node + 1) % 3, core: 1 };
    }
    let keys: Vec<String> = (0..40).map(|key| format!("key-{key}")).collect();
    for key in &keys {
        assert!(world.call(Request::set(key, key, SetOptions::default())).is_ok());
    }
    let all = |world: &mut World| {
        let tag = world.submit(Request::multi_get(&keys).from_any_copy());
        world.run_until_all_ended();
        let (ended, Outcome::Many(answers)) = world.ended.pop_front().unwrap() else { panic!("a multi-get has many") };
        assert_eq!(ended, tag);
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("somebody answers")).collect();
        assert!(answers.iter().zip(&keys).all(|(answer, key)| answer.value == key.as_bytes()));
        answers.iter().filter(|answer| answer.is_stale).count()
    };
    let stale: Vec<usize> = (0..30).map(|_| all(&mut world)).collect();
    let by_copies: u32 = world.cluster.answered_by_copies.values().sum();
    assert_eq!(stale.iter().sum::<usize>(), by_copies as usize);
    assert!((300..900).contains(&by_copies), "{by_copies} of 1,200");
    assert_eq!(world.session.counters().redirects, 0);

    // Copies that are gone, and those that leave the permission unused, cost nothing but time.
    world.kill(NODES[2]);
    world.cluster.topology.vnodes.iter_mut().for_each(|placement| {
        if placement.primary.node == 2 {
            std::mem::swap(&mut placement.primary, &mut placement.replicas[0]);
        }
    });
    world.cluster.topology.epoch += 1;
    world.tell_news();
    world.cluster.copies_answer = false;
    assert_eq!(all(&mut world), 0);
}
