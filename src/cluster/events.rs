//! What has happened between two rings, for the log and for counters.
//!
//! A change of the ring concerns many vnodes at once, so like things are told together: from whom, to whom, which vnodes.
//! Whether a primary was lost, or handed its vnodes over, the ring does not say; who is registered does.

use std::collections::BTreeMap;

use super::ring::{CopyState, NodeRef, Ring, Roles};

/// What happened to some vnodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happened {
    /// `VnodeLost` (C9): nobody had them any more; they began empty.
    Lost,
    /// A copy took them over from a primary that is lost.
    FailedOver,
    /// They were handed over.
    Moved,
    /// Their primary goes on under a new term: a move was given up, or it was sealed and chosen again.
    Resumed,
    /// A copy counts from now on.
    InSync,
    /// A copy counts no longer.
    OutOfSync,
    /// A copy is being made.
    CatchingUp,
    /// A copy is given up.
    Dropped,
}

/// One kind of thing that happened, between the same two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingEvent {
    /// What.
    pub happened: Happened,
    /// Whose it was before, where somebody's.
    pub from: Option<NodeRef>,
    /// Whose it is now: the primary, or the node of the copy.
    pub to: NodeRef,
    /// Which vnodes.
    pub vnodes: Vec<u32>,
}

impl Happened {
    /// As it is told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "VnodeLost",
            Self::FailedOver => "failed over",
            Self::Moved => "moved",
            Self::Resumed => "resumed",
            Self::InSync => "in sync",
            Self::OutOfSync => "out of sync",
            Self::CatchingUp => "catching up",
            Self::Dropped => "dropped",
        }
    }
}

/// What has happened to vnodes from the ring `before` to `after`, the gravest first. Cost: a look at every vnode.
pub fn between(before: &Ring, after: &Ring, is_registered: impl Fn(NodeRef) -> bool) -> Vec<RingEvent> {
    let mut events: BTreeMap<(Happened, Option<NodeRef>, NodeRef), Vec<u32>> = BTreeMap::new();
    for (vnode, (old, new)) in (0u32..).zip(before.vnodes.iter().zip(&after.vnodes)) {
        if old == new {
            continue;
        }
        let mut note = |happened, from, to| events.entry((happened, from, to)).or_default().push(vnode);
        let (from, to) = (node(before, old.primary.node), node(after, new.primary.node));
        if let (Some(from), Some(to), true) = (from, to, old.term != new.term) {
            // A slot may have another owner by now: lives are compared, not slots.
            let members = old.in_sync_members().chain(old.last());
            let had_it = members.filter_map(|seat| Some((node(before, seat.node)?, seat.core)));
            let is_kept = { had_it }.any(|member| member == (to, new.primary.core));
            let happened = match (is_kept, from == to && old.primary.core == new.primary.core) {
                (false, _) => Happened::Lost,
                (true, true) => Happened::Resumed,
                (true, false) if is_registered(from) => Happened::Moved,
                (true, false) => Happened::FailedOver,
            };
            note(happened, Some(from), to);
        }
        let (known, present) = (copies(before, old), copies(after, new));
        for (seat, state) in &present {
            let happened = match (known.get(seat), state) {
                (Some(before), now) if before == now => continue,
                (_, CopyState::InSync) => Happened::InSync,
                (Some(CopyState::InSync), CopyState::CatchingUp) => Happened::OutOfSync,
                (_, CopyState::CatchingUp) => Happened::CatchingUp,
            };
            note(happened, None, seat.0);
        }
        let new_primary = to.map(|to| (to, new.primary.core));
        for (seat, _) in known.iter().filter(|(seat, _)| !present.contains_key(*seat) && Some(**seat) != new_primary) {
            note(Happened::Dropped, None, seat.0);
        }
    }
    let event = |((happened, from, to), vnodes)| RingEvent { happened, from, to, vnodes };
    events.into_iter().map(event).collect()
}

fn node(ring: &Ring, slot: u16) -> Option<NodeRef> {
    ring.member(slot).map(|member| member.node)
}

fn copies(ring: &Ring, roles: &Roles) -> BTreeMap<(NodeRef, u16), CopyState> {
    let copy = |copy: super::ring::CopySeat| Some(((node(ring, copy.seat.node)?, copy.seat.core), copy.state));
    roles.copies().filter_map(copy).collect()
}

#[cfg(test)]
mod tests {
    use quoit_wire::WriteMode;
    use quoit_wire::topology::Seat;

    use super::*;
    use crate::cluster::ring::Member;

    fn life(slot: u16) -> NodeRef {
        NodeRef { id: u64::from(slot) + 1, incarnation: 1 }
    }

    fn seat(slot: u16) -> Seat {
        Seat { node: slot, core: 0 }
    }

    fn ring(vnodes: [Roles; 2]) -> Ring {
        let member = |slot: u16| {
            let (node, name) = (life(slot), format!("node-{slot}"));
            Some(Member {
                node,
                address: String::new(),
                zone: String::new(),
                name,
                cores: 1,
                weight: 1,
                draining: false,
            })
        };
        Ring {
            epoch: 1,
            cluster: "demo".to_owned(),
            cluster_id: 1,
            seed: 1,
            vnode_bits: 1,
            replicas: 1,
            write_mode: WriteMode::One,
            slots: (0..4).map(member).collect(),
            vnodes: vnodes.to_vec(),
        }
    }

    fn roles(term: u32, primary: u16, copies: &[(u16, CopyState)]) -> Roles {
        let mut roles = Roles::new(term, seat(primary));
        copies.iter().for_each(|(slot, state)| assert!(roles.put(seat(*slot), *state)));
        roles
    }

    /// What is told of a change of vnode 0, while nodes 1 and above are registered.
    fn told(before: Roles, after: Roles) -> Vec<(Happened, Option<NodeRef>, NodeRef)> {
        let still = Roles::new(1, seat(3));
        let events = between(&ring([before, still]), &ring([after, still]), |node| node != life(0));
        assert!(events.iter().all(|event| event.vnodes == [0]));
        events.into_iter().map(|event| (event.happened, event.from, event.to)).collect()
    }

    #[test]
    fn a_lost_primary_a_move_and_an_empty_beginning_are_told_apart() {
        use CopyState::InSync;
        let before = roles(1, 0, &[(1, InSync)]);
        assert_eq!(told(before, before), []);
        assert_eq!(told(before, roles(2, 1, &[])), [(Happened::FailedOver, Some(life(0)), life(1))]);
        assert_eq!(
            told(before, roles(2, 2, &[])),
            [(Happened::Lost, Some(life(0)), life(2)), (Happened::Dropped, None, life(1))]
        );
        let before = roles(1, 2, &[(1, InSync)]);
        assert_eq!(
            told(before, roles(2, 1, &[(2, InSync)])),
            [(Happened::Moved, Some(life(2)), life(1)), (Happened::InSync, None, life(2))]
        );
        assert_eq!(told(before, roles(2, 2, &[(1, InSync)])), [(Happened::Resumed, Some(life(2)), life(2))]);
    }

    #[test]
    fn copies_come_count_fall_behind_and_go() {
        use CopyState::{CatchingUp, InSync};
        let with = |copies: &[(u16, CopyState)]| roles(1, 2, copies);
        for (before, after, happened) in [
            (with(&[]), with(&[(1, CatchingUp)]), Happened::CatchingUp),
            (with(&[(1, CatchingUp)]), with(&[(1, InSync)]), Happened::InSync),
            (with(&[(1, InSync)]), with(&[(1, CatchingUp)]), Happened::OutOfSync),
            (with(&[(1, CatchingUp)]), with(&[]), Happened::Dropped),
        ] {
            assert_eq!(told(before, after), [(happened, None, life(1))]);
        }
    }

    #[test]
    fn like_things_are_told_together() {
        let before = ring([roles(1, 0, &[(1, CopyState::InSync)]); 2]);
        let after = ring([roles(2, 1, &[]); 2]);
        let events = between(&before, &after, |node| node != life(0));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].vnodes, [0, 1]);
    }
}
