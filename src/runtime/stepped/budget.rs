//! Memory stays within what the options say, and who fills it does not starve the others.

use quoit_wire::{RequestBody, Status};

use super::{Stepped, set};

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
