//! A load of requests for several keys, and of large values, beside that of the generator: what is between two primaries
//! refuses part of such a request, and its client asks again for that part.
//!
//! One thread writes a round's number into every key and reads all of them back, another does so with large values. Each is
//! the only one that writes its keys, so what is read must be what was written last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quoit_client::blocking::Client;
use quoit_client::{Item, Options, SetOptions};

/// Keys of one request: more than there are vnodes, so that each request has part in whatever moves.
const KEYS: usize = 256;
/// Large values, each some hundred times as large as what a core receives at once.
const LARGE_KEYS: usize = 8;
const LARGE_VALUE_BYTES: usize = 1 << 20;
/// Time for a request, as the generator's.
const DEADLINE: Duration = Duration::from_secs(5);

/// One round of a kind of requests, and what has failed in it.
type Round = fn(&mut Client, u64) -> Result<(), String>;

/// The load while it runs.
pub(crate) struct Several {
    is_over: Arc<AtomicBool>,
    rounds: Arc<[AtomicU64; 2]>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Several {
    /// Begins, by way of these servers.
    pub(crate) fn begin(servers: &[String]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new([const { AtomicU64::new(0) }; 2]);
        let kinds: [Round; 2] = [several_keys, large_values];
        let start = |(kind, round): (usize, Round)| {
            let (servers, is_over, rounds) = (servers.to_vec(), Arc::clone(&is_over), Arc::clone(&rounds));
            thread::spawn(move || {
                let options = Options { deadline: DEADLINE, stall_limit: DEADLINE / 4, ..Options::default() };
                let mut client = Client::connect(servers, options).expect("a node answers");
                let mut failed = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let number = rounds[kind].fetch_add(1, Ordering::Relaxed);
                    failed.extend(round(&mut client, number).err());
                }
                failed
            })
        };
        let threads = kinds.into_iter().enumerate().map(start).collect();
        Self { is_over, rounds, threads }
    }

    /// Ends; the rounds of each kind, and what has failed in them.
    pub(crate) fn end(self) -> ([u64; 2], Vec<String>) {
        self.is_over.store(true, Ordering::Relaxed);
        let failed = self.threads.into_iter().flat_map(|thread| thread.join().expect("it panics nowhere")).collect();
        (std::array::from_fn(|kind| self.rounds[kind].load(Ordering::Relaxed)), failed)
    }
}

/// Writes `number` into every key by one request, and reads all of them by another.
fn several_keys(client: &mut Client, number: u64) -> Result<(), String> {
    let keys: Vec<String> = (0..KEYS).map(|key| format!("several-{key}")).collect();
    let value = number.to_le_bytes();
    let item = |key| Item { key, value: &value, client_flags: 0, ttl_ms: 0 };
    let written = client.multi_set(keys.iter().map(|key| item(key.as_bytes())));
    let written = written.map_err(|error| format!("round {number}, the sets: {error}"))?;
    for (key, result) in keys.iter().zip(written) {
        result.map_err(|error| format!("round {number}, the set of {key}: {error}"))?;
    }
    let read = client.multi_get(&keys).map_err(|error| format!("round {number}, the gets: {error}"))?;
    for (key, result) in keys.iter().zip(read) {
        let hit = result.map_err(|error| format!("round {number}, the get of {key}: {error}"))?;
        if hit.as_ref().is_none_or(|hit| hit.value != value) {
            return Err(format!("round {number}: {key} is {:?}", hit.map(|hit| hit.value)));
        }
    }
    Ok(())
}

/// The same with one large value.
fn large_values(client: &mut Client, number: u64) -> Result<(), String> {
    let key = format!("large-{}", number % LARGE_KEYS as u64);
    let value: Vec<u8> = number.to_le_bytes().repeat(LARGE_VALUE_BYTES / size_of::<u64>());
    let failed = |what: &str, error| format!("round {number}, the {what} of {key}: {error}");
    client.set(&key, &value, SetOptions::default()).map_err(|error| failed("set", error))?;
    match client.get(&key).map_err(|error| failed("get", error))? {
        Some(hit) if hit.value == value => Ok(()),
        hit => Err(format!("round {number}: {key} has {:?} bytes", hit.map(|hit| hit.value.len()))),
    }
}
