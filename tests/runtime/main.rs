//! The runtime's promises, each held against a whole node in this process: real executors, sockets and cores.
//!
//! One file per promise. Cores share this machine's CPUs by repeats, so more of them run than there are. What a test
//! waits for is a reply, an end of stream or a counter; none decides how long something takes.

#![allow(clippy::print_stdout, reason = "seeds and what was measured are printed")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test that waits too long has failed, and what was measured is printed"
)]

#[path = "../watchdog/mod.rs"]
mod watchdog;
#[path = "../wire_client/mod.rs"]
mod wire_client;

mod backpressure;
mod bad_input;
mod handover;
mod order;
mod pinning;
mod running;
mod saturation;
mod shutdown;
mod wakeups;
