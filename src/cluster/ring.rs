//! The ring: what the cluster keeps in etcd, and what every node acts on.
//!
//! It names, for each vnode, the term, the primary's seat, and the seats of the copies with their state. A seat is a slot
//! (one life of one node) and a core. Slots stay where they are while anything refers to them, so a change of one vnode is a
//! change of that vnode's record alone. Clients see less: [`Ring::to_topology`].

use quoit_wire::topology::{
    CORES_MAX, NODES_MAX, Node, Placement, REPLICAS_MAX, Seat, Topology, VNODE_BITS_MAX, key_hash,
};
use quoit_wire::{Version, WriteMode};

/// Copies of a vnode beside its primary: the replicas, and one more while a vnode moves.
pub const COPIES_MAX: usize = REPLICAS_MAX + 1;
/// Bytes of a name, a zone, an address.
pub const NAME_BYTES_MAX: usize = 255;

/// One life of one node. Roles name lives (C1): a node that restarts is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRef {
    /// Chosen by the operator.
    pub id: u64,
    /// Drawn at each start of the process.
    pub incarnation: u64,
}

/// What a node says of itself, under its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Who it is.
    pub node: NodeRef,
    /// Its name, for people: `--node-id`.
    pub name: String,
    /// `host:port`, for clients and peers.
    pub address: String,
    /// Where copies should not share fate; may be empty.
    pub zone: String,
    /// Cores that can own vnodes.
    pub cores: u16,
    /// Share of the vnodes relative to other nodes, unless an operator asked for another one.
    pub weight: u16,
    /// `--memory`.
    pub memory_bytes: u64,
    /// It is about to end: it gives everything away and takes nothing.
    pub leaving: bool,
}

/// A node that has a slot in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which life of which node.
    pub node: NodeRef,
    /// Its name, for people: `--node-id`.
    pub name: String,
    /// `host:port`, for clients and peers.
    pub address: String,
    /// Where copies should not share fate; may be empty.
    pub zone: String,
    /// Cores that can own vnodes.
    pub cores: u16,
    /// Share of the vnodes relative to other nodes.
    pub weight: u16,
    /// It gives everything away and takes nothing.
    pub draining: bool,
}

/// Whether a copy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyState {
    /// It has everything that was acknowledged: it counts for `one` and `all`, and may become the primary.
    InSync,
    /// It is being streamed the vnode: it counts for nothing (C3).
    CatchingUp,
}

/// A copy of a vnode, beside its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopySeat {
    /// Where it lies.
    pub seat: Seat,
    /// Whether it counts.
    pub state: CopyState,
    /// It was among the last copies that counted, and since then none does: the primary alone can't acknowledge `one` or
    /// `all` (C3), so this copy, unless it is being streamed anew, has all that was ever acknowledged by more than one.
    pub was_last: bool,
}

/// Who does what for one vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Rises when the primary changes, is never reused, and fences (C2).
    pub term: u32,
    /// Who serves it.
    pub primary: Seat,
    /// Its copies, in no order; used places come first.
    copies: [Option<CopySeat>; COPIES_MAX],
}

/// The cluster's whole state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Rises with every change; never zero.
    pub epoch: u32,
    /// The cluster's name.
    pub cluster: String,
    /// Drawn when the cluster was created; another cluster of the same name has another.
    pub cluster_id: u64,
    /// Seed of the key hash.
    pub seed: u64,
    /// `2^vnode_bits` vnodes.
    pub vnode_bits: u8,
    /// Replicas wanted beside each primary.
    pub replicas: u8,
    /// What a write waits for that does not say; never [`WriteMode::ClusterDefault`].
    pub write_mode: WriteMode,
    /// The nodes; [`Seat::node`] points here. Empty slots are free.
    pub slots: Vec<Option<Member>>,
    /// One entry per vnode.
    pub vnodes: Vec<Roles>,
}

/// Why something is not a ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A field contradicts another or a limit.
    #[error("not a ring: {0}")]
    Field(&'static str),
    /// A vnode's roles contradict the slots or themselves.
    #[error("not a ring: vnode {vnode} has {what}")]
    Vnode {
        /// Which vnode.
        vnode: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl NodeRef {
    /// The id of the node of this name. Names are for people; wire and ring have numbers. Two names of one number are as
    /// unlikely as two equal random numbers, and would be refused as two nodes with one id.
    pub fn id_of(name: &str) -> u64 {
        key_hash(0, name.as_bytes()).max(1)
    }
}

impl Roles {
    /// A vnode without copies.
    pub const fn new(term: u32, primary: Seat) -> Self {
        Self { term, primary, copies: [None; COPIES_MAX] }
    }

    /// The copies beside the primary.
    pub fn copies(&self) -> impl Iterator<Item = CopySeat> + '_ {
        self.copies.iter().flatten().copied()
    }

    /// The seats of the copies that count.
    pub fn in_sync(&self) -> impl Iterator<Item = Seat> + '_ {
        self.copies().filter(|copy| copy.state == CopyState::InSync).map(|copy| copy.seat)
    }

    /// Everybody who may have what was acknowledged: the primary, then the copies that count.
    pub fn in_sync_members(&self) -> impl Iterator<Item = Seat> + '_ {
        std::iter::once(self.primary).chain(self.in_sync())
    }

    /// The state of the copy at `seat`, if there is one.
    pub fn state(&self, seat: Seat) -> Option<CopyState> {
        self.copies().find(|copy| copy.seat == seat).map(|copy| copy.state)
    }

    /// Adds the copy at `seat`, or changes its state. False when all places are taken.
    pub fn put(&mut self, seat: Seat, state: CopyState) -> bool {
        let own = self.copies.iter().position(|copy| copy.is_some_and(|copy| copy.seat == seat));
        let Some(place) = own.or_else(|| self.copies.iter().position(Option::is_none)) else { return false };
        self.copies[place] = Some(CopySeat { seat, state, was_last: false });
        if state == CopyState::InSync {
            self.copies.iter_mut().flatten().for_each(|copy| copy.was_last = false);
        }
        true
    }

    /// The copies at `seats`, which catch up, are the last that counted. Nothing where some copy still counts.
    pub fn mark_last(&mut self, seats: impl Iterator<Item = Seat>) {
        if self.in_sync().next().is_some() {
            return;
        }
        for seat in seats {
            let copy = self.copies.iter_mut().flatten().find(|copy| copy.seat == seat);
            copy.into_iter().for_each(|copy| copy.was_last = true);
        }
    }

    /// The seats of the copies that were the last to count.
    pub fn last(&self) -> impl Iterator<Item = Seat> + '_ {
        self.copies().filter(|copy| copy.was_last).map(|copy| copy.seat)
    }

    /// Removes the copy at `seat`, if there is one.
    pub fn remove(&mut self, seat: Seat) {
        if let Some(place) = self.copies.iter().position(|copy| copy.is_some_and(|copy| copy.seat == seat)) {
            self.copies[place..].rotate_left(1);
            self.copies[COPIES_MAX - 1] = None;
        }
    }
}

impl Ring {
    /// The slot of `node`.
    pub fn slot_of(&self, node: NodeRef) -> Option<u16> {
        let slot = self.slots.iter().position(|member| member.as_ref().is_some_and(|member| member.node == node))?;
        u16::try_from(slot).ok()
    }

    /// Who has a slot.
    pub fn member(&self, slot: u16) -> Option<&Member> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    /// The clients' view: nodes and the copies that count, at most [`REPLICAS_MAX`] of each vnode. Free slots are left out,
    /// so its seats count the nodes, not the slots.
    pub fn to_topology(&self) -> Topology {
        let mut places = Vec::with_capacity(self.slots.len());
        let mut nodes: Vec<Node> = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            places.push(u16::try_from(nodes.len()).expect("a checked ring has at most 1,024 slots"));
            nodes.extend(slot.as_ref().map(Member::to_node));
        }
        let seat = |seat: Seat| Seat { node: places[usize::from(seat.node)], core: seat.core };
        let placement = |roles: &Roles| {
            let mut replicas = [Seat::NOWHERE; REPLICAS_MAX];
            replicas.iter_mut().zip(roles.in_sync()).for_each(|(place, copy)| *place = seat(copy));
            Placement { primary: seat(roles.primary), replicas, term: roles.term }
        };
        Topology {
            epoch: self.epoch,
            vnode_bits: self.vnode_bits,
            seed: self.seed,
            cluster: self.cluster.clone(),
            vnodes: self.vnodes.iter().map(placement).collect(),
            nodes,
        }
    }

    /// Checks what everybody relies on: seats name cores that exist, nobody holds two roles of a vnode on one core, terms
    /// and numbers are within their limits. Whatever comes from etcd passes through here.
    pub fn check(&self) -> Result<(), RingError> {
        let ensure = |holds: bool, what| if holds { Ok(()) } else { Err(RingError::Field(what)) };
        ensure(self.epoch != 0, "epoch 0")?;
        ensure(self.vnode_bits <= VNODE_BITS_MAX, "more than 65,536 vnodes")?;
        ensure(self.vnodes.len() == 1 << self.vnode_bits, "the number of roles is not the number of vnodes")?;
        ensure(usize::from(self.replicas) <= REPLICAS_MAX, "more than 3 replicas")?;
        ensure(self.write_mode != WriteMode::ClusterDefault, "a default write mode that refers to the default")?;
        ensure(self.cluster.len() <= NAME_BYTES_MAX, "a cluster name of more than 255 bytes")?;
        ensure(self.slots.len() <= NODES_MAX, "more than 1,024 slots")?;
        for (slot, member) in self.slots.iter().enumerate() {
            let Some(member) = member else { continue };
            ensure((1..=CORES_MAX).contains(&usize::from(member.cores)), "a node with no core, or more than 1,024")?;
            let longest = member.address.len().max(member.zone.len()).max(member.name.len());
            ensure(longest <= NAME_BYTES_MAX, "a name, address or zone of more than 255 bytes")?;
            let twice = self.slots[..slot].iter().flatten().any(|other| other.node == member.node);
            ensure(!twice, "two slots for one life of a node")?;
        }
        for (vnode, roles) in self.vnodes.iter().enumerate() {
            self.check_roles(roles).map_err(|what| RingError::Vnode { vnode, what })?;
        }
        Ok(())
    }

    fn check_roles(&self, roles: &Roles) -> Result<(), &'static str> {
        let exists = |seat: Seat| self.member(seat.node).is_some_and(|member| seat.core < member.cores);
        if roles.term > Version::TERM_MAX {
            return Err("a term over 24 bits");
        }
        if !exists(roles.primary) {
            return Err("a primary that is no core of a node");
        }
        for (place, copy) in roles.copies().enumerate() {
            if !exists(copy.seat) {
                return Err("a copy that is no core of a node");
            }
            if copy.seat == roles.primary || roles.copies().take(place).any(|other| other.seat == copy.seat) {
                return Err("two roles on one core");
            }
        }
        Ok(())
    }
}

impl Member {
    /// The node as clients see it; one that drains has no weight.
    fn to_node(&self) -> Node {
        Node {
            id: self.node.id,
            incarnation: self.node.incarnation,
            name: self.name.clone(),
            address: self.address.clone(),
            zone: self.zone.clone(),
            cores: self.cores,
            weight: if self.draining { 0 } else { self.weight },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Option<Member> {
        let node = NodeRef { id, incarnation: 1 };
        Some(Member {
            node,
            name: format!("node-{id}"),
            address: format!("node-{id}:7400"),
            zone: String::new(),
            cores: 2,
            weight: 1,
            draining: false,
        })
    }

    fn seat(node: u16, core: u16) -> Seat {
        Seat { node, core }
    }

    fn ring() -> Ring {
        let mut first = Roles::new(1, seat(2, 1));
        assert!(first.put(seat(0, 0), CopyState::InSync) && first.put(seat(3, 1), CopyState::CatchingUp));
        Ring {
            epoch: 7,
            cluster: "demo".to_owned(),
            cluster_id: 5,
            seed: 9,
            vnode_bits: 1,
            replicas: 1,
            write_mode: WriteMode::One,
            slots: vec![member(1), None, member(3), member(4)],
            vnodes: vec![first, Roles::new(4, seat(0, 1))],
        }
    }

    #[test]
    fn clients_see_only_copies_that_count_and_no_free_slot() {
        let topology = ring().to_topology();
        assert_eq!(topology.check(), Ok(()));
        assert_eq!(topology.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(topology.vnodes[0].primary, seat(1, 1));
        assert_eq!(topology.vnodes[0].replicas, [seat(0, 0), Seat::NOWHERE, Seat::NOWHERE]);
        assert_eq!((topology.epoch, topology.vnodes[1].term), (7, 4));
    }

    #[test]
    fn copies_are_put_changed_and_removed_in_their_few_places() {
        let mut roles = Roles::new(1, seat(9, 0));
        for node in 0..4 {
            assert!(roles.put(seat(node, 0), CopyState::CatchingUp));
        }
        assert!(!roles.put(seat(5, 0), CopyState::InSync), "no fifth copy");
        assert!(roles.put(seat(1, 0), CopyState::InSync));
        roles.remove(seat(0, 0));
        roles.remove(seat(7, 0));
        assert_eq!(roles.copies().map(|copy| copy.seat.node).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(roles.in_sync_members().collect::<Vec<_>>(), [seat(9, 0), seat(1, 0)]);
        assert_eq!(roles.state(seat(2, 0)), Some(CopyState::CatchingUp));
    }

    #[test]
    fn the_last_that_counted_are_known_until_another_counts() {
        let mut roles = Roles::new(1, seat(9, 0));
        (0..3).for_each(|node| assert!(roles.put(seat(node, 0), CopyState::InSync)));
        assert!(roles.put(seat(0, 0), CopyState::CatchingUp));
        roles.mark_last([seat(0, 0)].into_iter());
        assert_eq!(roles.last().count(), 0, "others still count");
        assert!(roles.put(seat(1, 0), CopyState::CatchingUp) && roles.put(seat(2, 0), CopyState::CatchingUp));
        roles.mark_last([1, 2].map(|node| seat(node, 0)).into_iter());
        assert_eq!(roles.last().collect::<Vec<_>>(), [seat(1, 0), seat(2, 0)]);
        assert!(roles.put(seat(4, 0), CopyState::CatchingUp));
        assert_eq!(roles.last().count(), 2, "a new copy changes nothing");
        assert!(roles.put(seat(4, 0), CopyState::InSync));
        assert_eq!(roles.last().count(), 0);
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(ring().check(), Ok(()));
        let broken: [fn(&mut Ring); 10] = [
            |ring| ring.epoch = 0,
            |ring| ring.vnode_bits = 2,
            |ring| ring.replicas = 4,
            |ring| ring.write_mode = WriteMode::ClusterDefault,
            |ring| ring.slots[2] = None,
            |ring| ring.slots[1] = ring.slots[0].clone(),
            |ring| ring.vnodes[1].primary.core = 2,
            |ring| ring.vnodes[1].term = Version::TERM_MAX + 1,
            |ring| ring.vnodes[0].primary = Seat { node: 0, core: 0 },
            |ring| ring.slots[0].as_mut().unwrap().zone = "z".repeat(256),
        ];
        for (case, wound) in broken.iter().enumerate() {
            let mut ring = ring();
            wound(&mut ring);
            assert!(ring.check().is_err(), "case {case}");
        }
    }
}
