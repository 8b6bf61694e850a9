//! A client that asks for a core gets it, whoever accepted it and whatever else connects; and then nothing hops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use quoit_wire::{HelloParameters, RequestBody, Status};

use crate::running::{Over, Running, set};
use crate::wire_client::WireClient;

const CORES: u16 = 4;

#[test]
fn every_core_is_had_for_the_asking_while_strangers_come_and_go() {
    let node = Running::new(usize::from(CORES));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for stranger in 0..2 {
            let (node, is_over) = (&node, &is_over);
            scope.spawn(move || {
                let mut hello = Vec::new();
                WireClient::hello(stranger).encode(1, Default::default(), &mut hello);
                for round in 0usize.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut stream = TcpStream::connect(node.address()).expect("the node listens");
                    // Nothing, half a hello, or a whole one, and gone. Who has said all waits for the answer: no more are on their
                    // way between two cores than may be, past which connections are closed.
                    let _ = stream.write_all(&hello[..[0, 10, hello.len()][round % 3]]);
                    if round % 3 == 2 {
                        let _ = stream.read(&mut [0]);
                    }
                }
            });
        }
        // However it ends: the scope waits for the strangers.
        let _over = Over(&is_over);
        for round in 0..100 {
            for core in 0..CORES {
                let mut client = WireClient::connect(node.address(), core);
                assert_eq!(client.hello.core, core, "round {round}");
                assert_eq!(client.hello.cores, CORES);
                let key = node.key(core, round);
                assert_eq!(client.call(&set(&key, b"value")).status, Status::Ok);
                assert_eq!(client.call(&RequestBody::Get { key: &key }).value, b"value");
            }
        }
    });
    assert_eq!(node.sum("requests_forwarded_total"), 0, "a request hopped though its connection was on its core");
    assert!(node.sum("connections_handed_over_total") > 0);
    node.until("all are gone", |node| node.sum("connections") == 0);
    assert_eq!(node.sum("connections_handed_over_total"), node.sum("connections_adopted_total"));
}

#[test]
fn a_core_that_is_not_there_leaves_the_connection_where_it_is() {
    let node = Running::new(2);
    for core in [2, 77, HelloParameters::ANY_CORE] {
        let client = WireClient::connect(node.address(), core);
        assert!(client.hello.core < 2);
    }
    assert_eq!(node.sum("connections_handed_over_total"), 0);
}
