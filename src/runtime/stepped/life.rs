//! How connections begin and end: hellos, limits, half-closes, shutdown. Replies that were made arrive.

use quoit_wire::{HelloParameters, RequestBody, Status};

use super::{Stepped, hello, set};
use crate::runtime::connection::CloseCause;
use crate::runtime::limits::TimeLimits;

#[test]
fn a_core_keeps_no_more_connections_than_it_may_however_they_come() {
    let mut node = Stepped::new(2, |options| options.connections_max = 3);
    let mut kept: Vec<_> = (0..3).map(|_| node.client(1)).collect();
    for asked in [0, 1] {
        let mut stranger = node.stranger(asked);
        let (_, frame) = stranger.frame(&hello(1));
        stranger.try_send(&frame);
        stranger.ended(&mut node);
        assert_eq!(node.cores[1].connections.len(), 3, "a fourth connection, by way of core {asked}");
    }
    kept.pop();
    node.rest();
    let mut stranger = node.stranger(0);
    assert_eq!(stranger.call(&mut node, &hello(1)).1, Status::Ok, "there is room again");
    drop((kept, stranger));
    node.end();
}

#[test]
fn a_connection_that_ended_is_freed_at_once() {
    let mut node = Stepped::new(1, |_| {});
    let clients: Vec<_> = (0..20).map(|_| node.client(0)).collect();
    drop(clients);
    node.cores[0].last_sweep = super::Reading::now();
    node.until("the ends arrive", |node| (node.cores[0].counters.closed.iter().sum::<u64>() == 20).then_some(()));
    node.turn();
    node.turn();
    assert_eq!(node.cores[0].connections.len(), 0, "they wait for the sweep");
    node.end();
}

#[test]
fn a_half_closed_connection_is_answered_and_ended_even_behind_a_stall() {
    let mut node = Stepped::new(1, |_| {});
    let mut client = node.client(0);
    client.call(&mut node, &set(b"key", &[7; 15 << 10]));
    let mut sent = Vec::new();
    for _ in 0..120 {
        sent.extend_from_slice(&client.frame(&RequestBody::Get { key: b"key" }).1);
    }
    let (_, last) = client.frame(&RequestBody::Ping { payload: &[1; 500] });
    sent.extend_from_slice(&last[..100]);
    client.send_bytes(&mut node, &sent);
    client.half_close();
    node.rest();
    client.receive_all(&mut node, 120);
    assert_eq!(client.receive(&mut node), None);
    drop(client);
    node.end();
}

#[test]
fn a_shutdown_answers_what_had_arrived_and_ends_in_good_order() {
    let mut node = Stepped::new(2, |_| {});
    let (here, there) = (node.key(0, 0), node.key(1, 0));
    let mut clients: Vec<_> = (0..4).map(|_| node.client(0)).collect();
    clients[0].call(&mut node, &set(&here, &[1; 4000]));
    clients[0].call(&mut node, &set(&there, &[2; 4000]));
    for client in &mut clients {
        let batch: Vec<u8> = (0..200)
            .flat_map(|number| client.frame(&RequestBody::Get { key: if number % 2 == 0 { &here } else { &there } }).1)
            .collect();
        assert_eq!(client.try_send(&batch), batch.len());
    }
    node.cores.iter_mut().for_each(super::Core::begin_drain);
    node.rest();
    // They are still talking when the node ends.
    for client in &mut clients {
        let late: Vec<u8> = (0..100).flat_map(|_| client.frame(&RequestBody::Get { key: b"late" }).1).collect();
        client.try_send(&late);
    }
    for client in &mut clients {
        let mut replies = 0;
        while let Some((_, status, _)) = client.receive(&mut node) {
            replies += usize::from(status == Status::Ok);
        }
        assert_eq!(replies, 200);
    }
    drop(clients);
    node.end();
}

#[test]
fn what_is_no_good_hello_gets_what_the_specification_says() {
    let mut node = Stepped::new(1, |_| {});
    let parameters = match hello(0) {
        RequestBody::Hello { parameters, .. } => parameters,
        _ => unreachable!(),
    };
    let of = |parameters| RequestBody::Hello { parameters, credentials: &[] };
    let newer = of(HelloParameters { version_min: 2, version_max: 9, ..parameters });
    let tls = of(HelloParameters { security: 0x10, ..parameters });
    let password = RequestBody::Hello { parameters: HelloParameters { security: 1, ..parameters }, credentials: b"me" };
    let get = RequestBody::Get { key: b"key" };
    let cases = [
        ("a newer protocol", newer, Some(Status::Unsupported)),
        ("TLS", tls, Some(Status::Unsupported)),
        ("a password", password, Some(Status::Unsupported)),
        ("a get", get, Some(Status::Malformed)),
        ("another magic", of(HelloParameters { magic: 1, ..parameters }), None),
        ("no version at all", of(HelloParameters { version_min: 2, version_max: 1, ..parameters }), None),
    ];
    for (what, body, status) in cases {
        let mut stranger = node.stranger(0);
        let (id, frame) = stranger.frame(&body);
        stranger.send_bytes(&mut node, &frame);
        if status.is_some() {
            assert_eq!(
                stranger.receive(&mut node).map(|(id, status, _)| (id, status)),
                status.map(|s| (id, s)),
                "{what}"
            );
        }
        assert_eq!(stranger.receive(&mut node), None, "{what}");
    }
    let mut client = node.client(0);
    assert_eq!(client.call(&mut node, &hello(0)).1, Status::Malformed, "a second hello");
    assert_eq!(client.receive(&mut node), None, "a second hello");
    drop(client);
    node.end();
}

#[test]
fn who_stops_at_the_wrong_place_is_closed_after_its_time() {
    let mut node = Stepped::new(2, |options| {
        let soon = std::time::Duration::from_millis(50);
        options.time_limits =
            TimeLimits { hello_max: soon, reader_stall_max: soon, reader_stall_short: soon, frame_stall_max: soon };
    });
    let (here, there) = (node.key(0, 0), node.key(1, 0));
    let mut patient = node.client(0);
    patient.call(&mut node, &set(&here, &[7; 100 << 10]));

    let silent = node.stranger(0);
    // Within the arena, and within a carry.
    let mut writers = [node.client(0), node.client(0)];
    for (writer, key) in writers.iter_mut().zip([&here, &there]) {
        let (_, frame) = writer.frame(&set(key, &[1; 1 << 20]));
        writer.send_bytes(&mut node, &frame[..500 << 10]);
    }
    let mut reader = node.client(0);
    let gets: Vec<u8> = (0..100).flat_map(|_| reader.frame(&RequestBody::Get { key: &here }).1).collect();
    reader.send_bytes(&mut node, &gets);

    let closed = |node: &Stepped, cause: CloseCause| node.cores[0].counters.closed[cause as usize];
    node.until("all three are closed", |node| {
        let counts =
            [CloseCause::NoHello, CloseCause::SlowWriter, CloseCause::SlowReader].map(|cause| closed(node, cause));
        (counts == [1, 2, 1]).then_some(())
    });
    silent.ended(&mut node);
    // One that is idle between frames is nobody's trouble.
    assert_eq!(patient.call(&mut node, &RequestBody::Ping { payload: b"" }).1, Status::Ok);
    drop((patient, writers, reader));
    node.end();
}
