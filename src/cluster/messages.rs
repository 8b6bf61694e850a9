//! What the leader and the copies say to each other.
//!
//! The leader gives [`Order`]s to single vnodes on single cores, these give [`Report`]s; the agents carry both, in
//! [`ControlMessage`]s between nodes. A message may be lost, late, doubled or out of order: every order is repeated until it
//! shows in a report or in the ring, every report until it shows in an order or in the ring, and each names the election
//! and the term under which it was meant, so that what comes late is refused.

use quoit_wire::Version;
use quoit_wire::topology::Seat;

use super::ring::COPIES_MAX;

/// Which leadership: the create revision of the leader's key in etcd. A later one is larger.
pub type Election = u64;

/// What travels between two agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// From the leader. Each order with the seat that it is meant for.
    Orders {
        /// The leader's election.
        election: Election,
        /// At most [`super::messages::ENTRIES_MAX`].
        orders: Vec<(Seat, Order)>,
    },
    /// To the leader. Each report with the seat that gives it.
    Reports {
        /// The election that the core knew when it reported; a leader of another one ignores it.
        election: Election,
        /// At most [`super::messages::ENTRIES_MAX`].
        reports: Vec<(Seat, Report)>,
    },
}

/// Orders or reports in one message: 64 KiB at the most.
pub const ENTRIES_MAX: usize = 1024;

/// What the leader asks of one seat of one vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Refuse every term below `term` from now on, and report what is there (C6). The answer waits until every promise of
    /// not being sealed is over (C5). A seal of a later election, or under a higher term, replaces an earlier one.
    Seal {
        /// The vnode.
        vnode: u32,
        /// The term under which it will go on: one more than the ring's.
        term: u32,
    },
    /// To the primary: seal yourself, bring `target` to your last sequence, report that it is ready (C10). Repeating it
    /// changes nothing; a ring with a higher term ends it, whoever that makes the primary.
    BeginMove {
        /// The vnode.
        vnode: u32,
        /// The term that is to end.
        term: u32,
        /// An in-sync copy.
        target: Seat,
    },
    /// To the primary: propose the in-sync set without `copy`; it is not wanted any more (C8).
    Retire {
        /// The vnode.
        vnode: u32,
        /// The current term.
        term: u32,
        /// The copy to let go.
        copy: Seat,
    },
    /// To the primary: the proposal `number` is settled. The ring of `epoch`, or a later one, says what the in-sync set is.
    Settled {
        /// The vnode.
        vnode: u32,
        /// The proposal's term.
        term: u32,
        /// The proposal's number.
        number: u64,
        /// The ring that has to be known before the outcome is.
        epoch: u32,
    },
}

/// What one seat of one vnode tells the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It is sealed and keeps no promise to a primary any more.
    Sealed {
        /// The vnode.
        vnode: u32,
        /// The term of the seal that it obeys.
        term: u32,
        /// The last write it applied: under which term, and which.
        applied: Version,
    },
    /// The primary proposes which copies count (C8). It has at most one proposal open and repeats it, unchanged, until
    /// it is [`Order::Settled`]; meanwhile it goes by the union or the intersection of the ring's set and the proposed one.
    InSync {
        /// The vnode.
        vnode: u32,
        /// The primary's term.
        term: u32,
        /// Rises with each proposal of a term.
        number: u64,
        /// The copies that should count; [`Seat::NOWHERE`] fills up.
        in_sync: [Seat; COPIES_MAX],
    },
    /// The primary is sealed by its own hand, and `target` has its last sequence (C10).
    MoveReady {
        /// The vnode.
        vnode: u32,
        /// The term that is to end.
        term: u32,
        /// Who can go on.
        target: Seat,
    },
}

impl Order {
    /// The vnode it is about.
    pub const fn vnode(&self) -> u32 {
        match self {
            Self::Seal { vnode, .. }
            | Self::BeginMove { vnode, .. }
            | Self::Retire { vnode, .. }
            | Self::Settled { vnode, .. } => *vnode,
        }
    }
}

impl Report {
    /// The vnode it is about.
    pub const fn vnode(&self) -> u32 {
        match self {
            Self::Sealed { vnode, .. } | Self::InSync { vnode, .. } | Self::MoveReady { vnode, .. } => *vnode,
        }
    }
}
