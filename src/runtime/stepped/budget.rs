//! Memory stays within what the options say, and who fills it does not starve the others.

use quoit_wire::{Keys, MultiResult, RequestBody, Status};

use super::{Stepped, set};
use crate::runtime::limits::MESH_REPLY_BYTES_MAX;

#[test]
fn small_hits_are_answered_though_the_buffers_are_full_and_who_fills_them_goes() {
    let mut node = Stepped::new(2, |_| {});
    let key = node.key(0, 0);
    let mut other = node.client(0);
    other.call(&mut node, &set(&key, &[1; 12 << 10]));
    let mut greedy = node.client(0);
    let far = node.key(1, 0);
    let (_, frame) = greedy.frame(&set(&far, &vec![0; 6 << 20]));
    greedy.send_bytes(&mut node, &frame[..frame.len() - 100]);
    node.rest();
    let held_bytes = node.cores[0].buffer_bytes;
    assert!(held_bytes > 6 << 20, "only {held_bytes} bytes are held: this proves nothing");
    node.cores[0].options.buffer_bytes_max = held_bytes + (8 << 10);
    for _ in 0..10 {
        assert_eq!(other.call(&mut node, &RequestBody::Get { key: &key }).1, Status::Ok);
    }
    assert_eq!(greedy.receive(&mut node), None);
    drop((greedy, other));
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
        buffers_most = buffers_most.max(node.cores[0].buffer_bytes);
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
