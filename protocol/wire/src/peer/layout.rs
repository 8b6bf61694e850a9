//! The fixed-size pieces of peer messages.
//!
//! ```text
//! frame      0        4      5
//!            ┌────────┬──────┬────────────────────────────────────────────┐
//!            │ length │ kind │ head of the kind, entries or bytes         │
//!            │ u32    │ u8   │                                            │
//!            └────────┴──────┴────────────────────────────────────────────┘
//! hello      ┌───────┬─────────┬──────┬────────────┬──────────────┬─────────────┬────────────────────┐
//!            │ magic │ version │ core │ to_core    │ cluster (16) │ node        │ to_node            │
//!            │ u32   │ u16     │ u16  │ u16        │              │ 2 × u64     │ 2 × u64            │
//!            └───────┴─────────┴──────┴────────────┴──────────────┴─────────────┴────────────────────┘
//! heartbeat  ┌───────┬───────┬┄
//!            │ stamp │ count │ entries: vnode u16 · term u32 · sequence u64 · settled u64
//!            │ u64   │ u16   │
//!            └───────┴───────┴┄
//! acks       ┌───────┬───────┬───────┬┄
//!            │ stamp │ epoch │ count │ entries: vnode u16 · marks u8 · term u32 · last_term u32 · applied u64 · cursor u32
//!            │ u64   │ u32   │ u16   │
//!            └───────┴───────┴───────┴┄
//! begin      ┌───────┬───────┬──────┬──────┬───────┬─────────┬┄
//!            │ vnode │ wipes │ term │ base │ terms │ results │ TermEntry × terms, ResultEntry × results
//!            │ u16   │ u8    │ u32  │ u64  │ u8    │ u32     │
//!            └───────┴───────┴──────┴──────┴───────┴─────────┴┄
//! appends    ┌───────┬───────┬┄
//!            │ stamp │ count │ append × count
//!            │ u64   │ u16   │
//!            └───────┴───────┴┄
//! append     ┌───────┬──────┬────────────────┬─────────┬───────┬─────────┬┄
//!            │ vnode │ term │ first_sequence │ settled │ bytes │ records │ RecordEntry [token] key value, × records
//!            │ u16   │ u32  │ u64            │ u64     │ u32   │ u16     │
//!            └───────┴──────┴────────────────┴─────────┴───────┴─────────┴┄
//! slice      ┌───────┬──────┬─────────────┬──────┬──────┬───────┬┄
//!            │ vnode │ term │ at_sequence │ from │ next │ items │ sequence u64, RecordEntry key value, × items
//!            │ u16   │ u32  │ u64         │ u32  │ u32  │ u16   │
//!            └───────┴──────┴─────────────┴──────┴──────┴───────┴┄
//! handover   ┌───────┬──────┬───────────┬──────────┐
//!            │ vnode │ term │ next_term │ sequence │
//!            │ u16   │ u32  │ u32       │ u64      │
//!            └───────┴──────┴───────────┴──────────┘
//! record     ┌──────┬───────┬───────────┬─────────────┬──────────────┬────────┬─────────┐ ┌───────────────────────┐
//!            │ kind │ marks │ key_bytes │ value_bytes │ client_flags │ ttl_ms │ idle_ms │ │ ResultEntry           │
//!            │ u8   │ u8    │ u16       │ u32         │ u32          │ u64    │ u64     │ │ with the mark         │
//!            └──────┴───────┴───────────┴─────────────┴──────────────┴────────┴─────────┘ └───────────────────────┘
//! ```
//! All integers are little-endian, without padding; `length` counts the bytes behind itself.

use crate::flat::flat;

flat! {
    /// The first frame each way of a peer link.
    PeerHello / ArchivedPeerHello [58] {
        /// [`PeerHello::MAGIC`].
        magic: u32,
        /// [`PeerHello::VERSION`].
        version: u16,
        /// The sender's core.
        core: u16,
        /// The core it wants to talk to.
        to_core: u16,
        /// The cluster's uuid.
        cluster: [u8; 16],
        /// The sender's node id.
        node: u64,
        /// The sender's incarnation.
        incarnation: u64,
        /// The node id it wants to talk to.
        to_node: u64,
        /// The incarnation it wants to talk to.
        to_incarnation: u64,
    }

    /// One vnode in a heartbeat: "I lead it under this term, and have numbered so many writes".
    HeartbeatEntry / ArchivedHeartbeatEntry [22] {
        /// The vnode.
        vnode: u16,
        /// The primary's term.
        term: u32,
        /// The number of its last write.
        sequence: u64,
        /// Up to here every in-sync copy has applied.
        settled: u64,
    }

    /// One vnode in a copy's answer: where it stands.
    AckEntry / ArchivedAckEntry [23] {
        /// The vnode.
        vnode: u16,
        /// Bits of [`AckEntry::BEGUN`], [`AckEntry::PROMISE`] and [`AckEntry::SHORT`].
        marks: u8,
        /// The highest term the copy knows of; above the primary's it says that the primary is one no longer.
        term: u32,
        /// The term of the last write the copy has applied.
        last_term: u32,
        /// The number of that write.
        applied: u64,
        /// How far a copy that catches up has got; [`AckEntry::CURSOR_END`] when nothing is missing.
        cursor: u32,
    }

    /// Where a term began.
    TermEntry / ArchivedTermEntry [12] {
        /// The term.
        term: u32,
        /// Its first sequence.
        first_sequence: u64,
    }

    /// The result of a write that is not idempotent, for whoever repeats it.
    ResultEntry / ArchivedResultEntry [30] {
        /// The retry token's session.
        session: u64,
        /// The retry token's number.
        number: u32,
        /// The version it made.
        version: u64,
        /// A counter's new value; zero without one.
        counter: i64,
        /// Code of a [`crate::Status`].
        status: u8,
        /// One when `counter` says something.
        has_counter: u8,
    }

    /// Head of a begin.
    BeginHead / ArchivedBeginHead [20] {
        /// The vnode.
        vnode: u16,
        /// One: what the copy holds is to be dropped.
        wipes: u8,
        /// The primary's term.
        term: u32,
        /// The copy stands here now; the next write it gets has the number after it.
        base: u64,
        /// [`TermEntry`]s that follow.
        terms: u8,
        /// [`ResultEntry`]s that follow them.
        results: u32,
    }

    /// Head of one vnode's append.
    AppendHead / ArchivedAppendHead [28] {
        /// The vnode.
        vnode: u16,
        /// The primary's term.
        term: u32,
        /// The number of the first record; the others follow without a gap.
        first_sequence: u64,
        /// As in a heartbeat.
        settled: u64,
        /// Bytes of the records that follow.
        bytes: u32,
        /// How many these are.
        records: u16,
    }

    /// Head of a slice.
    SliceHead / ArchivedSliceHead [24] {
        /// The vnode.
        vnode: u16,
        /// The primary's term.
        term: u32,
        /// The number of the last write when the slice was read. The slice fits a copy that stands exactly there.
        at_sequence: u64,
        /// The cursor it begins at.
        from: u32,
        /// The cursor behind it.
        next: u32,
        /// Items that follow.
        items: u16,
    }

    /// A primary that was asked to hand over has sealed itself.
    Handover / ArchivedHandover [18] {
        /// The vnode.
        vnode: u16,
        /// The term it led under.
        term: u32,
        /// The term for which the target is to be sealed.
        next_term: u32,
        /// The number of the last write.
        sequence: u64,
    }

    /// Head of a record.
    RecordEntry / ArchivedRecordEntry [28] {
        /// Code of a [`crate::peer::Change`].
        kind: u8,
        /// [`RecordEntry::HAS_RESULT`] or nothing.
        marks: u8,
        /// Length of the key.
        key_bytes: u16,
        /// Length of the value.
        value_bytes: u32,
        /// The client's flags.
        client_flags: u32,
        /// Milliseconds to live; zero is for ever.
        ttl_ms: u64,
        /// The time to live that every hit starts anew; zero: hits change nothing.
        idle_ms: u64,
    }

    /// Stands before each item of a slice.
    SliceEntry / ArchivedSliceEntry [8] {
        /// The number of the write that made the item.
        sequence: u64,
    }

    /// Head of heartbeats and appends.
    StampHead / ArchivedStampHead [10] {
        /// The primary's clock in milliseconds, which acks give back.
        stamp: u64,
        /// Entries that follow.
        entries: u16,
    }

    /// Head of acks.
    AckHead / ArchivedAckHead [14] {
        /// The newest stamp that has come from the primary.
        stamp: u64,
        /// Of the ring that the copy went by when it wrote this. Of a copy that was let go and taken again in the meantime,
        /// an ack of before says nothing.
        epoch: u32,
        /// Entries that follow.
        entries: u16,
    }
}

impl PeerHello {
    /// "QPER" as it stands in the stream.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"QPER");
    /// The version of the peer protocol. Nodes of one cluster speak the same.
    pub const VERSION: u16 = 2;
}

impl AckEntry {
    /// The copy has begun to follow this term.
    pub const BEGUN: u8 = 1;
    /// The copy will not be sealed for [`crate::limits::PROMISE_MS`] from when it received the stamp.
    pub const PROMISE: u8 = 1 << 1;
    /// The copy has no memory left: it asks to leave the in-sync set.
    pub const SHORT: u8 = 1 << 2;
    /// All marks.
    pub(crate) const MARKS: u8 = Self::BEGUN | Self::PROMISE | Self::SHORT;
    /// The cursor of a copy from which nothing is missing.
    pub const CURSOR_END: u32 = 1 << 24;
}

impl RecordEntry {
    /// A [`ResultEntry`] follows.
    pub const HAS_RESULT: u8 = 1;
}
