//! Bytes that are no good, at a live node: answered or closed as the specification says, and nobody else notices.
//!
//! What a stream must get is read off it by the wire crate, frame by frame; here is held that a node, with its buffers,
//! carries, barriers and cores, does exactly that to random and mutated streams, cut anywhere.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, TcpStream};

use quoit_wire::{HelloParameters, Operation, Refusal, Request, RequestBody, RequestOptions, Status, request_head};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::running::{Running, seed, set};
use crate::wire_client::WireClient;

/// What the node must answer to a stream, and whether it must break with the client there.
#[derive(Default)]
struct Oracle {
    /// Replies by id; `None` where the status depends on the items.
    replies: Vec<(u32, Option<Status>)>,
    /// The id of a large set that the stream ends in, and whose front is no good: refused at once by the core that would
    /// receive its value into the arena, never by one that would hand on the whole frame.
    may_be_refused: Option<(u32, Status)>,
    is_broken: bool,
}

fn foresee(mut stream: &[u8], value_bytes_max: usize) -> Oracle {
    let mut oracle = Oracle::default();
    while !stream.is_empty() && !oracle.is_broken {
        let frame_bytes = match request_head(stream, value_bytes_max) {
            Ok(None) => break,
            Ok(Some(head)) if head.operation == Operation::Hello && stream.len() >= head.frame_bytes => {
                oracle.replies.push((head.id, Some(Status::Malformed)));
                oracle.is_broken = true;
                break;
            }
            Ok(Some(head)) if stream.len() < head.frame_bytes => {
                let is_large = head.operation == Operation::Set && head.payload_bytes() >= 32 << 10;
                if is_large
                    && let Some(front) = stream.get(..head.payload_offset())
                    && let Err(refusal) = Request::decode(head, front)
                {
                    oracle.may_be_refused = Some((head.id, refusal.status));
                }
                break;
            }
            Ok(Some(head)) => {
                match Request::decode(head, &stream[..head.frame_bytes]) {
                    Ok(_) => oracle.replies.push((head.id, None)),
                    Err(refusal) => oracle.replies.push((head.id, Some(refusal.status))),
                }
                head.frame_bytes
            }
            Err(Refusal { id: Some(id), status, frame_bytes: Some(frame_bytes) }) => {
                oracle.replies.push((id, Some(status)));
                frame_bytes
            }
            Err(_) => {
                oracle.is_broken = true;
                break;
            }
        };
        stream = &stream[frame_bytes.min(stream.len())..];
    }
    oracle
}

/// A stream of good frames, then damaged: bytes changed, dropped, doubled or cut off, or noise put in.
fn stream(random: &mut StdRng) -> Vec<u8> {
    let mut stream = Vec::new();
    for id in 1..=random.random_range(1..40u32) {
        let key: Vec<u8> = (0..random.random_range(1..30)).map(|_| random.random()).collect();
        let value = vec![random.random(); *[0, 5, 300, 9000, 40_000].get(random.random_range(0..5)).unwrap_or(&0)];
        let body = match random.random_range(0..9) {
            0..3 => set(&key, &value),
            3 => RequestBody::Append { key: &key, value: &value },
            4 => RequestBody::Delete { key: &key },
            5 => RequestBody::Touch { key: &key, ttl_ms: 5000 },
            6 => RequestBody::Increment { key: &key, parameters: Default::default() },
            7 => RequestBody::Ping { payload: &key },
            _ => RequestBody::Get { key: &key },
        };
        body.encode(id, RequestOptions::default(), &mut stream);
    }
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..stream.len());
        match random.random_range(0..6) {
            0 => stream[at] = random.random(),
            1 => stream[at] ^= 1 << random.random_range(0..8),
            2 => drop(stream.drain(at..(at + random.random_range(1..20)).min(stream.len()))),
            3 => stream.truncate(at + 1),
            4 => {
                let noise: Vec<u8> = (0..random.random_range(1..200)).map(|_| random.random()).collect();
                stream.splice(at..at, noise);
            }
            // A header of its own kind: the fields are plausible, their values are not.
            _ => {
                let mut header = random.random_range(10..200u32).to_le_bytes().to_vec();
                header.extend_from_slice(&random.random_range(0..100u32).to_le_bytes());
                header.extend((0..8).map(|_| random.random_range(0..20u8)));
                stream.splice(at..at, header);
            }
        }
        if stream.is_empty() {
            stream.push(0);
        }
    }
    stream
}

#[test]
fn damaged_streams_get_what_the_specification_says_and_nobody_else_notices() {
    let seed = seed();
    let node = Running::new(3);
    let mut bystanders: Vec<_> = (0..3).map(|core| WireClient::connect(node.address(), core)).collect();
    let own: Vec<_> = (0..3).map(|core| node.key(core, 1000)).collect();
    for (bystander, key) in bystanders.iter_mut().zip(&own) {
        assert_eq!(bystander.call(&set(key, key)).status, Status::Ok);
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut broken = 0;
    for round in 0..1500 {
        let stream = stream(&mut random);
        let mut client = WireClient::connect(node.address(), HelloParameters::ANY_CORE);
        let mut oracle = foresee(&stream, client.hello.value_bytes_max as usize);
        // The node may break with us while we write: what it answered before is still there to read.
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let piece = random.random_range(1..=rest.len().min(20_000));
            if client.stream.write_all(&rest[..piece]).is_err() {
                break;
            }
            rest = &rest[piece..];
        }
        let _ = client.stream.shutdown(Shutdown::Write);
        broken += u64::from(oracle.is_broken);
        let mut expected: HashMap<u32, Vec<Option<Status>>> = HashMap::new();
        for (id, status) in oracle.replies {
            expected.entry(id).or_default().push(status);
        }
        while let Some(answer) = client.receive() {
            if oracle.may_be_refused == Some((answer.id, answer.status)) {
                oracle.may_be_refused = None;
                continue;
            }
            let waiting = expected.get_mut(&answer.id);
            let waiting = waiting.unwrap_or_else(|| panic!("round {round}: a reply to {} nobody asked for", answer.id));
            let at = waiting.iter().position(|status| *status == Some(answer.status));
            let at = at.or_else(|| waiting.iter().position(Option::is_none));
            waiting.swap_remove(at.unwrap_or_else(|| panic!("round {round}: {} is {:?}", answer.id, answer.status)));
        }
        expected.retain(|_, waiting| !waiting.is_empty());
        // A stream that the node breaks with while we still write, too: it goes on reading until its replies are taken.
        assert!(expected.is_empty(), "round {round}: never answered: {expected:?}, broken: {}", oracle.is_broken);
        let (bystander, key) = (&mut bystanders[round % 3], &own[round % 3]);
        assert_eq!(&bystander.call(&RequestBody::Get { key }).value, key, "round {round}");
    }
    assert!(broken > 50, "only {broken} streams were broken: this proves little");
    node.until("only the bystanders are left", |node| node.sum("connections") == 3);
    assert!(node.sum("frames_malformed_total") >= broken, "{} counted", node.sum("frames_malformed_total"));
    assert!(node.sum("frames_truncated_total") > 0 && node.sum("frames_refused_total") > 0);
    assert_eq!(node.sum("buffer_bytes"), 0);
}

#[test]
fn a_stranger_that_speaks_something_else_is_closed() {
    let node = Running::new(2);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64], b"*1\r\n$4\r\nPING\r\n"] {
        let mut stranger = WireClient::stranger(TcpStream::connect(node.address()).expect("the node listens"));
        stranger.stream.write_all(bytes).expect("the node reads");
        assert_eq!(stranger.receive(), None, "{}", String::from_utf8_lossy(bytes));
    }
    // A hello and what must wait for its answer.
    let mut hasty = WireClient::stranger(TcpStream::connect(node.address()).expect("the node listens"));
    let mut frames = Vec::new();
    let id = hasty.push(&WireClient::hello(1), &mut frames);
    hasty.push(&RequestBody::Ping { payload: b"too early" }, &mut frames);
    hasty.stream.write_all(&frames).expect("the node reads");
    assert_eq!(hasty.receive().map(|answer| (answer.id, answer.status)), Some((id, Status::Malformed)));
    assert_eq!(hasty.receive(), None);
    // A hello in pieces is a hello.
    let mut slow = WireClient::stranger(TcpStream::connect(node.address()).expect("the node listens"));
    frames.clear();
    let id = slow.push(&WireClient::hello(1), &mut frames);
    for byte in frames.chunks(1) {
        slow.stream.write_all(byte).expect("the node reads");
    }
    assert_eq!(slow.receive().map(|answer| (answer.id, answer.status)), Some((id, Status::Ok)));
}

#[test]
fn a_client_that_has_said_all_still_gets_every_reply() {
    let node = Running::new(3);
    let mut client = WireClient::connect(node.address(), 0);
    let mut frames = Vec::new();
    for number in 0..3000u32 {
        let key = format!("key-{number}");
        client.push(&set(key.as_bytes(), &[number as u8; 700]), &mut frames);
        client.push(&RequestBody::Get { key: key.as_bytes() }, &mut frames);
    }
    let mut writer = client.stream.try_clone().expect("a socket");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(&frames).expect("the node reads");
            writer.shutdown(Shutdown::Write).expect("a socket");
        });
        let mut replies = 0;
        while let Some(answer) = client.receive() {
            assert_eq!(answer.status, Status::Ok);
            replies += 1;
        }
        assert_eq!(replies, 6000);
    });
}
