//! Memory over time: expiry without reads, the hard cap, live bytes, write amplification, bytes per item.

use std::collections::HashMap;

use quoit::store::{Expiry, PolicyKind, Progress, SetOutcome, Store, Write};
use quoit::time::{Duration, Instant};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clock;
use crate::speed::figure;
use crate::verdict;
use crate::workload::{self, SEED};

const MIB: usize = 1 << 20;
/// The goal's share of the arena that is live at the cap.
const LIVE_SHARE_MIN: f64 = 0.85;
/// The goal's bytes of an item beyond key and value.
const ITEM_BYTES_MAX: f64 = 16.0;
/// Sets between two looks at how much lives.
const SETS_PER_LOOK: u64 = 100;
/// Arenas that overwrites are tried in. In the second, no search that is cut off after so many segments sees all of it.
const OVERWRITE_MIB: [usize; 2] = [256, 1024];

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

fn set(store: &mut Store, now: Instant, number: u64, write: Write<'_>) -> SetOutcome {
    let key = key(number);
    store.set(now, workload::hash(&key), &key, write)
}

/// A million items that end over ten seconds: how late their memory comes back, and what finding them costs.
pub(crate) fn expiry() {
    let late_ms = expire_all(true).late_ms;
    println!(
        "{EXPIRING_ITEMS} items ending over 10 s, never read: found at most {late_ms} ms late: {}",
        verdict(late_ms <= 1000)
    );
    let Expired { busy_secs, left_items, left_bytes, full_bytes, .. } = expire_all(false);
    println!("left: {left_items} items, {left_bytes} of {full_bytes} bytes in use");
    println!("cost: {:.2} % of a core over those 10 s (goal: 1): {}", busy_secs * 10.0, verdict(busy_secs < 0.1));
}

const EXPIRING_ITEMS: u64 = 1_000_000;

struct Expired {
    /// How late the latest of them was found, where each was watched.
    late_ms: u64,
    /// Processor time of finding them.
    busy_secs: f64,
    left_items: usize,
    left_bytes: usize,
    full_bytes: usize,
}

/// Watching each item costs more than letting it go: who asks for one doesn't get the other.
fn expire_all(is_watched: bool) -> Expired {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut store = workload::store(PolicyKind::S3Fifo, 256 * MIB);
    if is_watched {
        store.log_departures();
    }
    let start_ms = 10_000;
    let mut ends: HashMap<[u8; 16], u64> = HashMap::new();
    for number in 0..EXPIRING_ITEMS {
        let ttl_ms = random.random_range(1000..11_000);
        ends.insert(key(number), start_ms + ttl_ms);
        let expiry = Expiry::after(Duration::from_millis(ttl_ms));
        set(&mut store, Instant::from_millis(start_ms), number, Write { value: &[3; 64], expiry, ..Write::default() });
    }
    let full_bytes = store.used_bytes();
    let mut late_ms = 0;
    let start = clock::busy_secs();
    for now_ms in start_ms..start_ms + 13_000 {
        while store.work(Instant::from_millis(now_ms), 8) == Progress::More {}
        for gone in store.take_departures() {
            late_ms = late_ms.max(now_ms - ends[&*gone.key]);
        }
    }
    let busy_secs = clock::busy_secs() - start;
    Expired { late_ms, busy_secs, left_items: store.items(), left_bytes: store.used_bytes(), full_bytes }
}

/// Mixed sizes, and a change of the size of values: the cap and the share of live bytes.
pub(crate) fn cap(secs: u64) {
    for policy in [PolicyKind::S3Fifo, PolicyKind::Lru] {
        let memory_bytes = 256 * MIB;
        let mut store = workload::store(policy, memory_bytes);
        let mut random = StdRng::seed_from_u64(SEED);
        let value = vec![4; 16 * MIB];
        type Draw = fn(&mut StdRng) -> usize;
        let phases: [(&str, Draw); 3] = [
            ("1 byte to 16 MiB", |random| 1 << random.random_range(0..25)),
            ("100 to 300 bytes", |random| random.random_range(100..300)),
            ("1000 to 3000 bytes", |random| random.random_range(1000..3000)),
        ];
        let mut is_full = false;
        for (name, draw) in phases {
            let began = clock::now();
            let (mut sets, mut written, mut refused) = (0u64, 0u64, 0u64);
            let (mut live_min, mut beside_min, mut used_max) = (f64::MAX, f64::MAX, 0);
            while began.elapsed().as_secs() < secs || written < 4 * memory_bytes as u64 {
                let length = draw(&mut random).min(value.len());
                let now = Instant::from_millis(began.elapsed().as_millis() as u64);
                let outcome = set(
                    &mut store,
                    now,
                    random.random_range(0..4_000_000),
                    Write { value: &value[..length], ..Write::default() },
                );
                refused += u64::from(!matches!(outcome, SetOutcome::Stored(_)));
                sets += 1;
                written += length as u64;
                if sets.is_multiple_of(64) {
                    store.work(now, 4);
                }
                used_max = used_max.max(store.used_bytes());
                is_full |= written > 2 * memory_bytes as u64;
                if sets.is_multiple_of(SETS_PER_LOOK) && is_full {
                    live_min = live_min.min(live_share(&store));
                    beside_min = beside_min.min(live_share_beside(&store));
                }
            }
            let copied = figure(&store, "copied_bytes_total") as f64;
            println!(
                "{policy} {name:<18} {sets:>9} sets, {refused} refused, used at most {:.1} % of the cap, live at least {:.1} % of the arena ({:.1} % of it without index and ghosts), copied in all {:.1} GiB of {:.1} GiB written: {}",
                used_max as f64 / memory_bytes as f64 * 100.0,
                live_min * 100.0,
                beside_min * 100.0,
                copied / (1 << 30) as f64,
                written as f64 / (1 << 30) as f64,
                verdict(refused == 0 && used_max <= memory_bytes && live_min > LIVE_SHARE_MIN),
            );
        }
    }
}

/// Live item bytes as a share of the arena.
fn live_share(store: &Store) -> f64 {
    sample(store, "live_bytes", None) / sample(store, "memory_cap_bytes", None)
}

/// Live item bytes as a share of the arena without the index and ghosts, which small items need more of.
fn live_share_beside(store: &Store) -> f64 {
    let others = sample(store, "memory_bytes", Some("index")) + sample(store, "memory_bytes", Some("ghosts"));
    sample(store, "live_bytes", None) / (sample(store, "memory_cap_bytes", None) - others)
}

fn sample(store: &Store, name: &str, label: Option<&str>) -> f64 {
    let mut samples = vec![];
    store.samples(&mut samples);
    let matches = |sample: &&quoit::samples::Sample| sample.name == name && sample.label.map(|l| l.1) == label;
    samples.iter().find(matches).map_or(0.0, |sample| sample.value as f64)
}

/// Overwrites with live bytes at 85 % of the arena: nothing is evicted or refused; the write amplification.
pub(crate) fn overwrite(secs: u64) {
    let rows =
        [(PolicyKind::S3Fifo, false), (PolicyKind::S3Fifo, true), (PolicyKind::None, false), (PolicyKind::None, true)];
    for (memory_mib, (policy, varies)) in OVERWRITE_MIB.into_iter().flat_map(|mib| rows.map(|row| (mib, row))) {
        let memory_bytes = memory_mib * MIB;
        let mut store = workload::store(policy, memory_bytes);
        let mut random = StdRng::seed_from_u64(SEED);
        let value = [5; 400];
        let length = |random: &mut StdRng| if varies { random.random_range(100..400) } else { 250 };
        let mut items = 0u64;
        while !items.is_multiple_of(SETS_PER_LOOK) || live_share_beside(&store) < LIVE_SHARE_MIN {
            let bytes = length(&mut random);
            set(&mut store, Instant::ORIGIN, items, Write { value: &value[..bytes], ..Write::default() });
            items += 1;
        }
        let copied_before = figure(&store, "copied_bytes_total");
        let (mut written, mut refused, mut sets) = (0u64, 0u64, 0u64);
        let (began, busy) = (clock::now(), clock::busy_secs());
        while began.elapsed().as_secs() < secs {
            let bytes = length(&mut random);
            let number = random.random_range(0..items);
            let outcome =
                set(&mut store, Instant::ORIGIN, number, Write { value: &value[..bytes], ..Write::default() });
            refused += u64::from(!matches!(outcome, SetOutcome::Stored(_)));
            written += bytes as u64 + 21;
            sets += 1;
            if sets.is_multiple_of(64) {
                store.work(Instant::ORIGIN, 4);
            }
        }
        let copied = figure(&store, "copied_bytes_total") - copied_before;
        let evicted = figure(&store, "evictions_total");
        println!(
            "{memory_mib:>4} MiB {policy:<8} {} sizes: {sets} overwrites of {items} items at 85 %: {} evicted, {refused} refused, {:.2} M/s, write amplification {:.2}: {}",
            if varies { "different" } else { "equal" },
            evicted,
            sets as f64 / (clock::busy_secs() - busy) / 1e6,
            1.0 + copied as f64 / written as f64,
            verdict(evicted == 0 && refused == 0)
        );
    }
}

/// Bytes of resident memory per item beyond key and value, in process.
pub(crate) fn density() {
    println!("bytes per item beyond key and value: growth of this process's resident memory; 16-byte keys");
    println!("items        32 B     64 B    512 B   33-96 B   64 B, TTL and flags");
    let mut worst = 0.0f64;
    let rows = [1_000_000u64, 1_500_000, 2_000_000, 3_000_000, 4_000_000, 6_000_000];
    for items in rows {
        print!("{items:>9}");
        for (shortest, longest, is_full) in
            [(32, 32, false), (64, 64, false), (512, 512, false), (33, 96, false), (64, 64, true)]
        {
            let mut random = StdRng::seed_from_u64(SEED);
            let mut store = workload::store(PolicyKind::S3Fifo, items as usize * (longest + 60) + 64 * MIB);
            store.populate();
            let before = resident_bytes();
            let mut payload = 0;
            let value = [6; 512];
            for number in 0..items {
                let length = random.random_range(shortest..=longest);
                payload += 16 + length as u64;
                let expiry = if is_full { Expiry::after(Duration::from_secs(3600)) } else { Expiry::NEVER };
                let client_flags = u32::from(is_full) * 77;
                set(
                    &mut store,
                    Instant::ORIGIN,
                    number,
                    Write { value: &value[..length], client_flags, expiry, ..Write::default() },
                );
            }
            assert_eq!(store.items() as u64, items, "everything fits");
            let grown = resident_bytes() - before;
            let item_bytes = (grown as f64 - payload as f64) / items as f64;
            worst = worst.max(item_bytes);
            print!(" {item_bytes:>8.2}");
        }
        println!();
    }
    println!("at most {worst:.2} (goal: {ITEM_BYTES_MAX}): {}", verdict(worst <= ITEM_BYTES_MAX));
    for (shortest, longest) in [(32, 32), (64, 64), (33, 96)] {
        let memory_bytes = 256 * MIB;
        let zipf = workload::Zipf::new(20_000_000, 0.9);
        let before = resident_bytes();
        let mut store = workload::store(PolicyKind::S3Fifo, memory_bytes);
        let mut random = StdRng::seed_from_u64(SEED);
        let value = [6; 96];
        for _ in 0..30_000_000 {
            let number = zipf.draw(&mut random);
            let length = shortest + number as usize % (longest - shortest + 1);
            let key = key(number);
            let hash = workload::hash(&key);
            if store.get(Instant::ORIGIN, hash, &key).is_none() {
                store.set(Instant::ORIGIN, hash, &key, Write { value: &value[..length], ..Write::default() });
            }
        }
        let grown = resident_bytes() - before;
        let header_and_payload = figure(&store, "live_bytes") as f64;
        let payload = header_and_payload - store.items() as f64 * 5.0;
        let item_bytes = (grown as f64 - payload) / store.items() as f64;
        println!(
            "at the cap of {} MiB after churn, values of {shortest} to {longest}: {item_bytes:.2} ({} items, ghosts included): {}",
            memory_bytes / MIB,
            store.items(),
            verdict(item_bytes <= ITEM_BYTES_MAX)
        );
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}
