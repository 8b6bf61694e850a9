//! Nothing leaks: not descriptors, buffers or items in storms of connections, not memory in millions of turns.
//!
//! These tests look at this whole process, so they run one after another and in a binary of their own.

#![allow(clippy::print_stdout, reason = "seeds and what was measured are printed")]
#![allow(clippy::disallowed_methods, reason = "a test that waits too long has failed")]
#![allow(dead_code, reason = "the helpers are shared")]

#[path = "../runtime/running.rs"]
mod running;
#[path = "../watchdog/mod.rs"]
mod watchdog;
#[path = "../wire_client/mod.rs"]
mod wire_client;

mod storm;
mod turns;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps the process to one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

/// Bytes of this process in memory, by the kernel's finest count.
fn resident_bytes() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("/proc is mounted");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("the kernel counts");
    let kibibytes: usize = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kibibytes << 10
}
