//! The cluster's status as it is told over HTTP, and read by `quoit cluster`.
//!
//! 64-bit numbers that identify are hexadecimal text, as in `/topology`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::operate::Standing;
use super::ring_log::RingCounters;
use crate::cluster::NodeRef;
use crate::cluster::overview::{NodeOverview, NodeState, Overview};
use crate::config::write_mode_name;
use crate::samples::{Sample, SampleKind};
use crate::time::Instant;

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
    /// What is under way, if anything is.
    pub moving: Option<Moving>,
    /// Its nodes, by name.
    pub nodes: Vec<NodeStatus>,
}

/// How far a cluster is on its way to where everything should lie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Copies to be made and vnodes to be handed over.
    pub steps_left: usize,
    /// Those that were done since this node has looked.
    pub steps_done: usize,
    /// Seconds that the rest takes at the speed so far.
    pub eta_secs: Option<u64>,
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
    pub(super) fn new(now: Instant, cluster: &str, own: &str, standing: &Standing) -> Self {
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
            moving: standing.progress.map(|progress| Moving {
                steps_left: progress.left,
                steps_done: progress.done(),
                eta_secs: progress.rest(now).map(|rest| rest.as_millis().div_ceil(1000)),
            }),
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

/// What `/metrics` shows of the whole cluster, and of what has happened to vnodes that are `own`'s now.
pub(super) fn samples(standing: &Standing, own: &str, counters: &RingCounters) -> Vec<Sample> {
    let overview = Overview::new(&standing.known);
    let name = |node: NodeRef| overview.nodes.iter().find(|it| it.node == node).map(|it| it.name.as_str());
    let leads = standing.leader.and_then(name) == Some(own);
    let epoch = standing.known.ring.as_ref().map_or(0, |ring| ring.epoch);
    let nodes = overview.nodes.iter().filter(|node| node.state != NodeState::Lost).count();
    let gauge = |name, help, value| Sample { name, help, kind: SampleKind::Gauge, label: None, value };
    let counter = |name, help, value: &AtomicU64| {
        let value = value.load(Ordering::Relaxed);
        Sample { name, help, kind: SampleKind::Counter, label: None, value }
    };
    vec![
        gauge("cluster_epoch", "Epoch of the ring that this node knows.", epoch.into()),
        gauge("cluster_nodes", "Nodes that are there.", nodes as u64),
        gauge("cluster_leads", "One while this node leads the cluster.", leads.into()),
        gauge("cluster_in_trouble", "One while something keeps this node from etcd or its place.", {
            standing.trouble.is_some().into()
        }),
        gauge(
            "cluster_vnodes_short_of_copies",
            "Vnodes with fewer copies than there should be.",
            overview.short as u64,
        ),
        gauge("cluster_vnodes_without_primary", "Vnodes whose primary is lost.", overview.leaderless as u64),
        gauge(
            "cluster_steps_left",
            "Copies to be made and vnodes to be handed over until all lies where it should.",
            standing.progress.map_or(0, |progress| progress.left as u64),
        ),
        counter("failovers_total", "Vnodes that this node took over from a lost primary.", &counters.failovers),
        counter("moves_total", "Vnodes that were handed over to this node.", &counters.moves),
        counter("vnodes_lost_total", "Vnodes that began empty here since nobody had them any more.", &counters.lost),
    ]
}
