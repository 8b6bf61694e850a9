//! The end-to-end proof: the real `quoit` and the real `quoit-loadgen` against each other, as processes.
//!
//! `verify` puts verified traffic on a node over two cores and looks at its memory, `life` ends and restarts nodes under
//! load, `replay` plays traces, `warm` restarts nodes that keep what they had. Short runs are part of `make test`; `make soak` runs the ignored ones, which take minutes.
//! One test at a time has the machine: each keeps every CPU of a small one busy.

#![expect(clippy::print_stdout, reason = "the figures of a soak; without --nocapture cargo keeps them to itself")]

#[path = "../children/mod.rs"]
mod children;
#[path = "../generator/mod.rs"]
mod generator;
mod life;
#[path = "../node_process/mod.rs"]
mod node_process;
mod replay;
mod verify;
mod warm;
#[path = "../watchdog/mod.rs"]
mod watchdog;
#[path = "../wire_client/mod.rs"]
mod wire_client;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

static MACHINE: Mutex<()> = Mutex::new(());

/// Waits for the machine, and keeps it until the guard goes. That another test has failed is no reason not to run.
fn whole_machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of this machine's CPUs that may be used.
fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// `--cores` of a node of two cores: two CPUs where there are two.
fn two_cores() -> &'static str {
    if cpus() > 1 { "0,1" } else { "0,0" }
}
