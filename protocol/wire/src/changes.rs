//! What has changed between two topologies: some hundred bytes where the whole of one takes 82 KB.
//!
//! A reader has the topology of one epoch and makes that of a later one out of it. Whether it had the same one as the
//! writer, a checksum over the result says: what does not fit is not used, and the whole topology is asked for.
//!
//! ```text
//! TopologyChanges  0            4       8          16      24       32    VnodeChange  0       2           22
//!                  ┌────────────┬───────┬──────────┬───────┬────────┐                  ┌───────┬───────────┐
//!                  │ from_epoch │ epoch │ checksum │ nodes │ vnodes │                  │ vnode │ placement │
//!                  │ u32        │ u32   │ u64      │ array │ array  │                  │ u16   │ Placement │
//!                  └────────────┴───────┴──────────┴───────┴────────┘                  └───────┴───────────┘
//! ```

use rkyv::{Archive, Deserialize, Serialize, rancor};
use xxhash_rust::xxh3::Xxh3;

use crate::topology::{Node, Placement, Seat, Topology, TopologyError};

/// A vnode that lives elsewhere than before, or under another term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct VnodeChange {
    /// Which.
    pub vnode: u16,
    /// Where it lives now.
    pub placement: Placement,
}

/// What makes one topology of another.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TopologyChanges {
    /// The epoch of the topology that they are for.
    pub from_epoch: u32,
    /// The epoch of the topology that they make.
    pub epoch: u32,
    /// [`Topology::checksum`] of that.
    pub checksum: u64,
    /// All its nodes, if any of them has changed, has come or has gone; none if they are as before.
    pub nodes: Vec<Node>,
    /// The vnodes that have changed, each once.
    pub vnodes: Vec<VnodeChange>,
}

/// Bytes of a placement on its way.
const PLACEMENT_BYTES: usize = 20;

const _: () = assert!(size_of::<ArchivedTopologyChanges>() == 32 && align_of::<ArchivedTopologyChanges>() == 1);
const _: () = assert!(
    size_of::<ArchivedVnodeChange>() == size_of::<u16>() + PLACEMENT_BYTES && align_of::<ArchivedVnodeChange>() == 1
);

/// Why changes make no topology of the one they were applied to. The whole topology is to be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangesError {
    /// rkyv's check failed.
    #[error("not changes of a topology: the bytes don't hold together")]
    Bytes,
    /// They are for another topology than the one that is there.
    #[error("changes from epoch {from} to {to} for a topology of epoch {known}")]
    Epoch {
        /// The epoch that they begin with.
        from: u32,
        /// The epoch that they lead to.
        to: u32,
        /// The epoch of the topology that is there.
        known: u32,
    },
    /// They name a vnode that there is not.
    #[error("a change of vnode {0}, which there is not")]
    Vnode(u16),
    /// What they make contradicts itself.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// What they make is not what their writer has.
    #[error("changes that were made for another topology of the same epoch")]
    Checksum,
}

impl TopologyChanges {
    /// Those from the topology of `from_epoch` to `to`: `vnodes` have changed in between, and the nodes if `has_new_nodes`.
    pub fn new(
        from_epoch: u32,
        to: &Topology,
        checksum: u64,
        has_new_nodes: bool,
        vnodes: impl Iterator<Item = u16>,
    ) -> Self {
        let nodes = if has_new_nodes { to.nodes.clone() } else { Vec::new() };
        let change = |vnode| VnodeChange { vnode, placement: to.vnodes[usize::from(vnode)] };
        Self { from_epoch, epoch: to.epoch, checksum, nodes, vnodes: vnodes.map(change).collect() }
    }

    /// The changes as a reply's body.
    pub fn to_bytes(&self) -> Vec<u8> {
        rkyv::to_bytes::<rancor::Error>(self).map(|bytes| bytes.to_vec()).unwrap_or_default()
    }

    /// Reads changes that came from outside. Whether they fit, [`Self::apply`] says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ChangesError> {
        rkyv::from_bytes::<Self, rancor::Failure>(bytes).map_err(|_| ChangesError::Bytes)
    }

    /// The topology that they make of `known`, checked as one that came whole. Cost: that of a copy and a hash of it.
    pub fn apply(self, known: &Topology) -> Result<Topology, ChangesError> {
        if self.from_epoch != known.epoch || self.epoch <= known.epoch {
            return Err(ChangesError::Epoch { from: self.from_epoch, to: self.epoch, known: known.epoch });
        }
        let nodes = if self.nodes.is_empty() { known.nodes.clone() } else { self.nodes };
        let Topology { vnode_bits, seed, ref cluster, ref vnodes, .. } = *known;
        let mut next =
            Topology { epoch: self.epoch, vnode_bits, seed, cluster: cluster.clone(), nodes, vnodes: vnodes.clone() };
        for change in &self.vnodes {
            let place = next.vnodes.get_mut(usize::from(change.vnode)).ok_or(ChangesError::Vnode(change.vnode))?;
            *place = change.placement;
        }
        next.check()?;
        if next.checksum() != self.checksum {
            return Err(ChangesError::Checksum);
        }
        Ok(next)
    }
}

impl Topology {
    /// `xxh3_64`, the epoch as its seed, of each node's id and incarnation and of each placement, as they travel.
    pub fn checksum(&self) -> u64 {
        let mut hash = Xxh3::with_seed(u64::from(self.epoch));
        for node in &self.nodes {
            hash.update(&node.id.to_le_bytes());
            hash.update(&node.incarnation.to_le_bytes());
        }
        for Placement { primary, replicas, term } in &self.vnodes {
            let mut bytes = [0; PLACEMENT_BYTES];
            let seats = std::iter::once(primary).chain(replicas);
            for (Seat { node, core }, place) in seats.zip(bytes.chunks_exact_mut(size_of::<u32>())) {
                place[..2].copy_from_slice(&node.to_le_bytes());
                place[2..].copy_from_slice(&core.to_le_bytes());
            }
            bytes[PLACEMENT_BYTES - size_of::<u32>()..].copy_from_slice(&term.to_le_bytes());
            hash.update(&bytes);
        }
        hash.digest()
    }
}
