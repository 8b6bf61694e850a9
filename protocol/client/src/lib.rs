//! Quoit's native client.

mod answer;
#[cfg(feature = "blocking")]
pub mod blocking;
mod error;
mod options;
mod request;
pub mod session;
mod time;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use answer::{Answer, Counter, Hit, Outcome, SetOutcome};
pub use error::{Error, Fault, ProtocolError};
pub use options::Options;
pub use quoit_wire::{Item, Operation, Status, TraceContext, Version, stats, topology};
pub use request::{Condition, IncrementOptions, Request, SetOptions};
pub use time::Instant;
