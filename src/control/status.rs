//! The cluster's status as it is told over HTTP, and read by `quoit cluster`.
//!
//! 64-bit numbers that identify are hexadecimal text, as in `/topology`.

use serde::{Deserialize, Serialize};

use super::operate::Standing;
use crate::cluster::NodeRef;
use crate::cluster::overview::{NodeOverview, NodeState, Overview};
use crate::config::write_mode_name;

/// How a cluster stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: String,
    /// Rises with every change of the ring; 0 before the cluster is founded.
    pub epoch: u32,
    /// How many vnodes it has.
    pub vnodes: usize,
    /// Copies wanted beside each primary.
    pub replicas: u8,
    /// What a write waits for that does not say.
    pub write: String,
    /// Who leads the cluster.
    pub leader: Option<String>,
    /// Whose view this is.
    pub asked: String,
    /// What keeps that node from knowing better.
    pub trouble: Option<String>,
    /// Vnodes with fewer copies that count than there should be.
    pub vnodes_short_of_copies: usize,
    /// Vnodes whose primary is lost and not replaced yet.
    pub vnodes_without_primary: usize,
    /// Its nodes, by name.
    pub nodes: Vec<NodeStatus>,
}

/// How one life of a node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// What stands for the name on the wire.
    pub id: String,
    /// Which of its lives.
    pub incarnation: String,
    /// `host:port` for clients.
    pub address: String,
    /// Where copies should not share fate; may be empty.
    pub zone: String,
    /// Cores that can own vnodes.
    pub cores: u16,
    /// Its share of the vnodes relative to other nodes.
    pub weight: u16,
    /// `--memory`.
    pub memory_bytes: Option<u64>,
    /// `joining`, `serving`, `draining`, `drained` or `lost`.
    pub state: String,
    /// Vnodes whose primary it is.
    pub leads: usize,
    /// Vnodes that it keeps a copy of that counts.
    pub in_sync: usize,
    /// Vnodes that it is being given a copy of.
    pub catching_up: usize,
}

impl ClusterStatus {
    /// What `own` knows.
    pub(super) fn new(cluster: &str, own: &str, standing: &Standing) -> Self {
        let overview = Overview::new(&standing.known);
        let name = |node: NodeRef| overview.nodes.iter().find(|it| it.node == node).map(|it| it.name.clone());
        let ring = standing.known.ring.as_deref();
        Self {
            cluster: cluster.to_owned(),
            epoch: ring.map_or(0, |ring| ring.epoch),
            vnodes: ring.map_or(0, |ring| ring.vnodes.len()),
            replicas: ring.map_or(0, |ring| ring.replicas),
            write: ring.map_or("", |ring| write_mode_name(ring.write_mode)).to_owned(),
            leader: standing.leader.and_then(name),
            asked: own.to_owned(),
            trouble: standing.trouble.clone(),
            vnodes_short_of_copies: overview.short,
            vnodes_without_primary: overview.leaderless,
            nodes: overview.nodes.iter().map(NodeStatus::new).collect(),
        }
    }

    /// The node of this name that lives, or the last one that did.
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        let own = |node: &&NodeStatus| node.name == name;
        let lost = NodeState::Lost.name();
        self.nodes.iter().filter(own).find(|node| node.state != lost).or_else(|| self.nodes.iter().find(own))
    }
}

impl NodeStatus {
    fn new(node: &NodeOverview) -> Self {
        Self {
            name: node.name.clone(),
            id: format!("{:016x}", node.node.id),
            incarnation: format!("{:016x}", node.node.incarnation),
            address: node.address.clone(),
            zone: node.zone.clone(),
            cores: node.cores,
            weight: node.weight,
            memory_bytes: node.memory_bytes,
            state: node.state.name().to_owned(),
            leads: node.led,
            in_sync: node.in_sync,
            catching_up: node.catching_up,
        }
    }
}
