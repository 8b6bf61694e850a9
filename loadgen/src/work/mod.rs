//! What is asked: the workloads, behind one seam. The engine knows when to send and how; a workload knows what.

mod beside;
mod cache_aside;
mod fill;
mod keys;
mod mix;
pub(crate) mod random;
mod replay;
mod routes;
mod trace;
mod values;
mod verify;
mod zipf;

use crate::engine::Waiting;
use crate::protocol::{Answered, Request};

pub(crate) use beside::{Beside, BesideOptions};
pub(crate) use cache_aside::{CacheAside, CacheAsideOptions};
pub(crate) use fill::{Fill, FillOptions};
pub(crate) use keys::{KeyError, KeySpace};
pub(crate) use mix::{Mix, MixOptions};
pub(crate) use replay::{Replay, ReplayTotals};
pub(crate) use routes::{Route, Routes};
pub(crate) use trace::{TraceError, TraceReader};
pub(crate) use values::SizeRange;
use values::Values;
pub(crate) use verify::{STAMP_BYTES, Verify, VerifyOptions};

/// What is done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Read.
    Get,
    /// Write.
    Set,
    /// Remove.
    Delete,
    /// Add one.
    Increment,
    /// Read many.
    MultiGet,
}

/// One request as a workload thinks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// What is done.
    pub(crate) op: Op,
    /// Keys it names.
    pub(crate) keys: u16,
    /// Bytes of a set's value.
    pub(crate) value_bytes: u32,
    /// The key's number.
    pub(crate) key: u64,
    /// Milliseconds to live; zero is for ever.
    pub(crate) ttl_ms: u64,
    /// Whatever the workload wants to find again with the reply.
    pub(crate) mark: u64,
    /// Traffic beside what is measured: its latency and its keys are not counted.
    pub(crate) is_aside: bool,
}

impl Ask {
    /// A request without value, time to live or mark.
    pub(crate) const fn of(op: Op, key: u64) -> Self {
        Self { op, keys: 1, value_bytes: 0, key, ttl_ms: 0, mark: 0, is_aside: false }
    }
}

/// The request of an `ask` that sets, with one of `values`.
#[inline]
fn set_of<'a>(key: &'a [u8], values: &'a Values, ask: &Ask) -> Request<'a> {
    Request::Set { key, value: values.of(ask.key, ask.value_bytes), ttl_ms: ask.ttl_ms, client_flags: 0 }
}

/// A workload: decides what each connection asks, and learns how it ended. Allocates nothing per request.
pub(crate) trait Work {
    /// What `connection` asks next; `None` when it has nothing to ask for now.
    fn next(&mut self, connection: usize, now_ns: u64) -> Option<Ask>;

    /// The request in full, borrowed until it is encoded.
    fn request(&mut self, connection: usize, ask: &Ask) -> Request<'_>;

    /// Takes note of how a request ended. The value is empty unless [`Self::reads_values`].
    fn done(&mut self, connection: usize, waiting: &Waiting, answered: Answered<'_>, now_ns: u64);

    /// Whether values are looked at; if not, the engine lets the bytes of large ones pass without keeping them.
    fn reads_values(&self) -> bool;

    /// Whether nothing more will ever be asked.
    fn is_exhausted(&self) -> bool;
}
