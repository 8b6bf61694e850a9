//! Quoit's native client: requests go straight to the core that owns their key.
//!
//! Three ways in, one behaviour: [`blocking::Client`] for threads, [`tokio::Client`] for tasks, and [`session::Session`], the
//! whole client without I/O and without a clock, for other runtimes and for simulators.
//!
//! ```no_run
//! use std::time::Duration;
//! use quoit_client::{Condition, Options, SetOptions, SetOutcome, blocking::Client};
//!
//! let mut client = Client::connect(["127.0.0.1:7400"], Options::default())?;
//!
//! // A miss is a value, not an error.
//! if client.get("session:7")?.is_none() {
//!     let half_an_hour = SetOptions { ttl: Some(Duration::from_secs(1800)), ..SetOptions::default() };
//!     client.set("session:7", "{}", half_an_hour)?;
//! }
//!
//! // Compare and swap: only if nobody changed the item since it was read.
//! if let Some(hit) = client.get("session:7")? {
//!     let unchanged = SetOptions { condition: Condition::IfVersion(hit.version), ..SetOptions::default() };
//!     match client.set("session:7", "{\"seen\":1}", unchanged)? {
//!         SetOutcome::Stored(version) => println!("now at version {version}"),
//!         SetOutcome::ConditionFailed(_) => println!("somebody was faster"),
//!     }
//! }
//! # Ok::<(), quoit_client::Error>(())
//! ```
//!
//! # Errors
//!
//! Lost connections, restarts, moved keys and overload are mended behind the calls, within [`Options::deadline`]. What is left
//! is an [`Error`]; [`Error::maybe_applied`] tells whether a write may have been carried out all the same. Writes whose repeat
//! would do harm (increment, append, prepend, conditional sets) carry tokens by which servers recognise a repeat, so the
//! client repeats them safely.

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
pub use quoit_wire::{Item, Operation, ReplyError, Status, TraceContext, Version, WriteMode, stats, topology};
pub use request::{Condition, IncrementOptions, Request, SetOptions};
pub use time::Instant;

/// The door plate's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct DoorPlate;
