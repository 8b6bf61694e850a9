//! The part without a kernel, against a responder in memory: replies in any pieces, and no allocation per request.

use proptest::prelude::*;
use quoit_wire::{Reply as WireReply, Request as WireRequest, RequestBody, Status, WriteMode, request_head};

use super::traffic::Traffic;
use crate::allocations;
use crate::protocol::{Echo, Memcache, MemcacheMeta, Protocol, Quoit, Resp};
use crate::work::{KeySpace, Mix, MixOptions, Routes, SizeRange};

const VALUE_BYTES: u32 = 64;
const CONNECTIONS: usize = 4;
const DEPTH: usize = 8;

/// Answers the requests of one connection's output.
type Answer = fn(&[u8], &mut Vec<u8>);

fn mix(multi_get: u16) -> MixOptions {
    MixOptions {
        keys: KeySpace::new(10_000, 16).expect("valid"),
        zipf: 0.99,
        value_bytes: SizeRange { least: VALUE_BYTES, most: VALUE_BYTES },
        set_ratio: 0.2,
        delete_ratio: 0.1,
        increment_ratio: 0.1,
        ttl_ms: 1000,
        multi_get,
        seed: 5,
    }
}

fn traffic(protocol: Protocol, multi_get: u16) -> Traffic<Mix> {
    let work = Mix::new(mix(multi_get), Routes::anywhere(CONNECTIONS), 0);
    Traffic::new(CONNECTIONS, DEPTH, protocol, work)
}

/// Answers every request of a connection's output as a node would that has everything.
fn answer_quoit(mut requests: &[u8], replies: &mut Vec<u8>) {
    while !requests.is_empty() {
        let head = request_head(requests, 1 << 20).expect("right").expect("whole");
        let request = WireRequest::decode(head, requests).expect("right");
        let mut reply = WireReply::status(head.id, Status::Ok);
        match request.body {
            RequestBody::Get { .. } => reply.value = &[7; VALUE_BYTES as usize],
            RequestBody::Increment { .. } => reply.value = &[1, 0, 0, 0, 0, 0, 0, 0],
            _ => {}
        }
        reply.encode(replies);
        requests = &requests[head.frame_bytes..];
    }
}

/// Answers what memcached's text protocol asks, line by line.
fn answer_memcache(mut requests: &[u8], replies: &mut Vec<u8>) {
    while let Some(end) = requests.windows(2).position(|pair| pair == b"\r\n") {
        let line = &requests[..end];
        requests = &requests[end + 2..];
        match line.split(|&byte| byte == b' ').next() {
            Some(b"get") => {
                for key in line.split(|&byte| byte == b' ').skip(1) {
                    replies.extend_from_slice(b"VALUE ");
                    replies.extend_from_slice(key);
                    replies.extend_from_slice(b" 0 64\r\n");
                    replies.extend_from_slice(&[b'v'; VALUE_BYTES as usize]);
                    replies.extend_from_slice(b"\r\n");
                }
                replies.extend_from_slice(b"END\r\n");
            }
            Some(b"set") => {
                requests = &requests[VALUE_BYTES as usize + 2..];
                replies.extend_from_slice(b"STORED\r\n");
            }
            Some(b"delete") => replies.extend_from_slice(b"DELETED\r\n"),
            _ => replies.extend_from_slice(b"5\r\n"),
        }
    }
}

/// Answers the echo.
fn answer_echo(requests: &[u8], replies: &mut Vec<u8>) {
    replies.resize(replies.len() + requests.len() / ECHO.request_bytes * ECHO.reply_bytes, b'e');
}

const ECHO: Echo = Echo { request_bytes: 32, reply_bytes: 88 };

/// One turn: requests go out, replies come back in pieces of `piece` bytes.
fn turn(traffic: &mut Traffic<Mix>, answer: Answer, replies: &mut Vec<u8>, piece: usize) {
    traffic.ask(1000);
    traffic.unsent.clear();
    for index in 0..CONNECTIONS {
        replies.clear();
        answer(&traffic.connections[index].filling, replies);
        traffic.connections[index].filling.clear();
        for bytes in replies.chunks(piece) {
            traffic.absorb(index, bytes, 2000).expect("right replies");
        }
    }
}

#[test]
fn steady_state_allocates_nothing() {
    let all: [(Protocol, Answer, u16); 4] = [
        (Protocol::Quoit(Quoit::new(1, WriteMode::ClusterDefault)), answer_quoit, 1),
        (Protocol::Memcache(Memcache), answer_memcache, 1),
        (Protocol::Memcache(Memcache), answer_memcache, 16),
        (Protocol::Echo(ECHO), answer_echo, 1),
    ];
    for (protocol, answer, multi_get) in all {
        let name = format!("{protocol:?}");
        let mut traffic = traffic(protocol, multi_get);
        let mut replies = Vec::with_capacity(1 << 20);
        // Cut replies too: the carry buffers reach their size.
        (0..50).for_each(|_| turn(&mut traffic, answer, &mut replies, 100));
        let before = allocations::of_this_thread();
        (0..500).for_each(|_| turn(&mut traffic, answer, &mut replies, 100));
        assert_eq!(allocations::of_this_thread() - before, 0, "{name}");
        assert_eq!(traffic.recorder.tally.answered, 550 * (CONNECTIONS * DEPTH) as u64, "{name}");
    }
}

#[test]
fn the_counter_of_allocations_counts() {
    let before = allocations::of_this_thread();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations::of_this_thread() - before, 1);
}

#[test]
fn a_large_value_passes_by_without_being_kept() {
    let mut options = mix(1);
    (options.set_ratio, options.delete_ratio, options.increment_ratio) = (0.0, 0.0, 0.0);
    for protocol in [Protocol::MemcacheMeta(MemcacheMeta), Protocol::Resp(Resp)] {
        let work = Mix::new(options.clone(), Routes::anywhere(1), 0);
        let mut traffic = Traffic::new(1, 1, protocol.clone(), work);
        traffic.ask(0);
        let head: &[u8] = if matches!(protocol, Protocol::Resp(_)) { b"$1000000\r\n" } else { b"VA 1000000\r\n" };
        traffic.absorb(0, head, 1).expect("right");
        for _ in 0..1000 {
            traffic.absorb(0, &[b'v'; 1000], 1).expect("right");
            assert_eq!((traffic.recorder.tally.answered, traffic.connections[0].carry.len()), (0, 0));
        }
        traffic.absorb(0, b"\r\n", 1).expect("right");
        assert_eq!((traffic.recorder.tally.hits, traffic.recorder.tally.value_bytes_read), (1, 1_000_000));
    }
}

#[test]
fn a_reply_that_nobody_asked_for_is_an_error() {
    let mut traffic = traffic(Protocol::Resp(Resp), 1);
    assert!(traffic.absorb(0, b"+OK\r\n", 1).is_err());
}

proptest! {
    #[test]
    fn replies_may_come_in_any_pieces(piece in 1usize..400) {
        let all: [(Protocol, Answer, u16); 3] = [
            (Protocol::Quoit(Quoit::new(1, WriteMode::ClusterDefault)), answer_quoit, 1),
            (Protocol::Memcache(Memcache), answer_memcache, 3),
            (Protocol::Echo(ECHO), answer_echo, 1),
        ];
        for (protocol, answer, multi_get) in all {
            let (mut cut, mut whole) = (traffic(protocol.clone(), multi_get), traffic(protocol, multi_get));
            let mut replies = Vec::new();
            for _ in 0..3 {
                turn(&mut cut, answer, &mut replies, piece);
                turn(&mut whole, answer, &mut replies, usize::MAX);
            }
            prop_assert_eq!(&cut.recorder.tally, &whole.recorder.tally);
            prop_assert_eq!(cut.in_flight, 0);
        }
    }
}
