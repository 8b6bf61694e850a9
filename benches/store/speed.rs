//! Speed in memory, against a hash map of boxed slices with the same items in the same run.

use std::hint::black_box;

use hashbrown::HashMap;
use quoit::store::{PolicyKind, Store, Write};
use quoit::time::Instant;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clock;
use crate::workload::{self, SEED};

const VALUE_BYTES: usize = 64;
/// Requests whose memory a turn fetches together.
const WINDOW: usize = 32;
const READS: usize = 8_000_000;
const WRITES: usize = 4_000_000;
/// Rounds over which the contenders alternate; the median of each is told.
const ROUNDS: usize = 5;

type Map = HashMap<Box<[u8]>, Box<[u8]>>;

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

/// Prints the rates of reads and writes at `items` items.
pub(crate) fn speed(items: u64) {
    let now = Instant::from_millis(1);
    let value = [7; VALUE_BYTES];
    let mut store = workload::store(PolicyKind::S3Fifo, items as usize * 130 + (64 << 20));
    let mut map = Map::with_capacity(items as usize);
    for number in 0..items {
        let key = key(number);
        store.set(now, workload::hash(&key), &key, Write { value: &value, ..Write::default() });
        map.insert(Box::from(key), Box::from(value));
    }
    assert_eq!(store.items() as u64, items, "everything fits");
    let mut random = StdRng::seed_from_u64(SEED);
    let draws: Vec<u64> = (0..READS).map(|_| random.random_range(0..items)).collect();
    let [mut single, mut batched, mut mapped] = [[0.0; ROUNDS]; 3];
    for round in 0..ROUNDS {
        mapped[round] = rate(READS, || read_map(&map, &draws));
        single[round] = rate(READS, || read_single(&mut store, &draws));
        batched[round] = rate(READS, || read_batched(&mut store, &draws));
    }
    let (mapped, single, batched) = (median(mapped), median(single), median(batched));
    println!("{items} items of 16 + {VALUE_BYTES} bytes, uniform random hits, one core; millions a second");
    println!("get, single   {single:6.2}   {:.2} x the map", single / mapped);
    println!("get, batched  {batched:6.2}   {:.2} x the map", batched / mapped);
    println!("map get       {mapped:6.2}");
    drop(store);

    // Steady state: each set of a new key makes room by evicting; the map removes its oldest.
    let mut store = workload::store(PolicyKind::S3Fifo, items as usize * 100);
    let mut next = 0;
    while figure(&store, "evictions_total") < items / 10 {
        for _ in 0..10_000 {
            write(&mut store, next, &value);
            next += 1;
        }
    }
    let [mut sets, mut batched, mut mapped] = [[0.0; ROUNDS]; 3];
    let mut map_next = items;
    for round in 0..ROUNDS {
        mapped[round] = rate(WRITES, || {
            for _ in 0..WRITES {
                map.insert(Box::from(key(map_next)), Box::from(value));
                map.remove(&key(map_next - items)[..]);
                map_next += 1;
            }
        });
        sets[round] = rate(WRITES, || {
            for _ in 0..WRITES {
                write(&mut store, next, &value);
                next += 1;
            }
        });
        batched[round] = rate(WRITES, || {
            for _ in 0..WRITES / WINDOW {
                store.prefetch((next..next + WINDOW as u64).map(|number| workload::hash(&key(number))));
                for _ in 0..WINDOW {
                    write(&mut store, next, &value);
                    next += 1;
                }
            }
        });
    }
    let (mapped, sets, batched) = (median(mapped), median(sets), median(batched));
    println!("set with eviction at steady state ({} items live)", store.items());
    println!("set, single   {sets:6.2}   {:.2} x the map", sets / mapped);
    println!("set, batched  {batched:6.2}   {:.2} x the map", batched / mapped);
    println!("map insert and remove {mapped:6.2}");
}

fn write(store: &mut Store, number: u64, value: &[u8]) {
    let key = key(number);
    store.set(Instant::from_millis(1), workload::hash(&key), &key, Write { value, ..Write::default() });
}

fn read_map(map: &Map, draws: &[u64]) {
    for number in draws {
        let value = map.get(&key(*number)[..]).expect("it is there");
        black_box(value[0]);
    }
}

fn read_single(store: &mut Store, draws: &[u64]) {
    for number in draws {
        let key = key(*number);
        let hit = store.get(Instant::from_millis(2), workload::hash(&key), &key).expect("it is there");
        black_box(hit.value.as_slice().map(|value| value[0]));
    }
}

/// As a turn does it: a window of keys is fetched, then executed.
fn read_batched(store: &mut Store, draws: &[u64]) {
    let mut hashes = [0; WINDOW];
    for draws in draws.chunks_exact(WINDOW) {
        for (hash, draw) in hashes.iter_mut().zip(draws) {
            *hash = workload::hash(&key(*draw));
        }
        store.prefetch(hashes.iter().copied());
        for (hash, draw) in hashes.iter().zip(draws) {
            let hit = store.get(Instant::from_millis(2), *hash, &key(*draw)).expect("it is there");
            black_box(hit.value.as_slice().map(|value| value[0]));
        }
    }
}

/// Millions a second of processor time.
fn rate(count: usize, work: impl FnOnce()) -> f64 {
    let start = clock::busy_secs();
    work();
    count as f64 / (clock::busy_secs() - start) / 1e6
}

fn median(mut rates: [f64; ROUNDS]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[ROUNDS / 2]
}

/// One of the store's samples.
pub(crate) fn figure(store: &Store, name: &str) -> u64 {
    let mut samples = vec![];
    store.samples(&mut samples);
    samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
}
