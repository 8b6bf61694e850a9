//! The hot path allocates nothing: every allocation of the node's threads is counted while clients get and set.
//!
//! In a binary of its own, since it replaces the allocator. Node and clients share the process; what a core's thread asks
//! for is told apart by the thread's name.

#![allow(clippy::print_stdout, reason = "what was measured is printed")]
#![allow(clippy::disallowed_methods, reason = "a test that waits too long has failed")]
#![allow(dead_code, reason = "the helpers are shared")]

#[path = "runtime/running.rs"]
mod running;
mod watchdog;
mod wire_client;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use quoit::runtime::Idle;
use quoit_wire::{RequestBody, Status};
use running::{Running, set};
use wire_client::WireClient;

struct Counting;

/// Allocations by threads that are cores.
static BY_CORES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is a core; `None` until it has been asked.
    static IS_CORE: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Whether the calling thread is a core, by its name, without allocating.
fn is_core() -> bool {
    let known = IS_CORE.try_with(Cell::get).ok().flatten();
    known.unwrap_or_else(|| {
        let mut name = [0u8; 16];
        // SAFETY: PR_GET_NAME writes at most 16 bytes, its end included, to the array it is given.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        let is_core = name.starts_with(b"quoit-core");
        // A thread gets its name after its first allocations: only a core is sure of what it is.
        if is_core {
            let _ = IS_CORE.try_with(|known| known.set(Some(true)));
        }
        is_core
    })
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BY_CORES.fetch_add(u64::from(is_core()), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        BY_CORES.fetch_add(u64::from(is_core()), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests that are counted, and such as warm buffers up before.
const REQUESTS: usize = 100_000;
const WARM: usize = 30_000;
/// Requests that a client has unanswered at a time.
const DEPTH: usize = 100;

/// Allocations of all cores in `work`.
fn counted(work: impl FnOnce()) -> u64 {
    let before = BY_CORES.load(Ordering::Relaxed);
    work();
    BY_CORES.load(Ordering::Relaxed) - before
}

/// Sends [`REQUESTS`] gets and sets from a client on core 0 for keys of core `owner`, after warming up.
fn client_of(node: &Running, owner: u16) -> impl FnMut(usize) {
    let keys: Vec<_> = (0..DEPTH).map(|number| node.key(owner, number)).collect();
    let mut client = WireClient::connect(node.address(), 0);
    let mut frames = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        match number % 5 {
            0 => client.push(&set(key, &[number as u8; 64]), &mut frames),
            _ => client.push(&RequestBody::Get { key }, &mut frames),
        };
    }
    move |requests| {
        for _ in 0..requests / DEPTH {
            client.pipeline(&frames, DEPTH, |answer| {
                assert!(matches!(answer.status, Status::Ok | Status::Miss), "{:?}", answer.status);
            });
        }
    }
}

fn send_and_count(idle: Idle) {
    let node = Running::with(2, |options| options.idle = idle);
    assert!(BY_CORES.load(Ordering::Relaxed) > 0, "the cores' threads are not told apart: this proves nothing");
    for (what, owner) in [("on the own core", 0), ("over a hop", 1)] {
        let mut send = client_of(&node, owner);
        send(WARM);
        let allocations = counted(|| send(REQUESTS));
        println!("{idle:?}, {what}: {allocations} allocations by {REQUESTS} requests");
        assert!(allocations < REQUESTS as u64 / 200, "{what}: {allocations} allocations by {REQUESTS} requests");
    }
}

#[test]
fn gets_sets_and_sleeps_between_them_allocate_nothing() {
    [Idle::Spin, Idle::Park, Idle::Adaptive].into_iter().for_each(send_and_count);
}
