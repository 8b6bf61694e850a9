//! Two thousand connections come and go, most of them badly: nothing is left of them, and the others are served.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use quoit_wire::{HelloParameters, RequestBody, Status};
use socket2::SockRef;

use crate::running::{Running, set};
use crate::wire_client::WireClient;
use crate::{alone, descriptors};

const CONNECTIONS: usize = 2000;
const THREADS: usize = 4;

/// Resets the connection: nothing is said to the other side, and what is unread is lost.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket option");
    drop(stream);
}

/// One connection's life, of eight kinds.
fn live(node: &Running, number: usize) {
    let mut hello = Vec::new();
    WireClient::hello((number % 4) as u16).encode(1, Default::default(), &mut hello);
    let stream = || TcpStream::connect(node.address()).expect("the node listens");
    let client = || WireClient::connect(node.address(), (number % 4) as u16);
    let key = node.key((number % 3) as u16, number % 7);
    let mut large = Vec::new();
    set(&key, &[1; 200 << 10]).encode(7, Default::default(), &mut large);
    match number % 8 {
        0 => drop(stream()),
        1 => reset(stream()),
        2 => {
            let mut stream = stream();
            let _ = stream.write_all(&hello[..number % hello.len()]);
            reset(stream);
        }
        3 => {
            // Gone before the answer, perhaps on its way between cores.
            let mut stream = stream();
            let _ = stream.write_all(&hello);
            reset(stream);
        }
        4 => {
            let mut client = client();
            let mut frames = Vec::new();
            client.push(&RequestBody::Get { key: &key }, &mut frames);
            let _ = client.stream.write_all(&frames[..frames.len() - 3]);
            reset(client.stream);
        }
        5 => {
            let mut client = client();
            let _ = client.stream.write_all(&large[..large.len() - 1000 * (number % 100)]);
            reset(client.stream);
        }
        6 => {
            // Replies of all kinds wait for it, from here and from other cores.
            let mut client = client();
            let mut frames = Vec::new();
            for other in 0..60 {
                client.push(&RequestBody::Get { key: &node.key(other % 3, 1000) }, &mut frames);
                client.push(&RequestBody::Stats, &mut frames);
            }
            let _ = client.stream.write_all(&frames);
            reset(client.stream);
        }
        _ => {
            let mut client = client();
            assert_eq!(client.call(&RequestBody::Ping { payload: b"x" }).value, b"x");
        }
    }
}

#[test]
fn nothing_is_left_of_two_thousand_connections() {
    let _alone = alone();
    let node = Running::new(3);
    let mut bystander = WireClient::connect(node.address(), HelloParameters::ANY_CORE);
    for core in 0..3 {
        assert_eq!(bystander.call(&set(&node.key(core, 1000), &[3; 50_000])).status, Status::Ok);
    }
    // One of each kind first: what is made once and kept is not a leak.
    (0..8).for_each(|kind| live(&node, kind));
    node.until("the first are gone", |node| node.sum("connections") == 1);
    let (items, descriptors_before) = (node.sum("items"), descriptors());

    std::thread::scope(|scope| {
        let node = &node;
        for thread in 0..THREADS {
            scope.spawn(move || (0..CONNECTIONS / THREADS).for_each(|number| live(node, thread + number * THREADS)));
        }
        for round in 0..300 {
            let key = node.key(round % 3, 1000);
            assert_eq!(bystander.call(&RequestBody::Get { key: &key }).value.len(), 50_000, "round {round}");
        }
    });

    node.until("all are gone", |node| node.sum("connections") == 1);
    node.until("their requests are too", |node| node.sum("mesh_inflight") == 0 && node.sum("gathers") == 0);
    assert_eq!(node.sum("buffer_bytes"), 0);
    assert_eq!(descriptors(), descriptors_before);
    // No large set was ever whole, and nothing else was written.
    assert_eq!(node.sum("items"), items);
    assert_eq!(node.sum("pinned_bytes"), 0);
    assert_eq!(node.sum("connections_opened_total") - node.sum("connections_handed_over_total"), {
        let closed = node.sum("connections_closed_total");
        closed + 1
    });
    drop(bystander);
    node.end();
}

#[test]
fn a_node_that_ends_gives_everything_back() {
    let _alone = alone();
    let start = |_| {
        let node = Running::new(2);
        let mut client = WireClient::connect(node.address(), 1);
        assert_eq!(client.call(&RequestBody::Ping { payload: b"x" }).value, b"x");
        node.end();
    };
    (0..2).for_each(start);
    let before = descriptors();
    (0..5).for_each(start);
    // glommio 0.9 keeps the eventfd of an executor that has ended: one for each core, and nothing else.
    let left = descriptors() - before;
    assert!(left <= 5 * 2, "{left} descriptors are left of five nodes of two cores");
}
