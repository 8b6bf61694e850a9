//! Quoit's wire format: what travels between clients and nodes, and the ring that says where a key lives.
//!
//! Floor 0. No I/O, no clock, no async; everything borrows from the caller's buffers. `protocol/README.md` is the
//! specification in words, exact enough to write a client from; its byte vectors are tested against this crate.

pub mod assignment;
pub mod changes;
mod flat;
mod header;
pub mod limits;
mod multi;
mod operation;
pub mod peer;
mod reply;
mod request;
pub mod stats;
pub mod topology;
mod version;

pub use header::{
    HelloParameters, HelloReply, IncrementParameters, ItemEntry, KeyEntry, MultiGetParameters, MultiSetParameters,
    ReplyHeader, RequestHeader, ResultEntry, RetryToken, SetCondition, SetParameters, TopologyParameters,
    TouchParameters, TraceContext,
};
pub use multi::{Item, Items, Keys, MultiResult};
pub use operation::{Operation, RequestFlags, Status, WriteMode};
pub use reply::{Reply, ReplyError};
pub use request::{Refusal, Request, RequestBody, RequestHead, RequestOptions, request_head};
pub use version::{SEQUENCE_BITS, Version};

/// The door plate's example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct DoorPlate;

/// The length field of a frame with `length` bytes behind it.
fn frame_length(length: usize) -> u32 {
    u32::try_from(length).expect("a frame is shorter than 4 GiB")
}
