//! One connection of the generator: what is to be sent, what has half arrived, and who waits.

use super::in_flight::InFlight;
use crate::protocol::Outcome;

/// Bytes a connection's buffers begin with; they grow to what a turn needs and stay there.
const OUTPUT_BYTES: usize = 4096;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Requests encoded since the last send.
    pub(super) filling: Vec<u8>,
    /// Bytes the kernel is sending; untouched until it says so.
    pub(super) sending: Vec<u8>,
    /// Whether a send is under way.
    pub(super) is_sending: bool,
    /// The frame of a set beside what is measured, which is the same every time. Encoded once: copying megabytes in one
    /// turn would keep every other connection waiting, and the server would be charged with it.
    pub(super) kept: Vec<u8>,
    /// Whether `filling` or `sending` is that frame, and goes back when it has been sent.
    pub(super) is_kept: bool,
    /// Bytes of `sending` that have gone.
    pub(super) sent_bytes: usize,
    /// The beginning of a reply that has not all arrived.
    pub(super) carry: Vec<u8>,
    /// Bytes `carry` must have before decoding it is worth another try.
    pub(super) carry_needed: usize,
    /// A reply whose head was read and whose value passes by.
    pub(super) passing: Option<Passing>,
    /// Requests that wait for replies.
    pub(super) in_flight: InFlight,
    /// Whether it stands in the engine's list of connections with room.
    pub(super) is_ready: bool,
    /// Whether the server has closed it.
    pub(super) is_closed: bool,
}

/// A reply whose value passes by unread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passing {
    pub(super) slot: u32,
    pub(super) outcome: Outcome,
    pub(super) value_bytes: usize,
    /// Bytes still to come.
    pub(super) remaining: usize,
}

impl Connection {
    pub(super) fn new(depth: usize, ordered: bool) -> Self {
        Self {
            filling: Vec::with_capacity(OUTPUT_BYTES),
            sending: Vec::with_capacity(OUTPUT_BYTES),
            is_sending: false,
            kept: Vec::new(),
            is_kept: false,
            sent_bytes: 0,
            carry: Vec::with_capacity(OUTPUT_BYTES),
            carry_needed: 0,
            passing: None,
            in_flight: InFlight::new(depth, ordered),
            is_ready: false,
            is_closed: false,
        }
    }
}
