//! Memory stays within what the options say, and who fills it does not starve the others.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use quoit_wire::{Keys, MultiResult, RequestBody, Status};

use super::{BUFFER_BYTES, Client, PATIENCE, Stepped, set};
use crate::runtime::clock::Reading;
use crate::runtime::connection::CloseCause;
use crate::runtime::core::Core;
use crate::runtime::limits::MESH_REPLY_BYTES_MAX;
use crate::runtime::report::Counters;

/// Requests of a deep pipeline.
const REQUESTS: usize = 64;

/// What all buffers of a core hold.
fn buffer_bytes(core: &Core) -> usize {
    core.budget.bytes_max() - core.budget.left_bytes()
}

/// Says who waits for what, for a test that waits for ever.
#[allow(clippy::print_stdout, reason = "a test that fails says what it saw")]
fn describe(core: &Core) {
    println!("core {}: {:?}", core.options.core, core.budget);
    println!(
        "{} sends, {} starved, {} buffers with the kernel, {} unanswered elsewhere, {} bytes in the mesh, {} resuming",
        core.active_sends,
        core.starved.len(),
        core.ring.buffers.with_kernel(),
        core.mesh.inflight(),
        core.mesh.bytes(),
        core.resume.len()
    );
    for (slot, connection) in core.connections.iter().filter_map(|(slot, it)| Some((slot, it.as_ref()?))) {
        println!(
            "{slot}: {:?} {:?} carry {} inflight {} unsent {} receiving {} starved {} promised {}",
            connection.stall,
            connection.charged,
            connection.carry.len(),
            connection.inflight,
            connection.unsent_bytes(),
            connection.is_receiving,
            connection.is_starved,
            connection.is_promised
        );
    }
}

#[test]
fn small_hits_are_answered_though_a_frame_that_stops_half_way_has_most_of_the_buffers() {
    let mut node = Stepped::new(2, |_| {});
    let (here, there) = (node.key(0, 0), node.key(1, 1));
    let mut other = node.client(0);
    other.call(&mut node, &set(&here, &[1; 12 << 10]));
    other.call(&mut node, &set(&there, &[1; 12 << 10]));
    let mut greedy = node.client(0);
    let far = node.key(1, 0);
    let (id, frame) = greedy.frame(&set(&far, &vec![0; 6 << 20]));
    greedy.send_bytes(&mut node, &frame[..frame.len() - 100]);
    node.rest();
    let held_bytes = node.cores[0].budget.held_bytes();
    assert!(held_bytes > 6 << 20, "only {held_bytes} bytes are held: this proves nothing");
    for _ in 0..10 {
        assert_eq!(other.call(&mut node, &RequestBody::Get { key: &here }).1, Status::Ok);
        assert_eq!(other.call(&mut node, &RequestBody::Get { key: &there }).1, Status::Ok);
    }
    greedy.send_bytes(&mut node, &frame[frame.len() - 100..]);
    assert_eq!(greedy.receive(&mut node).map(|(id, status, _)| (id, status)), Some((id, Status::Ok)));
    drop((greedy, other));
    node.end();
}

#[test]
fn deep_pipelines_of_large_values_over_a_hop_are_all_answered_within_the_buffers() {
    // However long the machine takes for the turns in which nobody reads.
    let mut node = Stepped::new(2, |options| options.time_limits.reader_stall_short = PATIENCE);
    let value = vec![7; 30 << 10];
    let keys: Vec<_> = (0..4).map(|number| [node.key(0, number), node.key(1, number)]).collect();
    let mut clients: Vec<_> = (0..60).map(|number| node.client(number % 2)).collect();
    for key in keys.iter().flatten() {
        assert_eq!(clients[0].call(&mut node, &set(key, &value)).1, Status::Ok);
    }
    // One request in four is a set: 30 MB to come, and 90 MB to go.
    let mut unsent: Vec<Vec<u8>> = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        client.narrow();
        let frames = (0..REQUESTS).flat_map(|request| {
            let key = &keys[(number + request) % 4][request % 2];
            let body = if request % 4 == 1 { set(key, &value) } else { RequestBody::Get { key } };
            client.frame(&body).1
        });
        unsent.push(frames.collect());
    }
    let mut waiting = vec![REQUESTS; clients.len()];
    let (mut most, mut turns) = (0, 0);
    let start = Reading::now();
    while waiting.iter().any(|count| *count > 0) {
        if Reading::now().is_past(start, PATIENCE) {
            node.cores.iter().for_each(describe);
            panic!("never: all are answered");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let bytes = if unsent[number].is_empty() { 0 } else { client.try_send(&unsent[number]) };
            unsent[number].drain(..bytes);
            // They begin to read when everything that has room is full.
            if turns > 200 && waiting[number] > 0 {
                for (_, status, _) in client.received_now() {
                    assert_eq!(status, Status::Ok);
                    waiting[number] -= 1;
                }
            }
        }
        node.turn();
        turns += 1;
        most = most.max(node.cores.iter().map(buffer_bytes).max().unwrap_or_default());
    }
    let sum = |count: fn(&Counters) -> u64| node.cores.iter().map(|core| count(&core.counters)).sum::<u64>();
    assert!(sum(|counters| counters.stalls_budget) > 0, "there was always room: this proves nothing");
    assert_eq!(sum(|counters| counters.closed.iter().sum()), 0, "a good client was closed");
    // An output that grows by doubling is seen when it has.
    assert!(most <= BUFFER_BYTES + (1 << 20), "{most} bytes of buffers");
    drop(clients);
    node.end();
}

#[test]
fn frames_that_find_no_room_wait_and_come_in_the_order_they_asked() {
    let mut node = Stepped::new(2, |_| {});
    let value = vec![3; 2 << 20];
    let mut clients: Vec<_> = (0..6).map(|_| node.client(0)).collect();
    let mut frames = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let (_, frame) = client.frame(&set(&node.key(1, number), &value));
        // The fronts arrive one after the other; three frames of 2 MiB have room.
        assert_eq!(client.try_send(&frame[..1000]), 1000);
        node.rest();
        frames.push(frame);
    }
    let core = &node.cores[0];
    assert_eq!(core.counters.stalls_budget, 3);
    assert!(buffer_bytes(core) <= BUFFER_BYTES, "{} bytes", buffer_bytes(core));
    for (client, frame) in clients.iter_mut().zip(&frames) {
        client.send_bytes(&mut node, &frame[1000..]);
        assert_eq!(client.receive(&mut node).map(|answer| answer.1), Some(Status::Ok));
    }
    drop(clients);
    node.end();
}

#[test]
fn the_room_of_a_frame_that_is_done_with_is_no_longer_its_connections() {
    let mut node = Stepped::new(2, |_| {});
    let [mut first, mut second] = [node.client(0), node.client(0)];
    let frame_of = |node: &Stepped, client: &mut Client, number, bytes| {
        client.frame(&set(&node.key(1, number), &vec![3; bytes])).1
    };
    let frames = [
        frame_of(&node, &mut first, 0, 5 << 20),
        frame_of(&node, &mut second, 1, 5 << 19),
        frame_of(&node, &mut first, 2, 2 << 20),
    ];
    // The first is promised its room; the second waits for as much.
    first.send_bytes(&mut node, &frames[0][..1000]);
    node.rest();
    second.send_bytes(&mut node, &frames[1][..1000]);
    node.rest();
    assert_eq!(node.cores[0].counters.stalls_budget, 1);
    // With the end of its frame comes the beginning of another, for which it stands behind the second.
    let end = [&frames[0][1000..], &frames[2][..1000]].concat();
    first.send_bytes(&mut node, &end);
    assert_eq!(first.receive(&mut node).map(|answer| answer.1), Some(Status::Ok));
    second.send_bytes(&mut node, &frames[1][1000..]);
    assert_eq!(second.receive(&mut node).map(|answer| answer.1), Some(Status::Ok));
    first.send_bytes(&mut node, &frames[2][1000..]);
    assert_eq!(first.receive(&mut node).map(|answer| answer.1), Some(Status::Ok));
    drop((first, second));
    node.end();
}

/// Gets and sets of values up to the largest, two under way for each of six clients, all over hops or not as the keys fall.
fn large_values_over_hops(seed: u64) {
    const CLIENTS: usize = 6;
    const REQUESTS_EACH: usize = 24;
    let mut random = StdRng::seed_from_u64(seed);
    let mut node = Stepped::new(2, |_| {});
    let keys: Vec<_> = (0..4).flat_map(|number| [node.key(0, number), node.key(1, number)]).collect();
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| node.client(number % 2)).collect();
    let mut unsent: Vec<Vec<u8>> = vec![Vec::new(); CLIENTS];
    let (mut asked, mut answered) = ([0; CLIENTS], [0; CLIENTS]);
    let mut idle_turns = 0;
    while answered.iter().any(|count| *count < REQUESTS_EACH) {
        idle_turns += 1;
        for (number, client) in clients.iter_mut().enumerate() {
            if unsent[number].is_empty() && asked[number] < (answered[number] + 2).min(REQUESTS_EACH) {
                let key = &keys[random.random_range(0..keys.len())];
                let value = vec![7; random.random_range(3 << 19..6 << 20)];
                let body = if random.random_bool(0.4) { set(key, &value) } else { RequestBody::Get { key } };
                unsent[number] = client.frame(&body).1;
                asked[number] += 1;
            }
            let most = unsent[number].len().min(random.random_range(1..2_000_000));
            let bytes = if most == 0 { 0 } else { client.try_send(&unsent[number][..most]) };
            unsent[number].drain(..bytes);
            let before = client.received.len();
            let mut answers = 0;
            for _ in 0..random.random_range(0..30) {
                answers += client.received_now().len();
            }
            answered[number] += answers;
            if bytes > 0 || answers > 0 || client.received.len() != before {
                idle_turns = 0;
            }
        }
        node.turn();
        if idle_turns > 3000 {
            node.cores.iter().for_each(describe);
            panic!("seed {seed}: nothing goes on; asked {asked:?}, answered {answered:?}");
        }
    }
    drop(clients);
    node.end();
}

#[test]
fn the_largest_values_go_over_hops_within_the_buffers_and_nothing_waits_for_ever() {
    // Seed 115 once stood for ever.
    [0, 1, 2, 3, 115].into_iter().for_each(large_values_over_hops);
}

#[test]
fn who_stops_in_a_frame_gives_its_room_up_in_time_and_who_waited_goes_on() {
    let mut node = Stepped::new(2, |options| options.time_limits.frame_stall_max = Duration::from_millis(50));
    let value = vec![3; 2 << 20];
    let mut stopped: Vec<_> = (0..3).map(|_| node.client(0)).collect();
    for (number, client) in stopped.iter_mut().enumerate() {
        let (_, frame) = client.frame(&set(&node.key(1, number), &value));
        client.send_bytes(&mut node, &frame[..1000]);
    }
    node.rest();
    let mut waiter = node.client(0);
    let key = node.key(1, 9);
    let (_, frame) = waiter.frame(&set(&key, &value));
    let mut sent = waiter.try_send(&frame);
    node.until("it is answered", |node| {
        sent += waiter.try_send(&frame[sent..]);
        (!waiter.received_now().is_empty()).then_some(()).or_else(|| {
            assert!(buffer_bytes(&node.cores[0]) <= BUFFER_BYTES);
            None
        })
    });
    assert_eq!(node.cores[0].counters.closed[CloseCause::SlowWriter as usize], 3);
    drop((stopped, waiter));
    node.end();
}

#[test]
fn a_flood_of_multi_gets_over_cores_stays_within_the_limits() {
    let mut node = Stepped::new(2, |_| {});
    let mut client = node.client(0);
    let mut body = Vec::new();
    for number in 0..10 {
        let key = node.key(1, number);
        assert_eq!(client.call(&mut node, &set(&key, &vec![7; 100 << 10])).1, Status::Ok);
        Keys::push(&key, &mut body);
    }
    let keys = Keys::parse(10, &body).unwrap();
    let sent: Vec<u8> = (0..600).flat_map(|_| client.frame(&RequestBody::MultiGet(keys)).1).collect();
    client.send_bytes(&mut node, &sent);
    let (mut mesh_most, mut buffers_most) = (0, 0);
    let mut refused = 0;
    for _ in 0..600 {
        let (_, status, value) = client.receive(&mut node).expect("a reply");
        mesh_most = mesh_most.max(node.cores[1].mesh.reply_bytes_waiting());
        buffers_most = buffers_most.max(node.cores[0].budget.held_bytes());
        let mut rest = &value[..];
        assert_eq!(status, Status::Ok);
        for _ in 0..10 {
            let (result, after) = MultiResult::take(rest).expect("ten results");
            rest = after;
            refused += usize::from(result.status == Status::Overloaded);
            assert!(matches!(result.status, Status::Ok | Status::Overloaded), "{:?}", result.status);
        }
    }
    assert!(mesh_most <= MESH_REPLY_BYTES_MAX + (1 << 20), "{mesh_most} bytes of replies in the mesh");
    assert!(buffers_most <= (8 << 20) + (2 << 20), "{buffers_most} bytes of buffers");
    assert!((1..6000).contains(&refused), "{refused} of 6000 keys were refused");
    drop(client);
    node.end();
}
