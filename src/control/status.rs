//! The cluster's status as it is told over HTTP, and read by `quoit cluster`.
//!
//! 64-bit numbers that identify are hexadecimal text, as in `/topology`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::operate::{Progress, Standing};
use super::ring_log::RingCounters;
use crate::cluster::NodeRef;
use crate::cluster::load::{Lag, Load};
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
    /// Bytes that are still to be streamed for them, by the average of all vnodes.
    pub bytes_left: u64,
    /// Bytes that are streamed in a second, of late.
    pub bytes_per_sec: u64,
    /// Seconds that the rest takes at the speed so far: that of the copies, the handovers or the bytes, whichever takes
    /// longest. None before there is a speed.
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
    /// Writes that its copies have not acknowledged to their primaries.
    pub lag_writes: u64,
    /// Bytes of the records of these.
    pub lag_bytes: u64,
    /// It is there and has not answered: what it alone knows, how far copies lag behind it, is not in the figures.
    pub silent: bool,
}

impl ClusterStatus {
    /// What `own` knows.
    pub(super) fn new(now: Instant, cluster: &str, own: &str, standing: &Standing) -> Self {
        let overview = Overview::new(&standing.known);
        let name = |node: NodeRef| overview.nodes.iter().find(|it| it.node == node).map(|it| it.name.clone());
        let ring = standing.known.ring.as_deref();
        let load = standing.gathered.sum();
        let node = |node: &NodeOverview| {
            let lag = load.lags.get(&node.node).copied().unwrap_or_default();
            NodeStatus::new(node, lag, standing.gathered.silent.contains(&node.node))
        };
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
            moving: standing.progress.map(|progress| Moving::new(now, &progress, &load)),
            nodes: overview.nodes.iter().map(node).collect(),
        }
    }

    /// The node of this name that lives, or the last one that did.
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        let own = |node: &&NodeStatus| node.name == name;
        let lost = NodeState::Lost.name();
        self.nodes.iter().filter(own).find(|node| node.state != lost).or_else(|| self.nodes.iter().find(own))
    }
}

impl Moving {
    fn new(now: Instant, progress: &Progress, load: &Load) -> Self {
        let unbegun_bytes = load.vnode_bytes().saturating_mul(progress.left.copies_to_begin as u64);
        let bytes_left = load.unstreamed_bytes.saturating_add(unbegun_bytes);
        let bytes_per_sec = load.streamed_bytes_per_sec;
        let by_steps = progress.rest(now).map(|rest| rest.as_millis().div_ceil(1000));
        let by_bytes = (bytes_per_sec > 0).then(|| bytes_left.div_ceil(bytes_per_sec));
        Self {
            steps_left: progress.left.total(),
            steps_done: progress.done(),
            bytes_left,
            bytes_per_sec,
            eta_secs: by_steps.map(|secs| secs.max(by_bytes.unwrap_or(0))),
        }
    }
}

impl NodeStatus {
    fn new(node: &NodeOverview, lag: Lag, silent: bool) -> Self {
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
            lag_writes: lag.writes,
            lag_bytes: lag.bytes,
            silent,
        }
    }
}

/// What `/metrics` shows of the whole cluster, and of what has happened to vnodes that are `own`'s now.
pub(super) fn samples(now: Instant, standing: &Standing, own: &str, counters: &RingCounters) -> Vec<Sample> {
    let overview = Overview::new(&standing.known);
    let name = |node: NodeRef| overview.nodes.iter().find(|it| it.node == node).map(|it| it.name.as_str());
    let leads = standing.leader.and_then(name) == Some(own);
    let epoch = standing.known.ring.as_ref().map_or(0, |ring| ring.epoch);
    let nodes = overview.nodes.iter().filter(|node| node.state != NodeState::Lost).count();
    let load = standing.gathered.sum();
    let own_lags = overview.nodes.iter().filter(|node| node.name == own).filter_map(|node| load.lags.get(&node.node));
    let own_lag = own_lags.fold(Lag::default(), |mut sum, lag| {
        sum.add(*lag);
        sum
    });
    let moving = standing.progress.map(|progress| Moving::new(now, &progress, &load));
    // While something is left, and it is not known how long it takes, there is no such figure.
    let eta_secs = moving.as_ref().map_or(Some(0), |moving| moving.eta_secs);
    let moving = moving.unwrap_or_default();
    let gauge = |name, help, value| Sample { name, help, kind: SampleKind::Gauge, label: None, value };
    let counter = |name, help, value: &AtomicU64| {
        let value = value.load(Ordering::Relaxed);
        Sample { name, help, kind: SampleKind::Counter, label: None, value }
    };
    let eta = eta_secs.map(|secs| {
        gauge(
            "cluster_eta_seconds",
            "Seconds that this takes at the speed so far; absent while that is not known.",
            secs,
        )
    });
    let samples = [
        answers(true),
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
            moving.steps_left as u64,
        ),
        gauge("cluster_bytes_left", "Bytes to be streamed for them, by the average of all vnodes.", moving.bytes_left),
        gauge(
            "cluster_own_lag_writes",
            "Writes that this node's copies have not acknowledged to their primaries.",
            own_lag.writes,
        ),
        gauge("cluster_own_lag_bytes", "Bytes of the records of these.", own_lag.bytes),
        gauge(
            "cluster_nodes_silent",
            "Nodes that are there and have not told this one how they are loaded.",
            standing.gathered.silent.len() as u64,
        ),
        counter("failovers_total", "Vnodes that this node took over from a lost primary.", &counters.failovers),
        counter("moves_total", "Vnodes that were handed over to this node.", &counters.moves),
        counter("vnodes_lost_total", "Vnodes that began empty here since nobody had them any more.", &counters.lost),
    ];
    samples.into_iter().chain(eta).collect()
}

/// What `/metrics` shows while the task that keeps the node in its cluster does not answer: that the others are missing.
pub(super) fn no_answer() -> Vec<Sample> {
    vec![answers(false)]
}

fn answers(value: bool) -> Sample {
    let (name, help) =
        ("cluster_answers", "One while the node can say how its cluster stands; at zero those figures are missing.");
    Sample { name, help, kind: SampleKind::Gauge, label: None, value: value.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::leader::StepsLeft;

    #[test]
    fn what_is_left_takes_as_long_as_its_steps_or_its_bytes_whichever_is_more() {
        let at = |secs: u64| Instant::from_millis(secs * 1000);
        let left = |handovers, copies_to_begin| StepsLeft { handovers, copies_begun: 2, copies_to_begin };
        let begun = Progress::after(None, at(0), left(20, 12));
        let progress = Progress::after(begun, at(10), left(10, 8)).expect("it goes on");
        // Eight vnodes of 1 MB each are to be begun, and half a vnode is left of what was.
        let load = |streamed_bytes_per_sec| Load {
            held_vnodes: 4,
            held_bytes: 4_000_000,
            unstreamed_bytes: 500_000,
            streamed_bytes_per_sec,
            ..Load::default()
        };
        let moving = |rate| Moving::new(at(10), &progress, &load(rate));
        let quick = moving(100_000_000);
        assert_eq!((quick.steps_left, quick.steps_done, quick.bytes_left), (20, 14, 8_500_000));
        assert_eq!(quick.eta_secs, Some(25), "four copies took ten seconds, and ten are left");
        assert_eq!(moving(100_000).eta_secs, Some(85), "the bytes take longer");
        assert_eq!(moving(0).eta_secs, Some(25), "nothing is streamed just now");
        assert_eq!(Moving::new(at(0), &begun.expect("begun"), &load(100)).eta_secs, None, "there is more than bytes");
    }
}
