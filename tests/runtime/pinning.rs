//! A value that is being sent keeps its bytes, whatever happens to its key meanwhile.
//!
//! The reader's socket takes a few KiB, so the kernel reads the value from the arena for as long as the test likes. Each
//! generation of a value is another pattern: a reply is one generation whole, or the pin did not hold.

use std::io::Write;
use std::net::TcpStream;

use quoit::store::PolicyKind;
use quoit_wire::{RequestBody, Status};
use socket2::{Domain, Socket, Type};

use crate::running::{Running, set};
use crate::wire_client::WireClient;

fn pattern(generation: u32, bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ generation as u8).collect()
}

/// A client whose socket takes little before it is read.
fn narrow_client(node: &Running, core: u16) -> WireClient {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a socket option");
    socket.connect(&node.address().into()).expect("the node listens");
    WireClient::greet(TcpStream::from(socket), core)
}

fn hold(value_bytes: usize, disturb: impl Fn(&Running, &mut WireClient, &[u8])) {
    let node = Running::with(2, |options| options.policy = PolicyKind::S3Fifo);
    let key = node.key(0, 0);
    let mut writer = WireClient::connect(node.address(), 0);
    assert_eq!(writer.call(&set(&key, &pattern(0, value_bytes))).status, Status::Ok);
    let mut readers: Vec<_> = (0..3).map(|_| narrow_client(&node, 0)).collect();
    let gets = (4 << 20) / value_bytes + 1;
    for reader in &mut readers {
        let mut frames = Vec::new();
        for _ in 0..gets {
            reader.push(&RequestBody::Get { key: &key }, &mut frames);
        }
        reader.stream.write_all(&frames).expect("the node reads");
    }
    node.until("values are being sent from where they lie", |node| node.sum("pinned_bytes") > 0);
    disturb(&node, &mut writer, &key);
    assert!(node.sum("pinned_bytes") > 0, "everything had left: this proves nothing");
    for reader in &mut readers {
        for number in 0..gets {
            let answer = reader.receive().expect("a reply");
            // The first were asked before anything was disturbed; later ones waited for the reader and see what is now.
            let is_whole = match answer.status {
                Status::Ok => {
                    (0..=u32::from(u8::MAX)).any(|generation| answer.value == pattern(generation, value_bytes))
                }
                Status::Miss => number > 0,
                Status::Overloaded => number > 0,
                _ => false,
            };
            assert!(is_whole, "reply {number}: {:?}, {} bytes", answer.status, answer.value.len());
            if number == 0 {
                assert!(answer.value == pattern(0, value_bytes), "the first reply is not what was asked first");
            }
        }
    }
    node.until("nothing is pinned any more", |node| node.sum("pinned_bytes") == 0);
}

fn fill(node: &Running, writer: &mut WireClient) {
    let before = node.sum("evictions_total");
    let value = vec![0xee; 14 << 10];
    let mut number = 0;
    while node.sum("evictions_total") < before + 2000 {
        let mut frames = Vec::new();
        for _ in 0..500 {
            number += 1;
            writer.push(&set(format!("filler-{number}").as_bytes(), &value), &mut frames);
        }
        writer.pipeline(&frames, 500, |answer| assert_eq!(answer.status, Status::Ok));
    }
}

#[test]
fn while_the_key_is_overwritten() {
    for value_bytes in [20 << 10, 300 << 10, 3 << 20] {
        hold(value_bytes, |_, writer, key| {
            for generation in 1..60 {
                writer.call(&set(key, &pattern(generation, value_bytes)));
            }
        });
    }
}

#[test]
fn while_the_key_is_deleted_and_others_take_its_memory() {
    for value_bytes in [20 << 10, 300 << 10, 3 << 20] {
        hold(value_bytes, |node, writer, key| {
            assert_eq!(writer.call(&RequestBody::Delete { key }).status, Status::Ok);
            fill(node, writer);
        });
    }
}

#[test]
fn while_everything_is_flushed_and_evicted() {
    for value_bytes in [20 << 10, 300 << 10, 3 << 20] {
        hold(value_bytes, |node, writer, _| {
            assert_eq!(writer.call(&RequestBody::Flush).status, Status::Ok);
            fill(node, writer);
            assert_eq!(writer.call(&RequestBody::Flush).status, Status::Ok);
            fill(node, writer);
        });
    }
}

#[test]
fn while_the_value_grows_and_lives_longer() {
    for value_bytes in [20 << 10, 300 << 10] {
        hold(value_bytes, |_, writer, key| {
            for _ in 0..20 {
                writer.call(&RequestBody::Touch { key, ttl_ms: 1_000_000 });
                writer.call(&set(key, &pattern(1, value_bytes)));
                writer.call(&RequestBody::Append { key, value: b"more" });
                writer.call(&RequestBody::Prepend { key, value: b"more" });
            }
            writer.call(&set(key, &pattern(2, value_bytes)));
        });
    }
}
