//! Workloads: a store as the node makes it, and seeded sequences of requests.

use std::io;

use quoit::store::{PolicyKind, Store, StoreOptions};
use quoit_wire::topology::{VNODE_BITS_DEFAULT, key_hash};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Seed of everything here.
pub(crate) const SEED: u64 = 42;
const HASH_SEED: u64 = 7;
/// Bytes of one record of an oracleGeneral trace: u32 time, u64 object, u32 size, i64 next access.
const TRACE_RECORD_BYTES: usize = 24;

/// One request of a cache-aside workload: get, and on a miss set a value of this size.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) object: u64,
    pub(crate) value_bytes: u32,
}

/// A store that owns every vnode.
pub(crate) fn store(policy: PolicyKind, memory_bytes: usize) -> Store {
    let options = StoreOptions {
        memory_bytes,
        value_bytes_max: value_bytes_max(memory_bytes),
        policy,
        vnode_bits: VNODE_BITS_DEFAULT,
        hash_seed: HASH_SEED,
    };
    let mut store = Store::new(options).expect("options that work");
    (0..1 << VNODE_BITS_DEFAULT).for_each(|vnode| store.add_vnode(vnode, 1));
    store
}

/// The largest value that a store of so much memory takes.
pub(crate) fn value_bytes_max(memory_bytes: usize) -> usize {
    (memory_bytes / 8).min(16 << 20)
}

/// The hash under which such a store knows a key. Inlined where it is called, as the map's is.
#[inline(always)]
pub(crate) fn hash(key: &[u8]) -> u64 {
    key_hash(HASH_SEED, key)
}

/// Reads an oracleGeneral trace.
pub(crate) fn read_trace(path: &str) -> io::Result<Vec<Request>> {
    let bytes = std::fs::read(path)?;
    if !bytes.len().is_multiple_of(TRACE_RECORD_BYTES) {
        return Err(io::Error::other("not whole records of 24 bytes"));
    }
    let request = |record: &[u8]| Request {
        object: u64::from_le_bytes(record[4..12].try_into().expect("eight bytes")),
        value_bytes: u32::from_le_bytes(record[12..16].try_into().expect("four bytes")),
    };
    Ok(bytes.chunks_exact(TRACE_RECORD_BYTES).map(request).collect())
}

/// Draws numbers below `count` with Zipf's distribution by inverting a table of sums.
pub(crate) struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(count: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Self { sums: sums.collect() }
    }

    pub(crate) fn draw(&self, random: &mut StdRng) -> u64 {
        let most = self.sums.last().copied().unwrap_or(0.0);
        let point = random.random_range(0.0..most);
        self.sums.partition_point(|sum| *sum <= point) as u64
    }
}

/// The synthetic workloads: name and requests. Objects of 200 to 2000 bytes, fixed for each object.
pub(crate) fn synthetic() -> Vec<(&'static str, Vec<Request>)> {
    const OBJECTS: usize = 500_000;
    const REQUESTS: usize = 3_000_000;
    let mut random = StdRng::seed_from_u64(SEED);
    let request =
        |object: u64| Request { object, value_bytes: 200 + (object.wrapping_mul(2_654_435_761) % 1800) as u32 };
    let mut all = vec![];
    for (name, exponent) in [("zipf 0.8", 0.8), ("zipf 1.0", 1.0), ("zipf 1.2", 1.2)] {
        let zipf = Zipf::new(OBJECTS, exponent);
        all.push((name, (0..REQUESTS).map(|_| request(zipf.draw(&mut random))).collect()));
    }
    let zipf = Zipf::new(OBJECTS, 1.0);
    let mut scanned = 1 << 32;
    let scan = (0..REQUESTS).map(|number| {
        // Every tenth stretch of 10,000 requests is a scan over objects never seen before or after.
        if number / 10_000 % 10 == 9 {
            scanned += 1;
            request(scanned)
        } else {
            request(zipf.draw(&mut random))
        }
    });
    all.push(("zipf 1.0 and scans", scan.collect()));
    all.push(("loop", (0..REQUESTS).map(|number| request(number as u64 % 100_000)).collect()));
    let shift = (0..REQUESTS).map(|number| {
        // Every 500,000 requests the popular objects are others.
        let era = (number / 500_000) as u64;
        request((zipf.draw(&mut random) + era * 40_000) % OBJECTS as u64)
    });
    all.push(("shifting zipf 1.0", shift.collect()));
    all
}
