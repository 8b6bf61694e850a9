//! Which vnodes the shard owns: it follows the topology, takes in what comes and lets go of what leaves.
//!
//! A new topology takes effect at once for routing. What has left is out of reach from then on, and its items are dropped
//! a little at a time in the background. A vnode that comes, or comes back, starts empty under its term.

use std::sync::Arc;

use quoit_wire::topology::Topology;
use quoit_wire::{Reply, RequestHead, Status, Version};

use super::{Output, Shard};
use crate::samples::{Sample, SampleKind};

/// A vnode that has left, and the first page of its index that is not dropped yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    vnode: usize,
    page: usize,
}

/// One bit per vnode: whether the shard owns it. The topology says so too, but its table is some hundred times as large,
/// and every request asks.
#[derive(Debug)]
pub(super) struct Owned {
    bits: Box<[u64]>,
}

impl Owned {
    /// None of so many vnodes.
    pub(super) fn none(vnodes: usize) -> Self {
        Self { bits: vec![0; vnodes.div_ceil(64)].into_boxed_slice() }
    }

    /// From now on the shard owns `vnode`, or does not.
    pub(super) fn set(&mut self, vnode: usize, is_owned: bool) {
        let mask = 1 << (vnode % 64);
        let bits = &mut self.bits[vnode / 64];
        *bits = if is_owned { *bits | mask } else { *bits & !mask };
    }

    /// Whether the shard owns `vnode`.
    #[inline]
    pub(super) fn has(&self, vnode: usize) -> bool {
        self.bits[vnode / 64] >> (vnode % 64) & 1 == 1
    }
}

/// Dropping a page of the index takes as long as so many steps of the store's background work.
const STEPS_PER_PAGE: usize = 16;

/// What became of a topology that a shard was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyOutcome {
    /// The shard routes by it.
    Taken,
    /// The shard knows this one or a newer one.
    Stale,
    /// It hashes keys differently: it is another cluster's.
    Foreign,
}

impl Shard {
    /// Routes by `topology` from now on. Cost: O(vnodes), and the dropping of a vnode that comes back before its items
    /// of last time are gone.
    pub fn set_topology(&mut self, topology: Arc<Topology>) -> TopologyOutcome {
        if (topology.seed, topology.vnode_bits) != (self.topology.seed, self.topology.vnode_bits) {
            return TopologyOutcome::Foreign;
        }
        if topology.epoch <= self.topology.epoch {
            return TopologyOutcome::Stale;
        }
        let node =
            topology.nodes.iter().position(|node| (node.id, node.incarnation) == (self.node_id, self.incarnation));
        // A checked topology has at most 1,024 nodes.
        let node = node.map(|node| node as u16);
        for vnode in 0..topology.vnodes.len() {
            let (before, after) = (self.term(&self.topology, self.node, vnode), self.term(&topology, node, vnode));
            if before == after {
                continue;
            }
            self.owned.set(vnode, after.is_some());
            if before.is_some() {
                self.store.disown_vnode(vnode);
                self.leaving.push_back(Leaving { vnode, page: 0 });
            }
            if let Some(term) = after {
                self.finish_dropping(vnode);
                self.store.add_vnode(vnode, term);
            }
        }
        self.node = node;
        self.replace_topology(topology);
        TopologyOutcome::Taken
    }

    /// From now on this is the topology that clients are told.
    pub(super) fn replace_topology(&mut self, topology: Arc<Topology>) {
        self.ages.follow(&self.topology, &topology);
        self.topology = topology;
        self.topology_body.take();
    }

    /// The topology as a reply's body.
    pub(super) fn topology_body(&self) -> &[u8] {
        self.topology_body.get_or_init(|| self.topology.to_bytes())
    }

    /// Tells what has changed since the topology of `known_epoch`: nothing, changes, or a miss, after which the whole is to
    /// be asked for.
    pub(super) fn tell_changes(&self, id: u32, known_epoch: u32, output: &mut Output) -> Status {
        let epoch = self.topology.epoch;
        let reply = Reply { version: Version::from_u64(u64::from(epoch)), ..Reply::status(id, Status::Ok) };
        if known_epoch >= epoch {
            output.reply(&reply);
            return Status::Ok;
        }
        match self.ages.changes(&self.topology, known_epoch) {
            Some(body) => {
                output.reply(&Reply { value: &body, ..reply });
                Status::Ok
            }
            None => {
                output.reply(&Reply { status: Status::Miss, ..reply });
                Status::Miss
            }
        }
    }

    /// Answers a request for a key whose vnode this shard does not own, or not any more.
    pub fn answer_moved(&mut self, head: &RequestHead, output: &mut Output) {
        output.written(head.id, Status::Moved, Version::from_u64(u64::from(self.topology.epoch)));
        self.counters.count(head.operation, Status::Moved);
    }

    /// Drops items of vnodes that have left, as much as goes into `steps` short steps; whether there are more.
    pub(super) fn drop_left(&mut self, steps: usize) -> bool {
        for _ in 0..steps.div_ceil(STEPS_PER_PAGE) {
            let Some(Leaving { vnode, page }) = self.leaving.front_mut() else { return false };
            if self.store.drop_page(*vnode, *page) {
                *page += 1;
            } else {
                self.leaving.pop_front();
            }
        }
        !self.leaving.is_empty()
    }

    /// How many vnodes the shard owns and still drops.
    pub(super) fn ownership_samples(&self, out: &mut Vec<Sample>) {
        let mut gauge = |name, help, value: u64| {
            out.push(Sample { name, help, kind: SampleKind::Gauge, label: None, value });
        };
        let vnodes = 0..self.topology.vnodes.len();
        let owned = vnodes.filter(|vnode| self.term(&self.topology, self.node, *vnode).is_some()).count();
        gauge("topology_epoch", "Epoch of the topology that the core routes by.", u64::from(self.topology.epoch));
        gauge("vnodes", "Vnodes that the core owns.", owned as u64);
        gauge("vnodes_leaving", "Vnodes that have left the core and are being dropped.", self.leaving.len() as u64);
    }

    /// The term under which `topology` gives `vnode` to this core, if it does; `node` is the own node's index there.
    pub(super) fn term(&self, topology: &Topology, node: Option<u16>, vnode: usize) -> Option<u32> {
        let placement = &topology.vnodes[vnode];
        let is_own = node == Some(placement.primary.node) && placement.primary.core == self.core;
        is_own.then_some(placement.term)
    }

    fn finish_dropping(&mut self, vnode: usize) {
        let Some(place) = self.leaving.iter().position(|leaving| leaving.vnode == vnode) else { return };
        let Some(Leaving { page, .. }) = self.leaving.remove(place) else { return };
        (page..).take_while(|page| self.store.drop_page(vnode, *page)).for_each(drop);
    }
}
