//! Agents and their leader in a small world: clusters form, grow, shrink and fail, and keep what they promise.

#![expect(clippy::print_stdout, reason = "seeds and figures must be seen")]

mod alone;
#[path = "../../../tests/sim/etcd.rs"]
mod etcd;
mod world;

use self::world::{Faults, World};
use crate::time::Duration;

fn seconds(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A settled cluster of `nodes`.
fn cluster(seed: u64, nodes: u64, vnode_bits: u8, replicas: u8) -> World {
    let mut world = World::new(seed, vnode_bits, replicas);
    (1..=nodes).for_each(|id| world.start(id));
    world.run_until("a settled cluster", World::is_settled);
    world
}

#[test]
fn nodes_found_a_cluster_that_nothing_has_to_move_in() {
    let world = cluster(1, 5, 6, 1);
    assert_eq!(world.rings.len(), 1, "one write founds it");
    assert_eq!(world.ring().map(|ring| ring.slots.len()), Some(5));
}

#[test]
fn a_node_that_joins_takes_its_share_and_no_write_is_lost() {
    let mut world = cluster(2, 4, 6, 1);
    world.start(5);
    world.run_until("the newcomer has its share", |world| {
        let ring = world.ring().expect("a ring");
        let slot = ring.slots.iter().position(|slot| slot.as_ref().is_some_and(|member| member.node.id == 5));
        let led = ring.vnodes.iter().filter(|roles| Some(usize::from(roles.primary.node)) == slot).count();
        led >= 12 && world.is_settled()
    });
    world.check_nothing_lost();
    assert_eq!(world.lost_vnodes, 0);
}

#[test]
fn a_lost_node_is_replaced_by_copies_that_have_everything() {
    let mut world = cluster(3, 4, 6, 1);
    world.run(seconds(1));
    world.kill(2);
    let time = world.run_until("its vnodes are led by others", |world| {
        world.ring().is_some_and(|ring| {
            let slot = ring.slots.iter().position(|slot| slot.as_ref().is_some_and(|member| member.node.id == 2));
            ring.vnodes.iter().all(|roles| Some(usize::from(roles.primary.node)) != slot)
        })
    });
    assert!(time <= seconds(3), "{time:?} from the loss");
    world.check_nothing_lost();
    world.run_until("copies are restored", World::is_settled);
    world.check_nothing_lost();
    assert_eq!(world.lost_vnodes, 0);
}

#[test]
fn the_leader_dies_between_seal_and_write_and_the_next_one_finishes() {
    for steps in 0..12 {
        let mut world = cluster(4 + steps, 5, 5, 1);
        let leader = world.leader().expect("a leader");
        let other = (1..=5).find(|id| *id != leader).expect("another");
        world.may_lose = true;
        world.kill(other);
        world.run(seconds(2));
        for _ in 0..steps {
            world.step();
        }
        world.kill(leader);
        world.run_until("the next leader has finished", World::is_settled);
    }
}

#[test]
fn a_vnode_without_any_member_waits_ten_seconds_and_starts_empty() {
    let mut world = cluster(20, 3, 4, 0);
    world.may_lose = true;
    world.kill(3);
    world.run(seconds(10));
    assert_eq!(world.lost_vnodes, 0, "it waits");
    world.run(seconds(4));
    assert!(world.lost_vnodes > 0);
    world.run_until("the rest carries on", World::is_settled);
}

#[test]
fn a_node_that_only_lost_its_lease_comes_back_with_its_data() {
    let mut world = cluster(21, 3, 4, 0);
    let now = world.now;
    world.nodes.get_mut(&2).expect("it runs").cut_until = now + seconds(6);
    world.run(seconds(12));
    world.run_until("it leads again", World::is_settled);
    assert_eq!(world.lost_vnodes, 0);
}

#[test]
fn without_etcd_no_role_changes() {
    let mut world = cluster(22, 4, 5, 1);
    let epoch = world.ring().map(|ring| ring.epoch);
    let until = world.now + seconds(8);
    world.nodes.values_mut().for_each(|node| node.cut_until = until);
    world.kill(3);
    world.run(seconds(8));
    assert_eq!(world.ring().map(|ring| ring.epoch), epoch);
    world.run_until("all is well again", World::is_settled);
    world.check_nothing_lost();
}

#[test]
fn a_restarted_node_comes_back_as_a_copy_that_catches_up() {
    let mut world = cluster(23, 3, 5, 1);
    world.kill(2);
    world.start(2);
    world.run(seconds(3));
    world.run_until("it holds its share", World::is_settled);
    world.check_nothing_lost();
    assert_eq!(world.lost_vnodes, 0);
    assert_eq!(world.nodes[&2].agent.trouble(), None);
}

#[test]
fn random_faults_one_at_a_time_lose_nothing() {
    let first = std::env::var("QUOIT_SEED").ok().and_then(|text| text.parse().ok());
    let seeds = first.map_or(100..140, |seed: u64| seed..seed + 1);
    for seed in seeds {
        println!("QUOIT_SEED={seed}");
        let mut world = cluster(seed, 3 + seed % 3, 4, 1 + (seed % 2) as u8);
        world.faults = Faults { lost: 50, doubled: 50, unanswered: 40, late_max: 8 };
        for _ in 0..4 {
            let ids: Vec<u64> = world.nodes.keys().copied().collect();
            let victim = ids[world.draw(ids.len() as u64) as usize];
            let fault = world.draw(6);
            let time = seconds(1 + world.draw(5));
            let until = world.now + time;
            let node = world.nodes.get_mut(&victim).expect("it runs");
            match fault {
                0 => world.kill(victim),
                1 => node.frozen_until = until,
                2 => node.cut_until = until,
                3 => world.start(ids.iter().max().map_or(1, |id| id + 1)),
                _ => {
                    world.kill(victim);
                    world.start(victim);
                }
            }
            for _ in 0..200 {
                world.step();
                world.check_nothing_lost();
            }
            // One at a time: what is over is over before the next one.
            world.run(time);
            world.run(seconds(1));
            let least = usize::from(world.replicas) + 1;
            (0..).find(|id| {
                world.nodes.len() >= least || {
                    world.start(100 + id);
                    false
                }
            });
            world.run_until("it has settled", World::is_settled);
            world.check_nothing_lost();
        }
        assert_eq!(world.lost_vnodes, 0, "seed {seed}");
        assert!(world.nodes.values().filter(|node| node.agent.leads(world.now)).count() <= 1);
    }
}

/// The goals of the plan: at most 20 transactions a second, at most 1 MB for a join.
#[test]
fn two_hundred_nodes_take_few_transactions_and_bytes() {
    let mut world = World::new(7, 12, 1);
    world.writes = false;
    (1..=200).for_each(|id| world.start(id));
    world.run_until("200 nodes", World::is_settled);
    let measured = |world: &mut World, what: &str| {
        let (transactions, bytes, begin) = (world.etcd.transactions, world.etcd.bytes_put, world.now);
        match what {
            "join" => world.start(201),
            _ => world.kill(77),
        }
        world.run(seconds(3));
        world.run_until("it has settled", World::is_settled);
        let (transactions, bytes) = (world.etcd.transactions - transactions, world.etcd.bytes_put - bytes);
        let time_ms = world.now.since(begin).as_millis();
        println!("{what} with 200 nodes: {transactions} transactions, {bytes} bytes put, settled after {time_ms} ms");
        assert!(transactions * 1000 <= 20 * time_ms.max(1000), "{transactions} transactions in {time_ms} ms");
        assert!(bytes <= 1_000_000, "{bytes} bytes");
    };
    measured(&mut world, "join");
    measured(&mut world, "failover");
    world.check_nothing_lost();
}

/// What a join costs beyond streaming: rounds of orders, reports and writes of the ring.
#[test]
fn a_third_node_has_its_share_of_a_small_cluster_within_seconds() {
    let mut world = World::new(31, 12, 1);
    world.writes = false;
    (1..=2).for_each(|id| world.start(id));
    world.run_until("two nodes", World::is_settled);
    let begin = world.now;
    world.start(3);
    world.run_until("the third node has a third of everything", |world| {
        let ring = world.ring().expect("a ring");
        let slot = ring.slots.iter().position(|slot| slot.as_ref().is_some_and(|member| member.node.id == 3));
        let led = ring.vnodes.iter().filter(|roles| Some(usize::from(roles.primary.node)) == slot).count();
        led >= 1365 && world.is_settled()
    });
    let time = world.now.since(begin);
    println!("the third node took {} ms to join", time.as_millis());
    assert!(time <= seconds(25), "{time:?}");
    world.check_nothing_lost();
}
