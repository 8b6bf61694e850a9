//! The topology: which core of which node owns which vnode. Clients and servers share this one implementation.
//!
//! A key's hash is `xxh3_64(key, seed)`, its vnode the hash's top bits. The number of vnodes is fixed for a cluster's
//! life; the assignment of vnodes to cores is explicit, so loads differ by at most one vnode per unit of weight and a
//! node that comes or goes moves its own share and nothing else.
//!
//! ```text
//! Topology   0       4            5      13        21      29       37     Seat  0      2      4
//!            ┌───────┬────────────┬──────┬─────────┬───────┬────────┐            ┌──────┬──────┐
//!            │ epoch │ vnode_bits │ seed │ cluster │ nodes │ vnodes │            │ node │ core │
//!            │ u32   │ u8         │ u64  │ string  │ array │ array  │            │ u16  │ u16  │
//!            └───────┴────────────┴──────┴─────────┴───────┴────────┘            └──────┴──────┘
//! Node       0     8             16       24        32       40      42       44
//!            ┌─────┬─────────────┬────────┬─────────┬────────┬───────┬────────┐
//!            │ id  │ incarnation │ name   │ address │ zone   │ cores │ weight │
//!            │ u64 │ u64         │ string │ string  │ string │ u16   │ u16    │
//!            └─────┴─────────────┴────────┴─────────┴────────┴───────┴────────┘
//! Placement  0         4           8           12          16     20
//!            ┌─────────┬───────────┬───────────┬───────────┬──────┐
//!            │ primary │ replica 0 │ replica 1 │ replica 2 │ term │
//!            │ Seat    │ Seat      │ Seat      │ Seat      │ u32  │
//!            └─────────┴───────────┴───────────┴───────────┴──────┘
//! ```
//! Strings and arrays are rkyv's relative pointers of 8 bytes each, drawn in `protocol/README.md`; the root (`Topology`)
//! ends the body.

use rkyv::{Archive, Deserialize, Serialize, rancor};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bits of the vnode number: at least one vnode, at most 65,536.
pub const VNODE_BITS_MAX: u8 = 16;
/// 4096 vnodes: 40 and more on each node of a hundred.
pub const VNODE_BITS_DEFAULT: u8 = 12;
/// Copies beside the primary.
pub const REPLICAS_MAX: usize = 3;
/// Nodes of a cluster.
pub const NODES_MAX: usize = 1024;
/// Cores of a node.
pub const CORES_MAX: usize = 1024;

/// A key's place in the hash space of the cluster with this `seed`.
#[inline]
pub fn key_hash(seed: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed)
}

/// The vnode of a hash in a cluster of `2^vnode_bits` vnodes.
#[inline]
pub const fn vnode_of(hash: u64, vnode_bits: u8) -> usize {
    // Two shifts: a shift by 64 (no vnode bits) is not a shift.
    ((hash >> 1) >> (63 - vnode_bits as u32)) as usize
}

/// One core of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct Seat {
    /// Index into the topology's nodes; [`Seat::NOWHERE`]'s for none.
    pub node: u16,
    /// The core within the node.
    pub core: u16,
}

impl Seat {
    /// No core: an unused replica place.
    pub const NOWHERE: Self = Self { node: u16::MAX, core: u16::MAX };
}

/// Where one vnode lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Placement {
    /// The core that serves it.
    pub primary: Seat,
    /// The cores that keep copies; unused places are [`Seat::NOWHERE`].
    pub replicas: [Seat; REPLICAS_MAX],
    /// Rises when the primary changes; the upper part of every version.
    pub term: u32,
}

impl Placement {
    /// A vnode that nobody holds: what a new cluster starts from.
    pub const NOWHERE: Self = Self { primary: Seat::NOWHERE, replicas: [Seat::NOWHERE; REPLICAS_MAX], term: 0 };

    /// The seats that are taken, the primary's first.
    pub fn seats(&self) -> impl Iterator<Item = Seat> + '_ {
        std::iter::once(self.primary).chain(self.replicas).filter(|seat| *seat != Seat::NOWHERE)
    }
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Node {
    /// Chosen by the operator, or drawn at random by a standalone node.
    pub id: u64,
    /// Which life of the node this is.
    pub incarnation: u64,
    /// What operators call it; empty for a standalone node.
    pub name: String,
    /// `host:port` that clients connect to.
    pub address: String,
    /// Where copies should not share fate; may be empty.
    pub zone: String,
    /// Cores that own vnodes.
    pub cores: u16,
    /// Share of the vnodes relative to other nodes.
    pub weight: u16,
}

/// Which core of which node owns which vnode.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Topology {
    /// Rises with every change. Never zero.
    pub epoch: u32,
    /// `2^vnode_bits` vnodes.
    pub vnode_bits: u8,
    /// Seed of the key hash, drawn when the cluster was created.
    pub seed: u64,
    /// The cluster's name; empty for a standalone node.
    pub cluster: String,
    /// The nodes; [`Seat::node`] points here.
    pub nodes: Vec<Node>,
    /// One placement per vnode.
    pub vnodes: Vec<Placement>,
}

const _: () = assert!(size_of::<ArchivedTopology>() == 37 && align_of::<ArchivedTopology>() == 1);
const _: () = assert!(size_of::<ArchivedNode>() == 44 && align_of::<ArchivedNode>() == 1);
const _: () = assert!(size_of::<ArchivedPlacement>() == 20 && align_of::<ArchivedPlacement>() == 1);

/// Why bytes or a structure are not a topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// rkyv's check failed.
    #[error("not a topology: the bytes don't hold together")]
    Bytes,
    /// A field contradicts another or a limit.
    #[error("not a topology: {0}")]
    Field(&'static str),
}

impl Topology {
    /// The topology of one node without a cluster: its cores own equal numbers of vnodes, under a random `term`.
    pub fn standalone(node: Node, vnode_bits: u8, seed: u64, term: u32) -> Self {
        let cores = usize::from(node.cores);
        let vnodes = (0..1usize << vnode_bits)
            .map(|vnode| Placement {
                // Neighbouring vnodes lie on different cores, so each core's share spans the hash space.
                primary: Seat { node: 0, core: (vnode % cores) as u16 },
                replicas: [Seat::NOWHERE; REPLICAS_MAX],
                term,
            })
            .collect();
        Self { epoch: 1, vnode_bits, seed, cluster: String::new(), nodes: vec![node], vnodes }
    }

    /// What a node of a cluster serves before it has heard who owns what: nobody owns anything, under epoch 0. It never
    /// leaves the node.
    pub fn unassigned(node: Node, vnode_bits: u8, seed: u64, cluster: String) -> Self {
        Self {
            epoch: 0,
            vnode_bits,
            seed,
            cluster,
            nodes: vec![node],
            vnodes: vec![Placement::NOWHERE; 1 << vnode_bits],
        }
    }

    /// The vnode of `key`.
    #[inline]
    pub fn vnode(&self, key: &[u8]) -> usize {
        vnode_of(key_hash(self.seed, key), self.vnode_bits)
    }

    /// The core that serves `key`.
    #[inline]
    pub fn owner(&self, key: &[u8]) -> Seat {
        self.vnodes[self.vnode(key)].primary
    }

    /// The topology as a reply's body.
    pub fn to_bytes(&self) -> Vec<u8> {
        rkyv::to_bytes::<rancor::Error>(self).map(|bytes| bytes.to_vec()).unwrap_or_default()
    }

    /// Reads and checks a topology that came from outside.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TopologyError> {
        let topology = rkyv::from_bytes::<Self, rancor::Failure>(bytes).map_err(|_| TopologyError::Bytes)?;
        topology.check()?;
        Ok(topology)
    }

    /// Checks what [`Self::owner`] and the routers rely on: every seat names a core that exists.
    pub fn check(&self) -> Result<(), TopologyError> {
        let ensure = |holds: bool, what| if holds { Ok(()) } else { Err(TopologyError::Field(what)) };
        ensure(self.epoch != 0, "epoch 0")?;
        ensure(self.vnode_bits <= VNODE_BITS_MAX, "more than 65,536 vnodes")?;
        ensure(self.vnodes.len() == 1 << self.vnode_bits, "the number of placements is not the number of vnodes")?;
        ensure((1..=NODES_MAX).contains(&self.nodes.len()), "no node, or more than 1,024")?;
        for node in &self.nodes {
            ensure((1..=CORES_MAX).contains(&usize::from(node.cores)), "a node with no core, or more than 1,024")?;
        }
        let exists = |seat: Seat| self.nodes.get(usize::from(seat.node)).is_some_and(|node| seat.core < node.cores);
        for placement in &self.vnodes {
            ensure(exists(placement.primary), "a vnode whose primary is no core of a node")?;
            ensure(placement.term <= crate::Version::TERM_MAX, "a term over 24 bits")?;
            for replica in placement.replicas {
                ensure(replica == Seat::NOWHERE || exists(replica), "a replica that is no core of a node")?;
            }
        }
        Ok(())
    }
}
