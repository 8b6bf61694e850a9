//! Floor 4: one core's whole state, and the one dispatch of operations.
//!
//! A shard owns a store, the view of the topology it routes by, and the results that repeats get again. It is
//! synchronous: a request comes in with `now`, its reply is appended to an [`Output`]. It neither reads a clock nor does
//! I/O, so the same type runs in the server and under a simulator. It does not know how many sockets or peers there are.

mod ages;
mod cluster;
#[cfg(test)]
mod cluster_tests;
mod counters;
mod execute;
mod large_set;
mod output;
mod ownership;
mod state;

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;

use quoit_wire::topology::{Topology, key_hash, vnode_of};
use quoit_wire::{Operation, Status};

pub use crate::cluster::retries::{RESULTS_MAX, Recall, RetryTable, SESSION_IDLE_MIN, SESSIONS_MAX, WriteResult};
use ages::Ages;
pub use cluster::Outcome;
pub use counters::RequestCounters;
pub use large_set::LargeSet;
pub use output::{Output, Piece, ReplyLimits};
pub use ownership::TopologyOutcome;
use ownership::{Leaving, Owned};
pub use state::{ShardLoader, ShardSaver};

use crate::samples::{Sample, SampleKind};
use crate::store::{Pin, Progress, Store, StoreError, StoreOptions};
use crate::time::Instant;

/// Who executes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This shard.
    Here,
    /// Another core of this node.
    Core(u16),
    /// Another node: answer `Moved` with this epoch.
    Moved {
        /// The epoch of the topology that says who.
        epoch: u32,
    },
}

/// One core's whole state.
pub struct Shard {
    core: u16,
    /// Index of the own node in `topology`, which may name other nodes alone.
    node: Option<u16>,
    node_id: u64,
    incarnation: u64,
    topology: Arc<Topology>,
    /// The topology as a reply's body, once somebody has asked for it.
    topology_body: OnceCell<Vec<u8>>,
    /// Since when each part of it is as it is.
    ages: Ages,
    /// The vnodes that `topology` gives this shard.
    owned: Owned,
    store: Store,
    /// Vnodes that have left and whose items are still being dropped.
    leaving: VecDeque<Leaving>,
    retries: RetryTable,
    counters: RequestCounters,
    /// Of a node without a cluster: none.
    cluster: Option<Box<cluster::Cluster>>,
}

impl Shard {
    /// A shard for `core` of the node at index `node`, owning the vnodes that `topology` gives it. Later topologies find
    /// the node by its id and incarnation.
    pub fn new(core: u16, node: u16, topology: Arc<Topology>, options: StoreOptions) -> Result<Self, StoreError> {
        let mut store = Store::new(options)?;
        let mut owned = Owned::none(topology.vnodes.len());
        for (vnode, placement) in topology.vnodes.iter().enumerate() {
            if placement.primary.node == node && placement.primary.core == core {
                store.add_vnode(vnode, placement.term);
                owned.set(vnode, true);
            }
        }
        let own = &topology.nodes[usize::from(node)];
        Ok(Self {
            core,
            node: Some(node),
            node_id: own.id,
            incarnation: own.incarnation,
            ages: Ages::new(&topology),
            topology,
            topology_body: OnceCell::new(),
            owned,
            store,
            leaving: VecDeque::new(),
            retries: RetryTable::default(),
            counters: RequestCounters::default(),
            cluster: None,
        })
    }

    /// Makes the memory resident that the first items will lie in.
    pub fn populate(&mut self) {
        self.store.populate();
    }

    /// Makes all memory for items resident.
    pub fn prefault(&mut self) -> Result<(), StoreError> {
        self.store.prefault()
    }

    /// The key's place in the hash space.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        key_hash(self.topology.seed, key)
    }

    /// Who executes a request for the key with this hash.
    #[inline]
    pub fn route(&self, hash: u64) -> Route {
        let vnode = vnode_of(hash, self.topology.vnode_bits);
        if self.owned.has(vnode) {
            return Route::Here;
        }
        let seat = self.topology.vnodes[vnode].primary;
        if self.node == Some(seat.node) { Route::Core(seat.core) } else { Route::Moved { epoch: self.topology.epoch } }
    }

    /// The topology this shard routes by.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// See [`Store::prefetch`]; in a cluster what the copies will be asked for is fetched as well.
    #[inline]
    pub fn prefetch(&self, hashes: impl Iterator<Item = u64> + Clone) {
        self.prefetch_copies(hashes.clone());
        self.store.prefetch(hashes);
    }

    /// Background work: at most `steps` short steps of expiry, reclaiming, compaction and index growth.
    pub fn work(&mut self, now: Instant, steps: usize) -> Progress {
        let is_dropping = self.drop_left(steps);
        match self.store.work(now, steps) {
            Progress::Idle if is_dropping => Progress::More,
            progress => progress,
        }
    }

    /// Gives back what an output held in place.
    pub fn unpin(&mut self, pins: &mut Vec<Pin>) {
        pins.drain(..).for_each(|pin| self.store.unpin(pin));
    }

    /// Counts a request that was answered before it reached a shard's dispatch.
    pub fn count(&mut self, operation: Operation, status: Status) {
        self.counters.count(operation, status);
    }

    /// Requests by operation and status.
    pub fn requests(&self) -> Vec<(Operation, Status, u64)> {
        self.counters.list()
    }

    /// The shard's counters and its store's.
    pub fn samples(&self, out: &mut Vec<Sample>) {
        self.store.samples(out);
        out.push(Sample {
            name: "retry_results",
            help: "Results of non-idempotent writes kept for repeats.",
            kind: SampleKind::Gauge,
            label: None,
            value: self.retries.len() as u64,
        });
        self.ownership_samples(out);
        self.cluster_samples(out);
    }
}
