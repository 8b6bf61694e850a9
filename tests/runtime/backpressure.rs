//! Every limit that a client can reach is reached: the node stalls, refuses or closes as it says, holds no more memory
//! than it says, and serves the others.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use quoit_wire::{HelloParameters, RequestBody, Status};

use crate::running::{Running, set};
use crate::wire_client::WireClient;

#[test]
fn each_reason_to_stall_is_met_and_everything_is_answered() {
    let node = Running::new(2);
    let (here, there) = (node.key(0, 0), node.key(1, 0));
    let mut client = WireClient::connect(node.address(), 0);
    assert_eq!(client.call(&set(&here, &[1; 15 << 10])).status, Status::Ok);
    // How far ahead the other core is, is chance: the same again until it was not ahead enough.
    let mut until_stalled = |reason, body: RequestBody<'_>, count: usize, status| {
        node.until(reason, |node| {
            let mut frames = Vec::new();
            for _ in 0..count {
                client.push(&body, &mut frames);
            }
            client.pipeline(&frames, count, |answer| assert_eq!(answer.status, status));
            node.sum_of("connection_stalls_total", reason) > 0
        });
    };
    // Many small requests for the other core: more than may be unanswered. Large ones: more bytes than may be under way.
    until_stalled("inflight", RequestBody::Get { key: &there }, 20_000, Status::Miss);
    until_stalled("credit", set(&there, &vec![2; 30 << 10]), 400, Status::Ok);

    // More replies than may wait, and requests that go on coming behind them.
    let mut frames = Vec::new();
    for _ in 0..20_000 {
        client.push(&RequestBody::Get { key: &here }, &mut frames);
    }
    let mut writer = client.stream.try_clone().expect("a socket");
    std::thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&frames).expect("the node reads at last"));
        node.until("the reader that does not read is stalled and its receive cancelled", |node| {
            node.sum_of("connection_stalls_total", "output") > 0 && node.sum("receive_cancels_total") > 0
        });
        (0..20_000).for_each(|_| assert_eq!(client.receive().expect("a reply").value.len(), 15 << 10));
    });
}

#[test]
fn a_reader_that_never_reads_is_closed_and_disturbs_nobody() {
    let node = Running::with(2, |options| options.time_limits.reader_stall_max = Duration::from_millis(300));
    let keys = [node.key(0, 0), node.key(1, 0)];
    let mut other = WireClient::connect(node.address(), 0);
    for key in &keys {
        assert_eq!(other.call(&set(key, &[3; 10_000])).status, Status::Ok);
    }
    let mut deaf: Vec<_> = (0..8).map(|core| WireClient::connect(node.address(), core % 2)).collect();
    for client in &mut deaf {
        let mut frames = Vec::new();
        for number in 0..5000 {
            client.push(&RequestBody::Get { key: &keys[number % 2] }, &mut frames);
        }
        client.stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a socket option");
        // It goes on writing until the node does not take more.
        let _ = client.stream.write_all(&frames);
    }
    let bytes_max = node.sum("buffer_bytes_max");
    node.until("all eight are closed", |node| {
        assert!(node.sum("buffer_bytes") <= bytes_max, "{} bytes of buffers", node.sum("buffer_bytes"));
        assert_eq!(other.call(&RequestBody::Get { key: &keys[0] }).value.len(), 10_000);
        assert_eq!(other.call(&RequestBody::Get { key: &keys[1] }).value.len(), 10_000);
        // Who held most when the buffers were full has gone already.
        let closed = |cause| node.sum_of("connections_closed_total", cause);
        closed("slow_reader") > 0 && closed("slow_reader") + closed("limit") == 8
    });
    drop(deaf);
    node.until("their buffers are free", |node| node.sum("buffer_bytes") < 1 << 20 && node.sum("connections") == 1);
}

#[test]
fn large_reads_from_another_core_are_refused_rather_than_piled_up() {
    let node = Running::new(2);
    let key = node.key(1, 0);
    let mut client = WireClient::connect(node.address(), 0);
    let value: Vec<u8> = (0..1u32 << 20).map(|at| (at % 253) as u8).collect();
    assert_eq!(client.call(&set(&key, &value)).status, Status::Ok);
    let mut frames = Vec::new();
    for _ in 0..200 {
        client.push(&RequestBody::Get { key: &key }, &mut frames);
    }
    client.stream.write_all(&frames).expect("the node reads");
    node.until("the other core has answered all", |node| node.sum("mesh_inflight") == 0);
    assert!(node.sum("buffer_bytes") <= node.sum("buffer_bytes_max"));
    let (mut hits, mut refused) = (0, 0);
    for _ in 0..200 {
        let answer = client.receive().expect("a reply");
        match answer.status {
            Status::Ok => hits += usize::from(answer.value == value),
            Status::Overloaded => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(hits > 0 && refused > 0 && hits + refused == 200, "{hits} hits, {refused} refused");
    assert!(client.call(&RequestBody::Get { key: &key }).value == value, "and later it is answered again");
}

#[test]
fn large_sets_that_do_not_fit_together_are_refused_one_by_one() {
    let node = Running::new(2);
    let value = vec![5; 5 << 20];
    let outcomes: Vec<Status> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let (node, value) = (&node, &value);
                scope.spawn(move || {
                    let key = node.key(1, number);
                    let mut client = WireClient::connect(node.address(), 0);
                    let status = client.call(&set(&key, value)).status;
                    let kept = client.call(&RequestBody::Get { key: &key });
                    match status {
                        Status::Ok => assert!(kept.status == Status::Overloaded || kept.value == *value),
                        Status::Overloaded => assert_eq!(kept.status, Status::Miss, "refused and stored all the same"),
                        other => panic!("{other:?}"),
                    }
                    status
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
    });
    assert!(outcomes.contains(&Status::Ok), "{outcomes:?}");
    node.until("every buffer is free", |node| node.sum("buffer_bytes") == 0);
}

#[test]
fn a_node_keeps_so_many_connections_and_no_more() {
    let node = Running::with(2, |options| options.connections_max = 5);
    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..60 {
        let mut stranger = WireClient::stranger(TcpStream::connect(node.address()).expect("the node listens"));
        match stranger.try_call(&WireClient::hello(HelloParameters::ANY_CORE)) {
            Some(answer) => {
                assert_eq!(answer.status, Status::Ok);
                kept.push(stranger);
            }
            None => refused += 1,
        }
    }
    assert!(kept.len() <= 10 && refused >= 50, "{} kept, {refused} refused", kept.len());
    assert_eq!(node.sum_of("connections_closed_total", "limit"), refused);
    for client in &mut kept {
        assert_eq!(client.call(&RequestBody::Ping { payload: b"x" }).value, b"x");
    }
    drop(kept);
    node.until("there is room again", |node| node.sum("connections") == 0);
    WireClient::connect(node.address(), HelloParameters::ANY_CORE);
}
