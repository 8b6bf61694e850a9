//! The protocols the generator speaks, behind one seam: `encode` a request, `decode` a reply. One file each.
//!
//! Decoding says how long a reply is as soon as its head is there, so that the engine can let the bytes of a large value
//! pass without keeping them.

mod decimal;
mod echo;
mod memcache;
mod memcache_meta;
mod quoit;
mod quoit_hello;
mod resp;

use std::ops::Range;

use crate::engine::InFlight;

pub(crate) use echo::Echo;
pub(crate) use memcache::Memcache;
pub(crate) use memcache_meta::MemcacheMeta;
pub(crate) use quoit::Quoit;
pub(crate) use quoit_hello::{HelloError, fetch_stats, fetch_topology, say_hello};
pub(crate) use resp::Resp;

/// A request in no protocol yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Reads one item.
    Get { key: &'a [u8] },
    /// Writes one item; a `ttl_ms` of zero is for ever. Redis knows no client flags, and does not store them.
    Set { key: &'a [u8], value: &'a [u8], ttl_ms: u64, client_flags: u32 },
    /// Removes one item.
    Delete { key: &'a [u8] },
    /// Adds one to a counter; a missing one is made with the value 1.
    Increment { key: &'a [u8] },
    /// Reads many items: keys of `key_bytes` each, back to back.
    MultiGet { keys: &'a [u8], key_bytes: usize },
}

impl Request<'_> {
    /// The one key it names.
    pub(crate) const fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Get { key } | Self::Set { key, .. } | Self::Delete { key } | Self::Increment { key } => Some(key),
            Self::MultiGet { .. } => None,
        }
    }
}

/// The head of a reply, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The request it answers.
    pub(crate) slot: u32,
    /// Bytes of the whole reply; some may not have arrived.
    pub(crate) frame_bytes: usize,
    /// Where the value lies in the reply; with a refusal, the server's message.
    pub(crate) value: Range<usize>,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

/// What became of a request, as a workload is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered<'a> {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// The item's version after a write or with a hit; zero where it is not known: only the native client looks.
    pub(crate) version: u64,
    /// The value of a hit, where workloads look at values; with a refusal, its message.
    pub(crate) value: &'a [u8],
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A get found the item.
    Hit,
    /// There was no such item.
    Miss,
    /// A set was carried out.
    Stored,
    /// A delete removed the item.
    Deleted,
    /// The counter's new value.
    Counted(i64),
    /// A multi-get found so many of its items.
    Many {
        /// Items found.
        hits: u32,
    },
    /// The server said no.
    Refused(Refusal),
    /// A write that has no answer: it may have been carried out (native client only).
    InDoubt,
}

/// Why a server said no.
///
/// Four bytes wide, so that an [`Outcome`] is copied in aligned pieces: with one byte the copies straddle each other's
/// pieces, and the stalls were a tenth of the generator's own time at depth 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Refusal {
    /// Key or value over a limit.
    TooLarge,
    /// Memory is full and nothing is evicted.
    NoSpace,
    /// Too busy.
    Overloaded,
    /// Another node owns the key now.
    Moved,
    /// Anything else; the message says what.
    Other,
}

/// Bytes that the protocol does not allow. The connection can't be trusted after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// Not a reply.
    #[error("not a reply of the protocol {protocol}: \"{start}\"; does the server speak it?")]
    NotAReply {
        /// The protocol expected.
        protocol: &'static str,
        /// The first bytes, escaped.
        start: String,
    },
    /// A reply that nobody waits for.
    #[error("a reply that answers no request of this connection (id {0})")]
    Unasked(u32),
}

/// A protocol, with what it needs to know about the run.
#[derive(Clone, Debug)]
pub(crate) enum Protocol {
    /// Quoit's own.
    Quoit(Quoit),
    /// Memcached's text protocol.
    Memcache(Memcache),
    /// Memcached's meta commands.
    MemcacheMeta(MemcacheMeta),
    /// Redis and all that speak its protocol.
    Resp(Resp),
    /// The echo.
    Echo(Echo),
}

impl Protocol {
    /// Whether replies come in the order of the requests.
    pub(crate) const fn is_ordered(&self) -> bool {
        !matches!(self, Self::Quoit(_))
    }

    /// Appends a request that waits in `slot` to `out`.
    #[inline]
    pub(crate) fn encode(&mut self, slot: u32, request: Request<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Quoit(quoit) => quoit.encode(slot, request, out),
            Self::Memcache(memcache) => memcache.encode(request, out),
            Self::MemcacheMeta(meta) => meta.encode(request, out),
            Self::Resp(resp) => resp.encode(request, out),
            Self::Echo(echo) => echo.encode(request, out),
        }
    }

    /// Reads the reply at the front of `bytes`; `None` when its head has not all arrived.
    #[inline]
    pub(crate) fn decode(&self, bytes: &[u8], in_flight: &InFlight) -> Result<Option<Reply>, ProtocolError> {
        if let Self::Quoit(quoit) = self {
            return quoit.decode(bytes, in_flight);
        }
        let (slot, waiting) = in_flight.oldest().ok_or(ProtocolError::Unasked(0))?;
        let op = waiting.ask.op;
        let reply = match self {
            Self::Memcache(memcache) => memcache.decode(bytes, op)?,
            Self::MemcacheMeta(meta) => meta.decode(bytes, op)?,
            Self::Resp(resp) => resp.decode(bytes, op)?,
            Self::Echo(echo) => echo.decode(bytes),
            Self::Quoit(_) => unreachable!("its replies are not in order, and were decoded above"),
        };
        Ok(reply.map(|reply| Reply { slot, ..reply }))
    }
}

impl Reply {
    /// A reply to the oldest request, without a value.
    const fn bare(frame_bytes: usize, outcome: Outcome) -> Self {
        Self { slot: 0, frame_bytes, value: 0..0, outcome }
    }
}

impl ProtocolError {
    /// Bytes of a wrong reply that a message shows.
    const SHOWN_BYTES: usize = 60;

    fn not_a_reply(protocol: &'static str, bytes: &[u8]) -> Self {
        let start = bytes[..bytes.len().min(Self::SHOWN_BYTES)].escape_ascii().to_string();
        Self::NotAReply { protocol, start }
    }
}

/// Bytes of a line in a text protocol; a longer one is not a line.
const LINE_BYTES_MAX: usize = 2048;

/// The line at the front of `bytes`, without its end: `Ok(None)` when its end has not arrived.
#[inline]
fn line<'a>(protocol: &'static str, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, ProtocolError> {
    let searched = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match searched.iter().position(|&byte| byte == b'\n') {
        Some(end) if end > 0 && searched[end - 1] == b'\r' => Ok(Some(&searched[..end - 1])),
        None if bytes.len() < LINE_BYTES_MAX => Ok(None),
        _ => Err(ProtocolError::not_a_reply(protocol, bytes)),
    }
}
