//! What arrives is executed once, in order, and answered, whatever stalls in between.

use quoit_wire::{RequestBody, Status};

use super::{Stepped, hello, set};
use crate::runtime::limits::CONNECTION_OUTPUT_BYTES_HIGH;

/// A frame of `frame_bytes` bytes whose operation nobody knows, cut off behind its header.
fn unknown_operation(id: u32, frame_bytes: u32) -> Vec<u8> {
    let mut frame = (frame_bytes - 4).to_le_bytes().to_vec();
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&[200, 0, 0, 0]);
    frame
}

#[test]
fn a_refused_frame_whose_rest_is_to_come_waits_behind_what_had_to_wait() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    let value = vec![7; 15 << 10];
    client.call(&mut node, &set(b"key", &value));
    let mut sent = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..120 {
        let (id, frame) = client.frame(&RequestBody::Get { key: b"key" });
        ids.push(id);
        sent.extend_from_slice(&frame);
    }
    // The replies to the gets are over what a connection may have unsent, so some gets wait: behind them comes this.
    sent.extend_from_slice(&unknown_operation(9999, 5000));
    client.send_bytes(&mut node, &sent);
    node.rest();
    assert!(node.cores[0].counters.stalls_output > 0, "nothing had to wait: this proves nothing");
    client.send_bytes(&mut node, &[0xff; 5000 - 16]);
    let answers = client.receive_all(&mut node, ids.len() + 1);
    assert!(ids.iter().all(|id| answers[id] == (Status::Ok, value.clone())));
    assert_eq!(answers[&9999].0, Status::UnknownOperation);
    assert_eq!(client.call(&mut node, &RequestBody::Ping { payload: b"still there" }).2, b"still there");
    drop(client);
    node.end();
}

#[test]
fn what_came_before_a_broken_frame_is_answered_even_when_it_had_to_wait() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    client.call(&mut node, &set(b"key", &[7; 15 << 10]));
    let mut sent = Vec::new();
    for _ in 0..120 {
        sent.extend_from_slice(&client.frame(&RequestBody::Get { key: b"key" }).1);
    }
    sent.extend_from_slice(&[0; 64]);
    client.send_bytes(&mut node, &sent);
    node.rest();
    // It goes on talking; the replies reach it all the same, and then the end.
    client.try_send(&[0; 4096]);
    client.receive_all(&mut node, 120);
    assert_eq!(client.receive(&mut node), None);
    drop(client);
    node.end();
}

#[test]
fn refusals_count_as_output_and_stall_who_does_not_read_them() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    let mut sent = 0u32;
    let mut idle_turns = 0;
    while idle_turns < 100 {
        let batch: Vec<u8> = (1..=1000).flat_map(|offset| unknown_operation(1000 + sent + offset, 16)).collect();
        match client.try_send(&batch) {
            0 => {
                idle_turns += 1;
                node.turn();
            }
            // A part of a batch went out: the rest must follow before the next one.
            bytes => {
                idle_turns = 0;
                let mut rest = &batch[bytes..];
                while !rest.is_empty() && idle_turns < 100 {
                    let bytes = client.try_send(rest);
                    idle_turns = if bytes == 0 { idle_turns + 1 } else { 0 };
                    rest = &rest[bytes..];
                    node.turn();
                }
                if rest.is_empty() {
                    sent += 1000;
                }
            }
        }
        let unsent = node.cores[0].connections.iter().flat_map(|(_, connection)| connection.as_ref());
        let unsent: usize = unsent.map(|connection| connection.unsent_bytes()).sum();
        assert!(
            unsent <= CONNECTION_OUTPUT_BYTES_HIGH + (64 << 10),
            "{unsent} bytes wait for a reader that never reads"
        );
    }
    assert!(node.cores[0].counters.stalls_output > 0);
    client.receive_all(&mut node, sent as usize);
    drop(client);
    node.end();
}

#[test]
fn a_forwarded_set_may_take_most_of_the_buffers() {
    let mut node = Stepped::new(2, |_| {});
    let key = node.key(1, 0);
    let mut client = node.client(0);
    let value: Vec<u8> = (0..6usize << 20).map(|at| (at % 251) as u8).collect();
    assert_eq!(client.call(&mut node, &set(&key, &value)).1, Status::Ok);
    let got = client.call(&mut node, &RequestBody::Get { key: &key });
    assert!(got.1 == Status::Ok && got.2 == value);
    drop(client);
    node.end();
}

#[test]
fn a_hello_that_found_no_buffer_is_received_when_there_is_one() {
    let mut node = Stepped::new(1, |_| {});
    let mut busy: Vec<_> = (0..100).map(|_| node.client(0)).collect();
    let mut strangers: Vec<_> = (0..8).map(|_| node.stranger(0)).collect();
    node.rest();
    // More than all buffers hold arrives at once, and the hellos last.
    let ping = busy[0].frame(&RequestBody::Ping { payload: &[7; 1000] }).1;
    for client in &mut busy {
        while client.try_send(&ping) == ping.len() {}
    }
    for stranger in &mut strangers {
        let (_, frame) = stranger.frame(&hello(0));
        stranger.try_send(&frame);
    }
    for stranger in &mut strangers {
        assert_eq!(stranger.receive(&mut node).map(|answer| answer.1), Some(Status::Ok));
    }
    assert!(node.cores[0].counters.receive_restarts > 0, "the buffers never ran out: this proves nothing");
    drop((busy, strangers));
    node.end();
}

#[test]
fn one_turn_executes_a_bounded_number_of_requests() {
    let mut node = Stepped::new(1, |_| {});
    let mut clients: Vec<_> = (0..8).map(|_| node.client(0)).collect();
    let mut pending = 0;
    for client in &mut clients {
        let batch: Vec<u8> = (0..10_000).flat_map(|_| client.frame(&RequestBody::Get { key: b"k" }).1).collect();
        pending += client.try_send(&batch) / 17;
    }
    let (mut most, mut answered) = (0, 0);
    let before = node.cores[0].counters.answered;
    node.until("all are answered", |node| {
        let now = node.cores[0].counters.answered - before;
        most = most.max(now - answered);
        answered = now;
        (now as usize >= pending).then_some(())
    });
    assert!(most <= 5000, "{most} of {pending} requests held one turn");
    drop(clients);
    node.end();
}

#[test]
fn the_most_of_a_large_value_is_received_where_it_will_lie() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    let value: Vec<u8> = (0..3_000_001).map(|at| (at % 251) as u8).collect();
    let (first, mut sent) = client.frame(&set(b"large", &value));
    // What follows in the stream is not the value's.
    let (second, frame) = client.frame(&RequestBody::Get { key: b"large" });
    sent.extend_from_slice(&frame);
    let (mut direct_turns, mut turns) = (0, 0);
    for piece in sent.chunks(50_000) {
        client.send_bytes(&mut node, piece);
        node.turn();
        let mut connections = node.cores[0].connections.iter();
        direct_turns += usize::from(connections.any(|(_, c)| c.as_ref().is_some_and(|c| c.direct.is_some())));
        turns += 1;
    }
    let answers = client.receive_all(&mut node, 2);
    assert_eq!(answers[&first].0, Status::Ok);
    assert!(answers[&second] == (Status::Ok, value), "what was written is read");
    assert!(direct_turns * 10 > turns * 8, "direct in {direct_turns} of {turns} turns");
    drop(client);
    node.end();
}

#[test]
fn who_dies_within_a_large_value_leaves_nothing_of_it() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    let used_bytes = |node: &Stepped| {
        let mut samples = Vec::new();
        node.cores[0].shard.samples(&mut samples);
        samples.iter().find(|sample| sample.name == "large_value_bytes").map(|sample| sample.value)
    };
    let before = used_bytes(&node);
    assert!(before.is_some(), "the sample is there");
    let (_, sent) = client.frame(&set(b"large", &[9; 2 << 20]));
    client.send_bytes(&mut node, &sent[..1 << 20]);
    node.rest();
    assert!(node.cores[0].connections.iter().any(|(_, c)| c.as_ref().is_some_and(|c| c.direct.is_some())));
    assert_ne!(used_bytes(&node), before);
    drop(client);
    node.until("its connection is gone", |node| node.cores[0].connections.is_empty().then_some(()));
    assert_eq!(used_bytes(&node), before);
    node.end();
}
