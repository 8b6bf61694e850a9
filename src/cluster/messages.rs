//! What the leader and the copies say to each other.
//!
//! The leader gives [`Order`]s to single vnodes on single cores, these give [`Report`]s; the agents carry both, in
//! [`ControlMessage`]s between nodes. A message may be lost, late, doubled or out of order: every order is repeated until it
//! shows in a report or in the ring, every report until it shows in an order or in the ring, and each names the election
//! and the term under which it was meant, so that what comes late is refused.
//!
//! ```text
//! ControlMessage  0        1      2        10      12        Entry  0      4      5       9      13
//!                 ┌────────┬──────┬────────┬───────┐               ┌──────┬──────┬───────┬──────┬────────────────────┐
//!                 │ format │ kind │ number │ count │ entries …     │ seat │ kind │ vnode │ term │ what the kind has  │
//!                 │ u8     │ u8   │ u64    │ u16   │               │ Seat │ u8   │ u32   │ u32  │                    │
//!                 └────────┴──────┴────────┴───────┘               └──────┴──────┴───────┴──────┴────────────────────┘
//! Load            12            20           28                 36                       44     Lag  0   8             16      24   32
//!                 ┌─────────────┬────────────┬──────────────────┬────────────────────────┬──────┬    ┌────┬─────────────┬────────┬───────┐
//!                 │ held_vnodes │ held_bytes │ unstreamed_bytes │ streamed_bytes_per_sec │ lags …    │ id │ incarnation │ writes │ bytes │
//!                 └─────────────┴────────────┴──────────────────┴────────────────────────┴──────┴    └────┴─────────────┴────────┴───────┘
//! ```
//! The number is the election of orders and reports, and that of the question where an operator asks (`load.rs`).

use quoit_wire::Version;
use quoit_wire::topology::Seat;

use super::bytes::{BytesError, Reader, put_seat};
use super::load::Load;
use super::records::FORMAT;
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
    /// An operator wants to know how the other node is loaded.
    AskLoad {
        /// The question's number, which comes back.
        number: u64,
    },
    /// How this node is loaded.
    Load {
        /// The number of the question.
        number: u64,
        /// With at most [`super::messages::ENTRIES_MAX`] nodes that lag.
        load: Load,
    },
}

/// Orders or reports in one message: 64 KiB at the most.
pub const ENTRIES_MAX: usize = 1024;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message between nodes of this version: {0}")]
pub struct MessageError(&'static str);

impl From<BytesError> for MessageError {
    fn from(BytesError(what): BytesError) -> Self {
        Self(what)
    }
}

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
    /// changes nothing. A primary that has not reported yet may give up and go on; once it has, only a ring with a higher
    /// term ends it, whoever that makes the primary.
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
    /// It is sealed and keeps no promise to a primary any more. Repeated, to whoever leads, until a ring with that term is
    /// here: the leader that asked may be gone, and only a leader can end a seal.
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
        /// The ring that the primary went by. If the vnode's roles have changed since, it is refused: a copy may have been let
        /// go and taken again, and not have any more what the primary knows it to have.
        epoch: u32,
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

impl ControlMessage {
    /// The message as it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, number, count) = match self {
            Self::Orders { election, orders } => (0, *election, orders.len()),
            Self::Reports { election, reports } => (1, *election, reports.len()),
            Self::AskLoad { number } => (2, *number, 0),
            Self::Load { number, load } => (3, *number, load.lags.len()),
        };
        assert!(count <= ENTRIES_MAX, "{count} entries in a message");
        let mut out = vec![FORMAT, kind];
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&(count as u16).to_le_bytes());
        match self {
            Self::Orders { orders, .. } => orders.iter().for_each(|(seat, order)| put_order(&mut out, *seat, order)),
            Self::Reports { reports, .. } => {
                reports.iter().for_each(|(seat, report)| put_report(&mut out, *seat, report));
            }
            Self::AskLoad { .. } => {}
            Self::Load { load, .. } => load.put(&mut out),
        }
        out
    }

    /// Reads a message that came from a peer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(MessageError("another version"));
        }
        let (kind, number, count) = (reader.u8()?, reader.u64()?, usize::from(reader.u16()?));
        if count > ENTRIES_MAX {
            return Err(MessageError("too many entries"));
        }
        let message = match kind {
            0 => Self::Orders { election: number, orders: entries(&mut reader, count, order)? },
            1 => Self::Reports { election: number, reports: entries(&mut reader, count, report)? },
            2 if count == 0 => Self::AskLoad { number },
            3 => Self::Load { number, load: Load::take(&mut reader, count)? },
            _ => return Err(MessageError("of no kind that there is")),
        };
        reader.end()?;
        Ok(message)
    }
}

fn entries<T>(
    reader: &mut Reader<'_>,
    count: usize,
    body: impl Fn(&mut Reader<'_>, u8, u32, u32) -> Result<T, MessageError>,
) -> Result<Vec<(Seat, T)>, MessageError> {
    let entry = |_| {
        let seat = reader.seat()?;
        let (kind, vnode, term) = (reader.u8()?, reader.u32()?, reader.u32()?);
        Ok((seat, body(reader, kind, vnode, term)?))
    };
    (0..count).map(entry).collect()
}

fn order(reader: &mut Reader<'_>, kind: u8, vnode: u32, term: u32) -> Result<Order, MessageError> {
    Ok(match kind {
        0 => Order::Seal { vnode, term },
        1 => Order::BeginMove { vnode, term, target: reader.seat()? },
        2 => Order::Retire { vnode, term, copy: reader.seat()? },
        3 => Order::Settled { vnode, term, number: reader.u64()?, epoch: reader.u32()? },
        _ => return Err(MessageError("an order that is none")),
    })
}

fn report(reader: &mut Reader<'_>, kind: u8, vnode: u32, term: u32) -> Result<Report, MessageError> {
    Ok(match kind {
        0 => Report::Sealed { vnode, term, applied: Version::from_u64(reader.u64()?) },
        1 => {
            let (number, epoch) = (reader.u64()?, reader.u32()?);
            let mut in_sync = [Seat::NOWHERE; COPIES_MAX];
            for seat in &mut in_sync {
                *seat = reader.seat()?;
            }
            Report::InSync { vnode, term, number, epoch, in_sync }
        }
        2 => Report::MoveReady { vnode, term, target: reader.seat()? },
        _ => return Err(MessageError("a report that is none")),
    })
}

fn put_order(out: &mut Vec<u8>, seat: Seat, order: &Order) {
    let (kind, term) = match order {
        Order::Seal { term, .. } => (0, *term),
        Order::BeginMove { term, .. } => (1, *term),
        Order::Retire { term, .. } => (2, *term),
        Order::Settled { term, .. } => (3, *term),
    };
    put_entry(out, seat, kind, order.vnode(), term);
    match order {
        Order::Seal { .. } => {}
        Order::BeginMove { target: seat, .. } | Order::Retire { copy: seat, .. } => put_seat(out, *seat),
        Order::Settled { number, epoch, .. } => {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
        }
    }
}

fn put_report(out: &mut Vec<u8>, seat: Seat, report: &Report) {
    let (kind, term) = match report {
        Report::Sealed { term, .. } => (0, *term),
        Report::InSync { term, .. } => (1, *term),
        Report::MoveReady { term, .. } => (2, *term),
    };
    put_entry(out, seat, kind, report.vnode(), term);
    match report {
        Report::Sealed { applied, .. } => out.extend_from_slice(&applied.as_u64().to_le_bytes()),
        Report::InSync { number, epoch, in_sync, .. } => {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
            in_sync.iter().for_each(|seat| put_seat(out, *seat));
        }
        Report::MoveReady { target, .. } => put_seat(out, *target),
    }
}

fn put_entry(out: &mut Vec<u8>, seat: Seat, kind: u8, vnode: u32, term: u32) {
    put_seat(out, seat);
    out.push(kind);
    out.extend_from_slice(&vnode.to_le_bytes());
    out.extend_from_slice(&term.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::NodeRef;
    use crate::cluster::load::Lag;

    fn messages() -> [ControlMessage; 4] {
        let (seat, target) = (Seat { node: 3, core: 1 }, Seat { node: 900, core: 7 });
        let (vnode, term) = (65_535, 1 << 23);
        let orders = vec![
            (seat, Order::Seal { vnode, term }),
            (seat, Order::BeginMove { vnode, term, target }),
            (seat, Order::Retire { vnode, term, copy: target }),
            (seat, Order::Settled { vnode, term, number: u64::MAX, epoch: 9 }),
        ];
        let reports = vec![
            (seat, Report::Sealed { vnode, term, applied: Version::new(7, 1 << 39) }),
            (
                seat,
                Report::InSync {
                    vnode,
                    term,
                    number: 5,
                    epoch: 77,
                    in_sync: [target, seat, Seat::NOWHERE, Seat::NOWHERE],
                },
            ),
            (seat, Report::MoveReady { vnode, term, target }),
        ];
        let lag = |writes| Lag { writes, bytes: 100 * writes };
        let lags = (1..4).map(|id| (NodeRef { id, incarnation: 9 - id }, lag(id))).collect();
        let load = Load { held_vnodes: 1, held_bytes: 2, unstreamed_bytes: 3, streamed_bytes_per_sec: u64::MAX, lags };
        [
            ControlMessage::Orders { election: 77, orders },
            ControlMessage::Reports { election: 1 << 60, reports },
            ControlMessage::AskLoad { number: u64::MAX },
            ControlMessage::Load { number: 5, load },
        ]
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_cut_it_is_refused() {
        for message in messages() {
            let bytes = message.to_bytes();
            assert_eq!(ControlMessage::from_bytes(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert!(ControlMessage::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(bytes in vec(any::<u8>(), 0..100), kind in 0u8..4, count in 0u8..9) {
            let head = [&[FORMAT, kind][..], &[0; 8], &[count, 0], &bytes].concat();
            for bytes in [bytes, head] {
                if let Ok(message) = ControlMessage::from_bytes(&bytes) {
                    prop_assert_eq!(message.to_bytes(), bytes);
                }
            }
        }
    }
}
