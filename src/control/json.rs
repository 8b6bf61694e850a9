//! The topology as JSON, for `/topology` and the command line.
//!
//! 64-bit numbers that identify (ids, seed) are hexadecimal text: JavaScript and many tools keep only 53 bits of a number.

use quoit_wire::topology::{Placement, Seat, Topology};
use serde_json::{Value, json};

use super::status::ClusterStatus;
use crate::cluster::NodeRef;
use crate::cluster::copies::{CopyStatus, VnodeStatus};

/// The topology. `vnodes` lists, in order, each one's primary and replicas as `[node index, core]`, and its term.
pub fn topology(topology: &Topology) -> Value {
    let nodes: Vec<Value> = topology
        .nodes
        .iter()
        .map(|node| {
            json!({
                "name": node.name,
                "id": hex(node.id),
                "incarnation": hex(node.incarnation),
                "address": node.address,
                "zone": node.zone,
                "cores": node.cores,
                "weight": node.weight,
            })
        })
        .collect();
    json!({
        "epoch": topology.epoch,
        "cluster": topology.cluster,
        "seed": hex(topology.seed),
        "vnode_bits": topology.vnode_bits,
        "nodes": nodes,
        "vnodes": topology.vnodes.iter().map(placement).collect::<Vec<_>>(),
    })
}

/// Adds to a topology's JSON what the cluster is at: `moving`, as `/cluster` has it, and how far each node's copies lag.
pub fn add_status(topology: &mut Value, status: &ClusterStatus) {
    topology["moving"] = json!(status.moving);
    for node in topology["nodes"].as_array_mut().into_iter().flatten() {
        let known =
            status.nodes.iter().find(|known| node["id"] == known.id && node["incarnation"] == known.incarnation);
        if let Some(known) = known {
            (node["lag_writes"], node["lag_bytes"]) = (known.lag_writes.into(), known.lag_bytes.into());
        }
    }
}

/// The vnodes of a node's cores one by one: role, term, how far its copies are. `name` is what a node is called.
pub fn vnodes(cores: &[(u16, Vec<VnodeStatus>)], name: impl Fn(NodeRef) -> Option<String>) -> Value {
    let copy = |copy: &CopyStatus| {
        json!({
            "node": name(copy.peer.node).unwrap_or_else(|| hex(copy.peer.node.id)),
            "core": copy.peer.core,
            "in_sync": copy.is_in_sync,
            "progress": copy.progress,
            "lag_writes": copy.lag_writes,
            "lag_bytes": copy.lag_bytes,
        })
    };
    let vnode = |core: u16, vnode: &VnodeStatus| {
        json!({
            "vnode": vnode.vnode,
            "core": core,
            "role": vnode.role,
            "term": vnode.term,
            "last_write": vnode.last_write,
            "at_risk_writes": vnode.at_risk_writes,
            "waiting_replies": vnode.waiting_replies,
            "copies": vnode.copies.iter().map(copy).collect::<Vec<_>>(),
        })
    };
    let all = cores.iter().flat_map(|(core, vnodes)| vnodes.iter().map(move |it| (*core, it)));
    all.map(|(core, it)| vnode(core, it)).collect()
}

fn placement(placement: &Placement) -> Value {
    let seat = |seat: &Seat| json!([seat.node, seat.core]);
    let replicas = placement.replicas.iter().filter(|replica| **replica != Seat::NOWHERE);
    json!({
        "primary": seat(&placement.primary),
        "replicas": replicas.map(seat).collect::<Vec<_>>(),
        "term": placement.term,
    })
}

fn hex(number: u64) -> String {
    format!("{number:016x}")
}

#[cfg(test)]
mod tests {
    use quoit_wire::topology::Node;

    use super::*;

    #[test]
    fn a_topology_keeps_all_it_says() {
        let node = |id| Node {
            id,
            incarnation: 1,
            name: "a".to_owned(),
            address: "127.0.0.1:7400".to_owned(),
            zone: "a".to_owned(),
            cores: 2,
            weight: 1,
        };
        let mut shown = Topology::standalone(node(u64::MAX), 1, u64::MAX - 1, 3);
        shown.vnodes[1].replicas[0] = Seat { node: 0, core: 0 };
        assert_eq!(
            topology(&shown),
            json!({
                "epoch": 1,
                "cluster": "",
                "seed": "fffffffffffffffe",
                "vnode_bits": 1,
                "nodes": [{
                    "name": "a", "id": "ffffffffffffffff", "incarnation": "0000000000000001", "address": "127.0.0.1:7400",
                    "zone": "a", "cores": 2, "weight": 1,
                }],
                "vnodes": [
                    {"primary": [0, 0], "replicas": [], "term": 3},
                    {"primary": [0, 1], "replicas": [[0, 0]], "term": 3},
                ],
            })
        );
    }
}
