//! A node that is told to end answers what it has received, over the mesh too, and then ends every stream in good order.

use std::io::Write;

use quoit_wire::{RequestBody, Status};

use crate::running::{Running, set};
use crate::wire_client::WireClient;

#[test]
fn what_was_received_is_answered_and_then_the_stream_ends() {
    for round in 0..10 {
        let node = Running::new(3);
        let keys: Vec<_> = (0..3).map(|core| node.key(core, 0)).collect();
        let mut clients: Vec<_> = (0..6).map(|number| WireClient::connect(node.address(), number % 3)).collect();
        for key in &keys {
            assert_eq!(clients[0].call(&set(key, &[9; 3000])).status, Status::Ok);
        }
        for client in &mut clients {
            let mut frames = Vec::new();
            for number in 0..300 {
                client.push(&RequestBody::Get { key: &keys[number % 3] }, &mut frames);
            }
            client.stream.write_all(&frames).expect("the node reads");
        }
        // Everything lies with the node's kernel, at least; most of it is not received yet.
        node.node().begin_shutdown();
        for client in &mut clients {
            let mut replies = 0;
            while let Some(answer) = client.receive() {
                assert_eq!((answer.status, answer.value.len()), (Status::Ok, 3000), "round {round}");
                replies += 1;
            }
            assert_eq!(replies, 300, "round {round}: the stream ended early");
        }
        drop(clients);
        node.end();
    }
}

#[test]
fn a_client_that_never_stops_asking_does_not_keep_the_node() {
    let node = Running::new(2);
    let key = node.key(1, 0);
    let mut client = WireClient::connect(node.address(), 0);
    let mut writer = client.stream.try_clone().expect("a socket");
    let mut frames = Vec::new();
    for _ in 0..1000 {
        client.push(&RequestBody::Get { key: &key }, &mut frames);
    }
    std::thread::scope(|scope| {
        scope.spawn(move || while writer.write_all(&frames).is_ok() {});
        assert_eq!(client.receive().map(|answer| answer.status), Some(Status::Miss));
        node.node().begin_shutdown();
        let mut last = Status::Miss;
        while let Some(answer) = client.receive() {
            assert!(matches!(answer.status, Status::Miss | Status::ShuttingDown), "{:?}", answer.status);
            assert_eq!(last, Status::Miss, "a reply after the refusal");
            last = answer.status;
        }
        // The writer would wait for room in a window that nobody opens any more.
        // Fails where the node's reset has come first, which ends the writer as well.
        let _ = client.stream.shutdown(std::net::Shutdown::Both);
    });
    node.end();
}
