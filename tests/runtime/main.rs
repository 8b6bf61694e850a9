//! The runtime's promises, each held against a whole node in this process: real executors, sockets and cores.
//!
//! One file per promise. Cores share this machine's CPUs by repeats, so more of them run than there are. What a test
//! waits for is a reply, an end of stream or a counter; none decides how long something takes.

#[path = "../wire_client/mod.rs"]
mod wire_client;

mod order;
mod running;
