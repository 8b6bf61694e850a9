//! A node in this process, spoken to over real sockets, frame by frame.

mod watchdog;
mod wire_client;

use quoit::runtime::{Idle, Node, RuntimeOptions};
use quoit::store::PolicyKind;
use quoit_wire::{HelloParameters, RequestBody, Status};
use wire_client::WireClient;

/// A node of `cores` cores, all on this machine's first CPU, on a free port.
fn node(cores: usize) -> Node {
    let options = RuntimeOptions {
        listen: "127.0.0.1:0".parse().expect("an address"),
        advertise: None,
        cpus: vec![0; cores],
        memory_bytes: cores * (64 << 20),
        prefault: false,
        policy: PolicyKind::None,
        idle: Idle::Park,
        value_bytes_max: None,
        connections_max: 4096,
        vnode_bits: 8,
        node_id: Some(7),
        cluster: None,
        state_dir: None,
        time_limits: Default::default(),
    };
    Node::start(&options).expect("the node starts")
}

#[test]
fn a_set_is_got_from_whichever_core_owns_it() {
    let node = node(3);
    let mut client = WireClient::connect(node.address(), HelloParameters::ANY_CORE);
    for number in 0..300u32 {
        let key = format!("key-{number}");
        let value = vec![number as u8; number as usize * 10];
        let set = RequestBody::Set {
            key: key.as_bytes(),
            parameters: Default::default(),
            condition: Default::default(),
            value: &value,
        };
        let stored = client.call(&set);
        assert_eq!(stored.status, Status::Ok, "{key}");
        let got = client.call(&RequestBody::Get { key: key.as_bytes() });
        assert_eq!((got.status, got.version, got.value), (Status::Ok, stored.version, value), "{key}");
    }
    node.begin_shutdown();
    watchdog::within("the node ends", || node.join()).expect("the cores end well");
}
