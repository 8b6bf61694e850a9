//! Hit ratios: cache-aside replays through the store.

use std::io;

use quoit::samples::Sample;
use quoit::store::{PolicyKind, SetOutcome, Store, Write};
use quoit::time::Instant;

use crate::exact;
use crate::workload::{self, Request};

const MIB: usize = 1 << 20;
/// Rounds in which the memory is fitted to the live bytes that are wanted.
const FIT_ROUNDS: usize = 4;

/// Requests of the CloudPhysics trace, by which it is known.
const CLOUDPHYSICS_REQUESTS: usize = 113_872;
/// libCacheSim's miss ratios on it at 64 MiB, 256 MiB and 1 GiB of objects.
const LIBCACHESIM: [(&str, [f64; 3]); 7] = [
    ("s3-fifo", [0.8110, 0.7106, 0.4922]),
    ("lru", [0.8273, 0.7885, 0.6297]),
    ("lfu", [0.8164, 0.7616, 0.5653]),
    ("sieve", [0.8164, 0.7616, 0.5653]),
    ("(w-tinylfu)", [0.8112, 0.7393, 0.4712]),
    ("(arc)", [0.8129, 0.7540, 0.5688]),
    ("(belady)", [0.7531, 0.6211, 0.4301]),
];

/// What one replay came to.
#[derive(Clone, Copy)]
struct Replayed {
    miss_ratio: f64,
    /// Mean bytes of live items once the cache was full.
    live_bytes: f64,
}

/// Prints miss ratios of every policy on a trace, beside libCacheSim's.
pub(crate) fn trace(path: &str) -> io::Result<()> {
    let requests = workload::read_trace(path)?;
    println!("{} requests; miss ratios at 64 MiB, 256 MiB, 1 GiB", requests.len());
    // What libCacheSim found there says nothing about another trace.
    let theirs = if requests.len() == CLOUDPHYSICS_REQUESTS { &LIBCACHESIM[..] } else { &[] };
    let title = if theirs.is_empty() { "" } else { "libCacheSim, X of objects" };
    println!("policy        X of live items           with X of memory          {title}");
    for policy in PolicyKind::ALL.iter().filter(|policy| **policy != PolicyKind::None) {
        let sizes = [64 * MIB, 256 * MIB, 1024 * MIB];
        let live = sizes.map(|bytes| fitted(*policy, bytes, &requests).miss_ratio);
        let all = sizes.map(|bytes| replay(*policy, bytes, &requests).miss_ratio);
        let theirs = theirs.iter().find(|(name, _)| *name == policy.name());
        println!(
            "{:<12}  {}   {}   {}",
            policy.name(),
            row(live),
            row(all),
            theirs.map(|(_, r)| row(*r)).unwrap_or_default()
        );
    }
    for (name, ratios) in theirs.iter().filter(|(name, _)| name.starts_with('(')) {
        println!("{name:<12}  {:>54}", row(*ratios));
    }
    let value_bytes_max = workload::value_bytes_max(64 * MIB);
    let too_large = requests.iter().filter(|request| request.value_bytes as usize > value_bytes_max).count();
    if too_large > 0 {
        println!(
            "{too_large} requests for objects over {value_bytes_max} bytes, which a core of 64 MiB takes none of, miss"
        );
    }
    Ok(())
}

/// Prints hit ratios on synthetic workloads.
pub(crate) fn synthetic() {
    let sizes = [16 * MIB, 64 * MIB];
    println!(
        "hit ratios at 16 and 64 MiB of memory; in brackets exact queues of single objects with as many live bytes"
    );
    for (name, requests) in workload::synthetic() {
        print!("{name:<20}");
        for policy in PolicyKind::ALL.iter().filter(|policy| **policy != PolicyKind::None) {
            print!("  {}", policy.name());
            for replayed in sizes.map(|bytes| replay(*policy, bytes, &requests)) {
                print!(" {:.4}", 1.0 - replayed.miss_ratio);
                let exact = match policy {
                    PolicyKind::S3Fifo => exact::s3_fifo,
                    PolicyKind::Lru => exact::lru,
                    _ => continue,
                };
                let misses = exact(&requests, replayed.live_bytes as u64);
                print!(" ({:.4})", 1.0 - misses as f64 / requests.len() as f64);
            }
        }
        println!();
    }
}

fn row(ratios: [f64; 3]) -> String {
    format!("{:.4} {:.4} {:.4}", ratios[0], ratios[1], ratios[2])
}

/// Replays with as much memory as lets `live_bytes` of items live.
fn fitted(policy: PolicyKind, live_bytes: usize, requests: &[Request]) -> Replayed {
    let mut memory_bytes = live_bytes as f64 * 1.08;
    let mut replayed = replay(policy, memory_bytes as usize, requests);
    for _ in 0..FIT_ROUNDS {
        memory_bytes *= live_bytes as f64 / replayed.live_bytes;
        replayed = replay(policy, memory_bytes as usize, requests);
    }
    replayed
}

fn replay(policy: PolicyKind, memory_bytes: usize, requests: &[Request]) -> Replayed {
    let mut store = workload::store(policy, memory_bytes);
    let value = vec![0; 16 * MIB];
    let mut misses = 0u64;
    let (mut live_sum, mut live_count) = (0.0, 0);
    for (number, request) in requests.iter().enumerate() {
        let now = Instant::from_millis(number as u64 / 100);
        let key = request.object.to_le_bytes();
        let hash = workload::hash(&key);
        if store.get(now, hash, &key).is_some() {
            continue;
        }
        misses += 1;
        let value_bytes = request.value_bytes as usize;
        if value_bytes > workload::value_bytes_max(memory_bytes) {
            continue;
        }
        let write = Write { value: &value[..value_bytes], ..Write::default() };
        let outcome = store.set(now, hash, &key, write);
        assert!(matches!(outcome, SetOutcome::Stored(_)), "{policy}: {outcome:?} at request {number}");
        if number.is_multiple_of(64) {
            let (live_bytes, evictions) = figures(&store);
            if evictions > 0 {
                live_sum += live_bytes;
                live_count += 1;
            }
        }
    }
    let live_bytes = if live_count == 0 { memory_bytes as f64 } else { live_sum / f64::from(live_count) };
    Replayed { miss_ratio: misses as f64 / requests.len() as f64, live_bytes }
}

/// Live bytes and evictions.
fn figures(store: &Store) -> (f64, u64) {
    let mut samples: Vec<Sample> = vec![];
    store.samples(&mut samples);
    let value = |name| samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum::<u64>();
    (value("live_bytes") as f64, value("evictions_total"))
}
