//! Limits that no single client comes near: enough of them come together.

use quoit_wire::{Keys, RequestBody, Status};

use super::{Stepped, hello, set};
use crate::runtime::connection::CloseCause;
use crate::runtime::limits::{
    CONNECTION_INFLIGHT_MAX, CONNECTION_OUTPUT_BYTES_MAX, GATHERS_MAX, MESH_ADOPTIONS_MAX, MESH_INFLIGHT_MAX,
};

#[test]
fn so_many_connections_are_on_their_way_to_a_core_and_the_next_are_closed() {
    const MORE: usize = 5;
    let mut node = Stepped::new(2, |_| {});
    let mut strangers: Vec<_> = (0..MESH_ADOPTIONS_MAX + MORE).map(|_| node.stranger(0)).collect();
    for stranger in &mut strangers {
        let (_, frame) = stranger.frame(&hello(1));
        assert_eq!(stranger.try_send(&frame), frame.len());
    }
    // The other core does not take its turn meanwhile.
    for _ in 0..200 {
        node.cores[0].turn().unwrap();
    }
    let counters = &node.cores[0].counters;
    assert_eq!(counters.handed_over as usize, MESH_ADOPTIONS_MAX);
    assert_eq!(counters.closed[CloseCause::Limit as usize] as usize, MORE);
    let mut greeted = 0;
    for stranger in &mut strangers {
        greeted += usize::from(stranger.answer_or_end(&mut node).is_some_and(|answer| answer.1 == Status::Ok));
    }
    assert_eq!(greeted, MESH_ADOPTIONS_MAX);
    let mut late = node.stranger(0);
    assert_eq!(late.call(&mut node, &hello(1)).1, Status::Ok, "there is room again");
    drop((strangers, late));
    node.end();
}

#[test]
fn so_many_requests_span_cores_at_a_time_and_the_next_wait_or_are_refused() {
    let cores = GATHERS_MAX / MESH_INFLIGHT_MAX + 2;
    let mut node = Stepped::new(cores, |_| {});
    let keys: Vec<_> = (1..cores).map(|core| node.key(core, 0)).collect();
    let mut clients: Vec<_> = (1..cores).map(|_| node.client(0)).collect();
    let mut last = node.client(0);
    let count = GATHERS_MAX / (cores - 1) + 50;
    assert!(count < usize::from(CONNECTION_INFLIGHT_MAX) && count * (cores - 1) > GATHERS_MAX);
    let own = node.key(0, 0);
    // Each spans core 0 and another, and the others don't take their turns.
    for (client, key) in clients.iter_mut().zip(&keys) {
        let mut body = Vec::new();
        Keys::push(&own, &mut body);
        Keys::push(key, &mut body);
        let keys = Keys::parse(2, &body).unwrap();
        let frames: Vec<u8> = (0..count).flat_map(|_| client.frame(&RequestBody::MultiGet(keys)).1).collect();
        assert_eq!(client.try_send(&frames), frames.len());
    }
    for _ in 0..100 {
        node.cores[0].turn().unwrap();
    }
    assert_eq!(node.cores[0].gathers.len(), GATHERS_MAX);
    assert!(node.cores[0].counters.stalls_inflight > 0, "who has others under way waits");
    let (_, frame) = last.frame(&RequestBody::Flush);
    last.try_send(&frame);
    for _ in 0..10 {
        node.cores[0].turn().unwrap();
    }
    assert_eq!(node.cores[0].gathers.len(), GATHERS_MAX);
    assert_eq!(last.receive(&mut node).map(|answer| answer.1), Some(Status::Overloaded), "who has none is refused");
    for client in &mut clients {
        let answers = client.receive_all(&mut node, count);
        assert!(answers.values().all(|(status, _)| *status == Status::Ok));
    }
    drop((clients, last));
    node.end();
}

#[test]
fn a_connection_has_so_many_reply_bytes_waiting_and_large_reads_behind_them_are_refused() {
    let mut node = Stepped::new(2, |options| options.buffer_bytes_max = 512 << 20);
    let key = node.key(1, 0);
    let mut client = node.client(0);
    let value = vec![9; 1 << 20];
    assert_eq!(client.call(&mut node, &set(&key, &value)).1, Status::Ok);
    let count = CONNECTION_OUTPUT_BYTES_MAX / value.len() + 60;
    let frames: Vec<u8> = (0..count).flat_map(|_| client.frame(&RequestBody::Get { key: &key }).1).collect();
    assert_eq!(client.try_send(&frames), frames.len());
    let mut most = 0;
    node.until("all are answered", |node| {
        let connections = node.cores[0].connections.iter().filter_map(|(_, connection)| connection.as_ref());
        most = most.max(connections.map(|connection| connection.unsent_bytes()).max().unwrap_or_default());
        (node.cores[0].counters.forwarded as usize == count + 1 && node.cores[0].mesh.inflight() == 0).then_some(())
    });
    let small_bytes = count * 100;
    assert!(most > CONNECTION_OUTPUT_BYTES_MAX / 2, "{most} bytes: this proves nothing");
    assert!(most <= CONNECTION_OUTPUT_BYTES_MAX + small_bytes, "{most} bytes wait");
    let answers = client.receive_all(&mut node, count);
    let refused = answers.values().filter(|(status, _)| *status == Status::Overloaded).count();
    let hits = answers.values().filter(|(status, got)| *status == Status::Ok && *got == value).count();
    assert!(refused > 0 && refused + hits == count, "{hits} hits, {refused} refused");
    drop(client);
    node.end();
}
