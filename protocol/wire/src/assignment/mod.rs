//! The assignment: which core of which node should keep which vnode, given the nodes and what they hold now.
//!
//! The leader calls [`assign`] whenever a node comes, goes, or changes its weight or cores. The outcome says where everything
//! should be; which copies are in sync, and in which order and under which terms things move, is the leader's business.
//!
//! What it promises:
//!
//! - **Balance.** Of any two nodes with weights `w` and `w'`, the primaries per unit of weight differ by at most
//!   `1/2 · (1/w + 1/w')`: by at most one, and with equal weights by at most one vnode. Copies (primaries and replicas
//!   together) keep the same bound wherever single replicas, or chains of them, can move to even them out; zones and
//!   heavy nodes, which can't hold a vnode twice, may stand in the way. A node's cores differ by at most one primary and by at
//!   most one copy.
//! - **Spread.** No node holds two copies of a vnode; no zone more than `⌈copies / zones⌉`, which is one where there are
//!   enough zones (more only as far as the other zones lack nodes). Nodes without a zone share one. With fewer nodes than
//!   copies, each has one.
//! - **Movement.** No assignment that keeps the primaries' balance changes fewer of them: a node that comes takes its share
//!   and nothing else changes, of one that goes only its own vnodes do. A replica stays unless its node is now the primary,
//!   the zones forbid it, or balance asks for it.
//! - **The same everywhere.** Whole numbers only, ties by hash of (vnode, node id): every host computes the same, in whatever
//!   order the nodes are listed.
//!
//! A node of weight 0 is drained: it gives everything away and takes nothing.
//!
//! Cost: `O(vnodes · log nodes)` and `O(nodes)` for each copy that changes, unless zones stand in balance's way.

mod cores;
mod primaries;
mod replicas;
mod shares;

use std::cmp::Ordering;
use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::topology::{CORES_MAX, NODES_MAX, Node, Placement, REPLICAS_MAX, Seat, VNODE_BITS_MAX};

/// Why there is no assignment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// No node has a weight above 0.
    #[error("no node takes vnodes: start one, or give one a weight above 0")]
    NoTaker,
    /// More than [`NODES_MAX`].
    #[error("{0} nodes are more than the 1,024 that a cluster may have")]
    TooManyNodes(usize),
    /// Two nodes that take vnodes have one id.
    #[error("two nodes have the id {0:#x}: give one another")]
    DuplicateNode(u64),
    /// No core, or more than [`CORES_MAX`].
    #[error("node {node:#x} offers {cores} cores; 1 to 1,024 are possible")]
    Cores {
        /// The node's id.
        node: u64,
        /// What it offers.
        cores: u16,
    },
    /// Not a power of two, or more than 65,536.
    #[error("{0} vnodes: a cluster has a power of two of them, at most 65,536")]
    Vnodes(usize),
    /// More than [`REPLICAS_MAX`].
    #[error("{0} replicas are more than the 3 that a vnode may have")]
    TooManyReplicas(usize),
    /// A seat of the current placements is no core of a node.
    #[error("vnode {0} is now on a seat that no node has")]
    NoSuchSeat(usize),
}

/// Computes where every vnode should be.
///
/// The seats of `current` and of the outcome point into `nodes`; in `current`, [`Seat::NOWHERE`] stands where nobody is (any
/// more). Terms pass through. With fewer nodes than copies there are as many copies as nodes.
pub fn assign(nodes: &[Node], current: &[Placement], replicas: usize) -> Result<Vec<Placement>, AssignmentError> {
    let cluster = Cluster::new(nodes, current, replicas)?;
    let before = cluster.holdings(nodes, current)?;
    let primaries = primaries::choose(&cluster, &before);
    let replicas = replicas::choose(&cluster, &before, &primaries);
    let seats = cores::seat(&cluster, &before, &primaries, &replicas);
    let seat = |held: &Held| Seat { node: cluster.members[held.member].place, core: held.core as u16 };
    let placement = |(seats, before): (&Vec<Held>, &Placement)| {
        let mut placement = Placement { primary: seat(&seats[0]), ..Placement::NOWHERE };
        placement.replicas.iter_mut().zip(&seats[1..]).for_each(|(place, held)| *place = seat(held));
        Placement { term: before.term, ..placement }
    };
    Ok(seats.iter().zip(current).map(placement).collect())
}

/// A node, as the parts of the assignment look at it.
struct Member {
    /// Its place in the caller's list, which seats name.
    place: u16,
    id: u64,
    weight: u64,
    cores: usize,
    zone: usize,
}

/// The nodes in the order of their ids, so that the order in which they are listed does not matter; what is asked of them.
struct Cluster {
    members: Vec<Member>,
    vnodes: usize,
    /// Copies of each vnode, the primary among them: as many as asked for, or as there are nodes with a weight.
    copies: usize,
    /// Copies of one vnode that one zone may hold: the smallest number with which all copies find a node.
    zone_copies_max: usize,
}

/// A copy of a vnode: on which member and core it lies.
#[derive(Clone, Copy)]
struct Held {
    member: usize,
    core: usize,
}

/// Who holds one vnode before the assignment, each member once.
#[derive(Default)]
struct Holding {
    primary: Option<Held>,
    replicas: Vec<Held>,
}

impl Cluster {
    fn new(nodes: &[Node], current: &[Placement], replicas: usize) -> Result<Self, AssignmentError> {
        check(nodes, current, replicas)?;
        let zones: Vec<&str> =
            nodes.iter().map(|node| node.zone.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
        let member = |(place, node): (u16, &Node)| Member {
            place,
            id: node.id,
            weight: u64::from(node.weight),
            cores: usize::from(node.cores),
            zone: zones.binary_search(&node.zone.as_str()).expect("every zone is listed"),
        };
        let mut members: Vec<Member> = (0..).zip(nodes).map(member).collect();
        members.sort_unstable_by_key(|member| (member.id, member.weight, member.place));
        let takers = || members.iter().filter(|member| member.weight > 0);
        if let Some((one, _)) = takers().zip(takers().skip(1)).find(|(one, next)| one.id == next.id) {
            return Err(AssignmentError::DuplicateNode(one.id));
        }
        let mut in_zones = vec![0; zones.len()];
        takers().for_each(|member| in_zones[member.zone] += 1);
        let copies = (replicas + 1).min(takers().count());
        let places = |per_zone: usize| in_zones.iter().map(|&takers: &usize| takers.min(per_zone)).sum::<usize>();
        let zone_copies_max = (1..=copies).find(|&per_zone| places(per_zone) >= copies).unwrap_or(copies);
        Ok(Self { members, vnodes: current.len(), copies, zone_copies_max })
    }

    /// What is there, in terms of members. A node that is listed twice for a vnode counts once, first as primary.
    fn holdings(&self, nodes: &[Node], current: &[Placement]) -> Result<Vec<Holding>, AssignmentError> {
        let mut member_at = vec![0; nodes.len()];
        self.members.iter().zip(0..).for_each(|(member, index)| member_at[usize::from(member.place)] = index);
        let holding = |(vnode, placement): (usize, &Placement)| {
            let find = |seat: Seat| match nodes.get(usize::from(seat.node)) {
                _ if seat == Seat::NOWHERE => Ok(None),
                Some(node) if seat.core < node.cores => {
                    Ok(Some(Held { member: member_at[usize::from(seat.node)], core: usize::from(seat.core) }))
                }
                _ => Err(AssignmentError::NoSuchSeat(vnode)),
            };
            let mut holding = Holding { primary: find(placement.primary)?, replicas: Vec::new() };
            for replica in placement.replicas {
                let held = find(replica)?.filter(|held| holding.on(held.member).is_none());
                holding.replicas.extend(held);
            }
            Ok(holding)
        };
        current.iter().enumerate().map(|(vnode, placement)| holding((vnode, placement))).collect()
    }

    /// A number that orders `member` among others for this `vnode`: the rendezvous hash. It is all that is arbitrary in
    /// an assignment, the same on every host, and differs from vnode to vnode, so that ties spread.
    fn spread(&self, vnode: usize, member: usize) -> u64 {
        xxh3_64_with_seed(&self.members[member].id.to_le_bytes(), vnode as u64)
    }

    fn takers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|&member| self.members[member].weight > 0)
    }

    /// Whether `member` may have a copy of a vnode beside the `others`.
    fn may_join(&self, member: usize, others: impl Iterator<Item = usize>) -> bool {
        let zone = self.members[member].zone;
        let mut in_zone = 0;
        for other in others {
            if other == member {
                return false;
            }
            in_zone += usize::from(self.members[other].zone == zone);
        }
        self.members[member].weight > 0 && in_zone < self.zone_copies_max
    }

    /// Compares the loads `halves / 2 / weight` of two members, in whole numbers.
    fn compare_loads(&self, (left, halves): (usize, usize), (right, other_halves): (usize, usize)) -> Ordering {
        let cross = |halves: usize, by: usize| halves as u64 * self.members[by].weight;
        cross(halves, right).cmp(&cross(other_halves, left))
    }
}

impl Holding {
    /// The copies, as good replicas first: who was the primary is as good as any.
    fn holders(&self) -> impl Iterator<Item = Held> + '_ {
        self.replicas.iter().chain(&self.primary).copied()
    }

    fn on(&self, member: usize) -> Option<Held> {
        self.holders().find(|held| held.member == member)
    }
}

fn check(nodes: &[Node], current: &[Placement], replicas: usize) -> Result<(), AssignmentError> {
    if nodes.iter().all(|node| node.weight == 0) {
        return Err(AssignmentError::NoTaker);
    }
    if nodes.len() > NODES_MAX {
        return Err(AssignmentError::TooManyNodes(nodes.len()));
    }
    if !current.len().is_power_of_two() || current.len() > 1 << VNODE_BITS_MAX {
        return Err(AssignmentError::Vnodes(current.len()));
    }
    if replicas > REPLICAS_MAX {
        return Err(AssignmentError::TooManyReplicas(replicas));
    }
    match nodes.iter().find(|node| !(1..=CORES_MAX).contains(&usize::from(node.cores))) {
        Some(node) => Err(AssignmentError::Cores { node: node.id, cores: node.cores }),
        None => Ok(()),
    }
}
