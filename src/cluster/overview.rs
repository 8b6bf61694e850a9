//! The cluster at a glance: who is in it, what each one has, what is missing; and whether a node can be drained.
//!
//! All of it is derived from the cluster's keys, so every node tells the same. How far copies lag, and how fast things move,
//! is not in the keys: that is for those who do it to tell.

use super::leader::Known;
use super::ring::{CopyState, Member, NodeRef, Registration, Ring};

/// What a life of a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It has nothing yet.
    Joining,
    /// It has vnodes, and may be given more.
    Serving,
    /// It gives away what it has.
    Draining,
    /// It has been drained: it can be stopped, and nobody would notice.
    Drained,
    /// It is gone, and what it had is being replaced.
    Lost,
}

/// One life of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOverview {
    /// Which.
    pub node: NodeRef,
    /// Its name.
    pub name: String,
    /// `host:port`, for clients and peers.
    pub address: String,
    /// Where copies should not share fate; may be empty.
    pub zone: String,
    /// Cores that can own vnodes.
    pub cores: u16,
    /// Its share of the vnodes relative to other nodes.
    pub weight: u16,
    /// `--memory`, while it is there to say so.
    pub memory_bytes: Option<u64>,
    /// What it does.
    pub state: NodeState,
    /// Vnodes whose primary it is.
    pub led: usize,
    /// Vnodes that it keeps a copy of that counts.
    pub in_sync: usize,
    /// Vnodes that it is being given a copy of.
    pub catching_up: usize,
}

/// The whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// Its nodes by name; a node that has restarted may be there twice, for its lost life too.
    pub nodes: Vec<NodeOverview>,
    /// Vnodes with fewer copies that count than there should be.
    pub short: usize,
    /// Vnodes whose primary is lost: nobody answers for them yet.
    pub leaderless: usize,
}

/// Why a node is not drained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody of that name.
    #[error("no node {name} in this cluster; there are {}", .known.join(", "))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// There would be nobody to give anything to.
    #[error("{0} is the only node that takes vnodes: start another one first, or stop this one and lose what it holds")]
    LastNode(String),
    /// The rest could not hold as many copies as there should be.
    #[error(
        "without {name} there are too few nodes, {left} for {copies} copies of each item: start another one first, or go on \
         with fewer copies by --fewer-copies"
    )]
    FewerCopies {
        /// Who was to be drained.
        name: String,
        /// Nodes that would be left to take vnodes.
        left: usize,
        /// The primary and its replicas.
        copies: usize,
    },
}

impl NodeState {
    /// As it is told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Lost => "lost",
        }
    }
}

impl Overview {
    /// What the keys say.
    pub fn new(known: &Known) -> Self {
        let mut overview = Self { nodes: Vec::new(), short: 0, leaderless: 0 };
        if let Some(ring) = known.ring.as_deref() {
            let mut places = Vec::with_capacity(ring.slots.len());
            for slot in &ring.slots {
                places.push(overview.nodes.len());
                overview.nodes.extend(slot.as_ref().map(|member| of_member(known, member)));
            }
            overview.count(known, ring, &places);
        }
        let is_seated = |node: NodeRef| known.ring.as_ref().is_some_and(|ring| ring.slot_of(node).is_some());
        let waiting = known.registrations.values().filter(|registration| !is_seated(registration.node));
        overview.nodes.extend(waiting.map(|registration| of_registration(known, registration)));
        overview.nodes.iter_mut().for_each(|node| {
            node.state = match node.state {
                NodeState::Serving if node.led + node.in_sync == 0 => NodeState::Joining,
                NodeState::Drained if node.led + node.in_sync + node.catching_up > 0 => NodeState::Draining,
                state => state,
            }
        });
        overview.nodes.sort_by(|one, other| (&one.name, one.node).cmp(&(&other.name, other.node)));
        overview
    }

    fn count(&mut self, known: &Known, ring: &Ring, places: &[usize]) {
        let members: Vec<bool> = ring.slots.iter().map(|slot| is_alive(known, slot.as_ref())).collect();
        for roles in &ring.vnodes {
            self.nodes[places[usize::from(roles.primary.node)]].led += 1;
            self.leaderless += usize::from(!members[usize::from(roles.primary.node)]);
            self.short += usize::from(roles.in_sync().count() < usize::from(ring.replicas));
            for copy in roles.copies() {
                let node = &mut self.nodes[places[usize::from(copy.seat.node)]];
                match copy.state {
                    CopyState::InSync => node.in_sync += 1,
                    CopyState::CatchingUp => node.catching_up += 1,
                }
            }
        }
    }
}

/// The id of the node of this name, if the cluster has heard of it: it is there, has been, or somebody wants something of
/// it.
pub fn find(known: &Known, name: &str) -> Result<u64, Refusal> {
    let id = NodeRef::id_of(name);
    let is_member = |ring: &Ring| ring.slots.iter().flatten().any(|member| member.node.id == id);
    let is_known = known.registrations.contains_key(&id)
        || known.intents.contains_key(&id)
        || known.ring.as_deref().is_some_and(is_member);
    let names = || Overview::new(known).nodes.into_iter().map(|node| node.name);
    is_known.then_some(id).ok_or_else(|| {
        let mut known: Vec<String> = names().collect();
        known.dedup();
        Refusal::Unknown { name: name.to_owned(), known }
    })
}

/// Whether the node of this name can be drained: there is somebody to give its vnodes to, and with all their copies, unless
/// fewer of them will do.
pub fn check_drain(known: &Known, name: &str, fewer_copies: bool) -> Result<u64, Refusal> {
    let id = find(known, name)?;
    let takes = |id: &u64| {
        let intent = known.intents.get(id).copied().unwrap_or_default();
        !intent.draining && !known.registrations.get(id).is_some_and(|registration| registration.leaving)
    };
    let left = known.registrations.keys().filter(|other| **other != id && takes(other)).count();
    let copies = known.ring.as_ref().map_or(1, |ring| 1 + usize::from(ring.replicas));
    match left {
        0 => Err(Refusal::LastNode(name.to_owned())),
        _ if left < copies && !fewer_copies => Err(Refusal::FewerCopies { name: name.to_owned(), left, copies }),
        _ => Ok(id),
    }
}

fn is_alive(known: &Known, member: Option<&Member>) -> bool {
    member.is_some_and(|member| known.registrations.get(&member.node.id).is_some_and(|it| it.node == member.node))
}

/// A node with a slot, before what it has is counted.
fn of_member(known: &Known, member: &Member) -> NodeOverview {
    let intent = known.intents.get(&member.node.id).copied().unwrap_or_default();
    let registration = known.registrations.get(&member.node.id);
    let is_leaving = registration.is_some_and(|registration| registration.node == member.node && registration.leaving);
    let own_weight = registration.map_or(member.weight, |registration| registration.weight);
    NodeOverview {
        node: member.node,
        name: member.name.clone(),
        address: member.address.clone(),
        zone: member.zone.clone(),
        cores: member.cores,
        weight: intent.weight.unwrap_or(own_weight),
        memory_bytes: registration.map(|registration| registration.memory_bytes),
        state: match (is_alive(known, Some(member)), member.draining, intent.draining || is_leaving) {
            (false, _, _) => NodeState::Lost,
            (true, true, true) => NodeState::Drained,
            // The leader has not obeyed yet.
            (true, false, true) => NodeState::Draining,
            (true, _, false) => NodeState::Serving,
        },
        led: 0,
        in_sync: 0,
        catching_up: 0,
    }
}

/// A node that waits for a slot.
fn of_registration(known: &Known, registration: &Registration) -> NodeOverview {
    let intent = known.intents.get(&registration.node.id).copied().unwrap_or_default();
    NodeOverview {
        node: registration.node,
        name: registration.name.clone(),
        address: registration.address.clone(),
        zone: registration.zone.clone(),
        cores: registration.cores,
        weight: intent.weight.unwrap_or(registration.weight),
        memory_bytes: Some(registration.memory_bytes),
        state: if intent.draining { NodeState::Draining } else { NodeState::Joining },
        led: 0,
        in_sync: 0,
        catching_up: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quoit_wire::WriteMode;
    use quoit_wire::topology::Seat;

    use super::*;
    use crate::cluster::records::Intent;
    use crate::cluster::ring::Roles;

    fn registration(name: &str, incarnation: u64) -> Registration {
        Registration {
            node: NodeRef { id: NodeRef::id_of(name), incarnation },
            name: name.to_owned(),
            address: format!("{name}:7400"),
            zone: String::new(),
            cores: 1,
            weight: 1,
            memory_bytes: 1 << 30,
            leaving: false,
        }
    }

    fn member(name: &str) -> Option<Member> {
        let Registration { node, name, address, zone, cores, weight, .. } = registration(name, 1);
        Some(Member { node, name, address, zone, cores, weight, draining: false })
    }

    /// a leads both vnodes; b has a copy of one that counts, and is given one of the other; slot 1 is free.
    fn known() -> Known {
        let seat = |node| Seat { node, core: 0 };
        let mut vnodes = vec![Roles::new(1, seat(0)); 2];
        vnodes[0].put(seat(2), CopyState::InSync);
        vnodes[1].put(seat(2), CopyState::CatchingUp);
        let ring = Ring {
            epoch: 1,
            cluster: "demo".to_owned(),
            cluster_id: 1,
            seed: 1,
            vnode_bits: 1,
            replicas: 1,
            write_mode: WriteMode::One,
            slots: vec![member("a"), None, member("b")],
            vnodes,
        };
        assert_eq!(ring.check(), Ok(()));
        let registrations = ["a", "b", "c"].map(|name| (NodeRef::id_of(name), registration(name, 1)));
        Known { ring: Some(Arc::new(ring)), registrations: registrations.into(), intents: Default::default() }
    }

    fn drain(known: &mut Known, name: &str) {
        known.intents.insert(NodeRef::id_of(name), Intent { draining: true, weight: None });
    }

    fn state(known: &Known, name: &str) -> NodeState {
        let overview = Overview::new(known);
        overview.nodes.into_iter().find(|node| node.name == name).expect("it is listed").state
    }

    #[test]
    fn everybody_is_listed_with_what_it_has_and_what_is_missing_is_counted() {
        let overview = Overview::new(&known());
        let nodes = overview.nodes.iter();
        let seen: Vec<_> =
            nodes.map(|node| (node.name.as_str(), node.state, node.led, node.in_sync, node.catching_up)).collect();
        let expected = [
            ("a", NodeState::Serving, 2, 0, 0),
            ("b", NodeState::Serving, 0, 1, 1),
            ("c", NodeState::Joining, 0, 0, 0),
        ];
        assert_eq!(seen, expected);
        assert_eq!((overview.short, overview.leaderless), (1, 0));
    }

    #[test]
    fn a_restarted_node_is_there_for_its_lost_life_too() {
        let mut known = known();
        known.registrations.insert(NodeRef::id_of("a"), registration("a", 2));
        let overview = Overview::new(&known);
        let states: Vec<_> = overview.nodes.iter().map(|node| (node.name.as_str(), node.state)).collect();
        assert_eq!(states[..2], [("a", NodeState::Lost), ("a", NodeState::Joining)]);
        assert_eq!(overview.leaderless, 2);
    }

    #[test]
    fn a_node_is_drained_when_the_ring_says_so_and_it_has_nothing() {
        let mut known = known();
        drain(&mut known, "b");
        assert_eq!(state(&known, "b"), NodeState::Draining, "it is asked to");
        let mut ring = known.ring.as_deref().expect("a ring").clone();
        ring.slots[2].as_mut().expect("b").draining = true;
        known.ring = Some(Arc::new(ring.clone()));
        assert_eq!(state(&known, "b"), NodeState::Draining, "it has copies");
        ring.vnodes.iter_mut().for_each(|roles| roles.remove(Seat { node: 2, core: 0 }));
        known.ring = Some(Arc::new(ring));
        assert_eq!(state(&known, "b"), NodeState::Drained);
    }

    #[test]
    fn a_drain_that_can_not_be_fulfilled_is_refused_with_the_mend() {
        let mut known = known();
        assert_eq!(check_drain(&known, "b", false), Ok(NodeRef::id_of("b")));
        let refusal = check_drain(&known, "d", false).expect_err("nobody of that name");
        assert!(refusal.to_string().ends_with("there are a, b, c"), "{refusal}");
        drain(&mut known, "c");
        let refusal = check_drain(&known, "b", false).expect_err("one node can't hold two copies");
        assert!(refusal.to_string().contains("too few nodes, 1 for 2 copies"), "{refusal}");
        assert_eq!(check_drain(&known, "b", true), Ok(NodeRef::id_of("b")));
        drain(&mut known, "b");
        let refusal = check_drain(&known, "a", true).expect_err("nobody is left");
        assert!(refusal.to_string().contains("only node"), "{refusal}");
    }
}
