//! The fixed-size headers that open every frame, and the fixed-size pieces that may follow a request's.
//!
//! ```text
//! request   0        4        8        12   13      14          16
//!           ┌────────┬────────┬────────┬────┬───────┬───────────┬────────────┬──────────┬────────────┬─────┬───────┐
//!           │ length │ id     │ epoch  │ op │ flags │ key_bytes │ trace (25) │ retry    │ parameters │ key │ value │
//!           │ u32    │ u32    │ u32    │ u8 │ u8    │ u16       │ if flagged │ token 12 │ of the op  │     │       │
//!           └────────┴────────┴────────┴────┴───────┴───────────┴────────────┴──────────┴────────────┴─────┴───────┘
//! reply     0        4        8        9       10               12        20             24
//!           ┌────────┬────────┬────────┬───────┬────────────────┬─────────┬──────────────┬───────┐
//!           │ length │ id     │ status │ flags │ retry_after_ms │ version │ client_flags │ value │
//!           │ u32    │ u32    │ u8     │ u8    │ u16            │ u64     │ u32          │       │
//!           └────────┴────────┴────────┴───────┴────────────────┴─────────┴──────────────┴───────┘
//! ```
//! All integers are little-endian. `length` counts the bytes after itself. What a frame does not say is its value's
//! length: it is what remains.

use crate::flat::flat;

flat! {
    /// What opens every request, after its length.
    RequestHeader / ArchivedRequestHeader [12] {
        /// The client's name for the request; its reply carries it. Zero is the server's own.
        id: u32,
        /// The epoch of the topology the client routed by; zero when it has none yet.
        epoch: u32,
        /// Code of an [`crate::Operation`].
        operation: u8,
        /// Bits of [`crate::RequestFlags`].
        flags: u8,
        /// Length of the key; zero where the operation has none.
        key_bytes: u16,
    }

    /// What opens every reply, after its length.
    ReplyHeader / ArchivedReplyHeader [20] {
        /// The request's id; zero for news from the server.
        id: u32,
        /// Code of a [`crate::Status`].
        status: u8,
        /// [`ReplyHeader::STALE`]; others are reserved. A client ignores the bits it does not know.
        flags: u8,
        /// With `Overloaded`: milliseconds to wait before trying again. Else zero.
        retry_after_ms: u16,
        /// The item's version after a write or with a hit; an epoch with `Moved`, `TopologyChanged` and a topology.
        version: u64,
        /// The client's flags, kept with the item.
        client_flags: u32,
    }

    /// A W3C trace context. Costs its bytes only where a request carries one.
    TraceContext / ArchivedTraceContext [25] {
        /// The trace.
        trace_id: [u8; 16],
        /// The caller's span.
        span_id: [u8; 8],
        /// W3C trace flags; bit 0 is "sampled".
        trace_flags: u8,
    }

    /// Makes a write that is not idempotent safe to repeat: a number that rises by one per such write of a session.
    ///
    /// A session sends over one connection at a time, in the order of its numbers. After a reconnect it sends the
    /// unanswered ones again, with the same numbers and [`crate::RequestFlags::REPEAT`], before any new one.
    RetryToken / ArchivedRetryToken [12] {
        /// The session, drawn at random by the client.
        session: u64,
        /// The write's number within the session, from 1.
        number: u32,
    }

    /// Parameters of a hello. The key is empty; the value holds the credentials that `security` names.
    HelloParameters / ArchivedHelloParameters [20] {
        /// [`HelloParameters::MAGIC`].
        magic: u32,
        /// Lowest protocol version the client speaks.
        version_min: u16,
        /// Highest protocol version the client speaks.
        version_max: u16,
        /// Bits of optional features the client understands.
        features: u64,
        /// The core that shall keep the connection; [`HelloParameters::ANY_CORE`] leaves it where it was accepted.
        core: u16,
        /// Reserved for authentication (low four bits) and TLS (high four); zero is neither.
        security: u16,
    }

    /// Parameters of a set.
    SetParameters / ArchivedSetParameters [22] {
        /// Milliseconds to live; zero is for ever.
        ttl_ms: u64,
        /// With [`SetCondition::IfVersion`] the version the item must have, else zero.
        if_version: u64,
        /// Kept with the item and given back with every hit.
        client_flags: u32,
        /// Code of a [`SetCondition`].
        condition: u8,
        /// Bits of [`SetParameters::IDLE_EXPIRY`]; all others zero.
        options: u8,
    }

    /// Parameters of touch and get-and-touch.
    TouchParameters / ArchivedTouchParameters [8] {
        /// Milliseconds to live from now; zero is for ever.
        ttl_ms: u64,
    }

    /// Parameters of an increment.
    IncrementParameters / ArchivedIncrementParameters [25] {
        /// What is added; negative to decrement.
        delta: i64,
        /// The counter's value when there is none yet (the delta is not added to it). The reply's value is the counter's
        /// new value as eight little-endian bytes.
        initial: i64,
        /// Time to live of a counter made by this request; zero is for ever. An existing one keeps its own.
        ttl_ms: u64,
        /// One: make a missing counter from `initial`. Zero: a missing counter is a miss.
        create: u8,
    }

    /// Parameters of a multi-get; the value holds `keys` times [`KeyEntry`] and key.
    MultiGetParameters / ArchivedMultiGetParameters [2] {
        /// How many keys follow.
        keys: u16,
    }

    /// Parameters of a multi-set; the value holds `items` times [`ItemEntry`], key and value.
    MultiSetParameters / ArchivedMultiSetParameters [2] {
        /// How many items follow.
        items: u16,
    }

    /// Parameters of a topology request.
    TopologyParameters / ArchivedTopologyParameters [4] {
        /// The epoch the client has; when it is still the newest the reply's body is empty.
        known_epoch: u32,
    }

    /// Stands before each key of a multi-get.
    KeyEntry / ArchivedKeyEntry [2] {
        /// Length of the key that follows.
        key_bytes: u16,
    }

    /// Stands before each item of a multi-set.
    ItemEntry / ArchivedItemEntry [18] {
        /// Milliseconds to live; zero is for ever.
        ttl_ms: u64,
        /// Kept with the item.
        client_flags: u32,
        /// Length of the value that follows the key.
        value_bytes: u32,
        /// Length of the key that follows.
        key_bytes: u16,
    }

    /// Stands before each value in the reply to a multi-get or multi-set, in the order of the request.
    ResultEntry / ArchivedResultEntry [20] {
        /// The item's version.
        version: u64,
        /// The client's flags, kept with the item.
        client_flags: u32,
        /// Length of the value that follows.
        value_bytes: u32,
        /// Code of a [`crate::Status`].
        status: u8,
        /// Zero; as in the reply header.
        flags: u8,
        /// As in the reply header.
        retry_after_ms: u16,
    }

    /// The body of the reply to a hello.
    HelloReply / ArchivedHelloReply [36] {
        /// Bits of the features both sides understand.
        features: u64,
        /// The node that answers.
        node: u64,
        /// Protocol version spoken from here on.
        version: u16,
        /// The core that keeps this connection.
        core: u16,
        /// Cores of this node.
        cores: u16,
        /// Requests a connection may have unanswered; past it the server stops reading.
        inflight_max: u16,
        /// Largest value this server takes.
        value_bytes_max: u32,
        /// Largest frame this server takes.
        frame_bytes_max: u32,
        /// Epoch of the node's topology.
        epoch: u32,
    }
}

impl RequestHeader {
    /// Bytes of the length before the header and the header itself.
    pub const FRAME_BYTES: usize = 4 + Self::BYTES;
}

impl ReplyHeader {
    /// Mark: what the reply says may be stale, or not be committed yet.
    pub const STALE: u8 = 1;
    /// Where the marks lie in a frame.
    pub const FLAGS_AT: usize = 9;
    /// Bytes of the length before the header and the header itself.
    pub const FRAME_BYTES: usize = 4 + Self::BYTES;
}

impl ResultEntry {
    /// Where the marks lie in an entry; they are those of [`ReplyHeader`].
    pub const FLAGS_AT: usize = 17;
}

impl HelloParameters {
    /// "QUOT" as it stands in the stream.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"QUOT");
    /// The protocol version of this crate.
    pub const VERSION: u16 = 1;
    /// `core` of a client that does not mind.
    pub const ANY_CORE: u16 = u16::MAX;
    /// Feature: requests may carry a trace context.
    pub const FEATURE_TRACE: u64 = 1;
    /// Feature: the server may send `TopologyChanged`.
    pub const FEATURE_TOPOLOGY_NEWS: u64 = 1 << 1;
    /// Feature: the server answers [`crate::Operation::TopologyChanges`].
    pub const FEATURE_TOPOLOGY_CHANGES: u64 = 1 << 2;
    /// Every feature of this crate.
    pub const FEATURES: u64 = Self::FEATURE_TRACE | Self::FEATURE_TOPOLOGY_NEWS | Self::FEATURE_TOPOLOGY_CHANGES;
}

impl SetParameters {
    /// Option: the time to live starts anew with every hit.
    pub const IDLE_EXPIRY: u8 = 1;
}

/// When a set is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SetCondition {
    /// Always.
    #[default]
    Always = 0,
    /// Only when there is no such item.
    IfAbsent = 1,
    /// Only when there is one.
    IfPresent = 2,
    /// Only when there is one of exactly the version given.
    IfVersion = 3,
}

impl SetCondition {
    /// The condition with this code on the wire.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Always),
            1 => Some(Self::IfAbsent),
            2 => Some(Self::IfPresent),
            3 => Some(Self::IfVersion),
            _ => None,
        }
    }
}
