//! A state that was saved is loaded as it was, wherever it is loaded; one that was damaged is refused.
//!
//! The model test (`../model_test.rs`) saves and loads in the midst of random operations; here are the cases it does not
//! meet, and every kind of damage.

use quoit_wire::Version;
use quoit_wire::topology::key_hash;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::store::{Expiry, PolicyKind, Store, StoreOptions, Write};
use crate::time::{Duration, Instant, WallClock};

const HASH_SEED: u64 = 5;
const TERM: u32 = 3;
const SAVE: u64 = 77;
const CLOCK: WallClock = WallClock { now: Instant::from_millis(1_000_000), wall_ms: 1_700_000_000_000 };

/// Everything `store` holds, as chunks.
pub(in crate::store) fn saved(store: &Store, clock: WallClock) -> Vec<Vec<u8>> {
    let mut chunks = vec![];
    let mut saver = store.begin_save(clock);
    loop {
        let mut bytes = vec![0xEE; CHUNK_BYTES];
        let mut chunk = ChunkWriter::new(&mut bytes);
        store.save(&mut saver, &mut chunk);
        if chunk.is_empty() {
            return chunks;
        }
        chunk.seal(ChunkPlace { save: SAVE, file: 0, number: chunks.len() as u32 }, ChunkKind::Items);
        chunks.push(bytes);
    }
}

/// Loads chunks that were saved under `policy`. What comes out is either all of it or a refusal.
pub(in crate::store) fn load(
    store: &mut Store,
    chunks: &[Vec<u8>],
    clock: WallClock,
    policy: PolicyKind,
) -> Result<LoadReport, Damage> {
    let mut loader = store.begin_load(clock, policy);
    let mut pieces = Pieces::default();
    let result = load_chunks(store, &mut loader, &mut pieces, chunks);
    let report = store.end_load(loader);
    result?;
    if pieces.is_cut() { Err(Damage::Content("an item without its end")) } else { Ok(report) }
}

fn load_chunks(store: &mut Store, loader: &mut Loader, pieces: &mut Pieces, chunks: &[Vec<u8>]) -> Result<(), Damage> {
    for (number, bytes) in chunks.iter().enumerate() {
        let place = ChunkPlace { save: SAVE, file: 0, number: number as u32 };
        let (_, mut payload) = open_chunk(bytes, place)?;
        while let Some(piece) = pieces.next(&mut payload)? {
            match piece {
                Piece::Item(record, _) => store.load_item(loader, key_hash(HASH_SEED, record.key), &record),
                Piece::More(bytes) => store.load_more(loader, bytes),
            }
        }
    }
    Ok(())
}

fn store(policy: PolicyKind, memory_bytes: usize) -> Store {
    let mut store = Store::new(StoreOptions {
        memory_bytes,
        value_bytes_max: memory_bytes / 8,
        policy,
        vnode_bits: 0,
        hash_seed: HASH_SEED,
    })
    .unwrap();
    store.add_vnode(0, TERM);
    store
}

fn set(store: &mut Store, key: &[u8], value: &[u8]) -> Version {
    let write = Write { value, ..Write::default() };
    match store.set(CLOCK.now, key_hash(HASH_SEED, key), key, write) {
        crate::store::SetOutcome::Stored(version) => version,
        outcome => panic!("{outcome:?}"),
    }
}

fn get(store: &mut Store, now: Instant, key: &[u8]) -> Option<(Version, Vec<u8>)> {
    let hit = store.get(now, key_hash(HASH_SEED, key), key)?;
    let mut value = vec![];
    hit.value.copy_to(&mut value);
    Some((hit.version, value))
}

fn numbered(number: u32) -> [u8; 8] {
    u64::from(number).to_le_bytes()
}

/// Items of every size around the places where items and chunks are divided.
fn of_many_sizes(store: &mut Store) -> Vec<(Vec<u8>, Version, Vec<u8>)> {
    let mut random = StdRng::seed_from_u64(9);
    let sizes = [0, 1, 8191, 8192, 8193, 16_384, 100_000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3_000_000];
    let mut items = vec![];
    for (number, size) in sizes.into_iter().chain((0..400).map(|number| number * 19)).enumerate() {
        let mut key = numbered(number as u32).to_vec();
        key.resize(if number % 100 == 7 { 65_535 } else { 8 + number % 30 }, b'k');
        let mut value = vec![0; size];
        random.fill_bytes(&mut value);
        items.push((key.clone(), set(store, &key, &value), value));
    }
    items
}

#[test]
fn values_of_every_size_come_back_whole() {
    let mut first = store(PolicyKind::Lru, 64 << 20);
    let items = of_many_sizes(&mut first);
    let chunks = saved(&first, CLOCK);
    assert!(chunks.len() > 5, "several chunks, so that values are cut: {}", chunks.len());
    let mut second = store(PolicyKind::Lru, 64 << 20);
    let report = load(&mut second, &chunks, CLOCK, PolicyKind::Lru).unwrap();
    assert_eq!(report, LoadReport { items: items.len() as u64, ..LoadReport::default() });
    for (key, version, value) in &items {
        assert!(get(&mut second, CLOCK.now, key) == Some((*version, value.clone())), "{} bytes", value.len());
    }
}

#[test]
fn time_goes_on_while_the_node_is_down_and_never_backwards() {
    let mut first = store(PolicyKind::Lru, 16 << 20);
    let ttl = |ms| Expiry::after(Duration::from_millis(ms));
    for (key, expiry) in [
        (&b"soon"[..], ttl(1000)),
        (b"later", ttl(5000)),
        (b"idle", Expiry { idle: true, ..ttl(5000) }),
        (b"years", ttl(10 * 365 * 86_400_000)),
        (b"never", Expiry::NEVER),
    ] {
        first.set(CLOCK.now, key_hash(HASH_SEED, key), key, Write { value: key, expiry, ..Write::default() });
    }
    let chunks = saved(&first, CLOCK);
    let mut second = store(PolicyKind::Lru, 16 << 20);
    let after = WallClock { now: Instant::from_millis(50), wall_ms: CLOCK.wall_ms + 1000 };
    let report = load(&mut second, &chunks, after, PolicyKind::Lru).unwrap();
    assert_eq!((report.items, report.expired), (4, 1), "what ends at this very moment has ended");
    let at = |ms: u64| Instant::from_millis(50 + ms);
    assert!(get(&mut second, at(3999), b"later").is_some() && get(&mut second, at(4000), b"later").is_none());
    assert!(get(&mut second, at(3999), b"idle").is_some(), "the hit gives it another five seconds");
    assert!(get(&mut second, at(8998), b"idle").is_some() && get(&mut second, at(13_998), b"idle").is_none());
    let years_ms = 10 * 365 * 86_400_000 - 1000;
    assert!(
        get(&mut second, at(years_ms - 1), b"years").is_some() && get(&mut second, at(years_ms), b"years").is_none()
    );
    assert!(get(&mut second, at(years_ms), b"never").is_some());
}

#[test]
fn less_memory_keeps_what_the_policy_would_keep() {
    for policy in PolicyKind::ALL {
        let mut first = store(*policy, 32 << 20);
        let items = 200_000;
        for number in 0..items {
            set(&mut first, &numbered(number), &[number as u8; 100]);
        }
        let chunks = saved(&first, CLOCK);
        let mut second = store(*policy, 16 << 20);
        let report = load(&mut second, &chunks, CLOCK, *policy).unwrap();
        assert!(second.used_bytes() <= 16 << 20);
        let kept = second.items() as f64;
        assert!(kept > 0.35 * f64::from(items), "{policy}: only {kept} of {items} are left");
        let refuses = *policy == PolicyKind::None;
        assert_eq!(report.refused > 0, refuses, "{policy}: {report:?}");
        if matches!(policy, PolicyKind::Lru | PolicyKind::Lfu) {
            let old = (0..items / 4).filter(|number| get(&mut second, CLOCK.now, &numbered(*number)).is_some()).count();
            assert_eq!(old, 0, "{policy}: the oldest went first");
        }
    }
}

#[test]
fn a_policy_goes_on_as_if_nothing_had_happened() {
    for policy in [PolicyKind::S3Fifo, PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Sieve] {
        let mut first = store(policy, 16 << 20);
        for number in 0..60_000 {
            set(&mut first, &numbered(number), &[1; 100]);
        }
        for number in (0..60_000).step_by(20) {
            for _ in 0..2 {
                get(&mut first, CLOCK.now, &numbered(number)).unwrap();
            }
        }
        let mut second = store(policy, 16 << 20);
        load(&mut second, &saved(&first, CLOCK), CLOCK, policy).unwrap();
        let survivors = [&mut first, &mut second].map(|store| {
            for number in 60_000..180_000 {
                set(store, &numbered(number), &[1; 100]);
            }
            [0, 1].map(|start: u32| {
                let numbers = (start..60_000).step_by(20);
                numbers.filter(|number| get(store, CLOCK.now, &numbered(*number)).is_some()).count()
            })
        });
        let [[hit, unhit], [hit_loaded, unhit_loaded]] = survivors;
        let is_like = |left: usize, right: usize| left.abs_diff(right) <= 3000 / 20;
        assert!(hit > unhit, "{policy}: of 3000 each {survivors:?} are left");
        assert!(
            is_like(hit, hit_loaded) && is_like(unhit, unhit_loaded),
            "{policy}: of 3000 each {survivors:?} are left"
        );
    }
}

#[test]
fn a_state_of_another_policy_is_loaded() {
    for (from, to) in [(PolicyKind::S3Fifo, PolicyKind::Lru), (PolicyKind::Lfu, PolicyKind::S3Fifo)] {
        let mut first = store(from, 16 << 20);
        for number in 0..1000 {
            set(&mut first, &numbered(number), b"value");
            assert!(get(&mut first, CLOCK.now, &numbered(number / 2)).is_some());
        }
        let mut second = store(to, 16 << 20);
        assert_eq!(load(&mut second, &saved(&first, CLOCK), CLOCK, from).unwrap().items, 1000);
        assert!((0..1000).all(|number| get(&mut second, CLOCK.now, &numbered(number)).is_some()));
    }
}

#[test]
fn versions_go_on_where_they_were() {
    let mut first = store(PolicyKind::Lru, 16 << 20);
    let version = set(&mut first, b"key", b"value");
    first.flush(CLOCK.now);
    let after_flush = set(&mut first, b"other", b"value");
    assert_eq!((version.sequence(), after_flush.sequence()), (1, 3));
    first.flush(CLOCK.now);
    let mut second = store(PolicyKind::Lru, 16 << 20);
    for (vnode, sequence) in first.vnode_sequences() {
        second.continue_vnode(vnode, sequence);
    }
    assert_eq!(set(&mut second, b"key", b"value"), Version::new(TERM, 5), "the flush was write 4");
}

#[test]
fn any_damage_is_refused_and_nothing_wrong_is_ever_served() {
    let mut first = store(PolicyKind::S3Fifo, 32 << 20);
    let items = of_many_sizes(&mut first);
    let chunks = saved(&first, CLOCK);
    let seed = 21;
    let mut random = StdRng::seed_from_u64(seed);
    for case in 0..300 {
        let mut chunks = chunks.clone();
        let chunk = random.random_range(0..chunks.len());
        match case % 4 {
            0 => {
                let (at, change) = (random.random_range(0..CHUNK_BYTES), random.random_range(1..=255u8));
                chunks[chunk][at] ^= change;
            }
            1 => chunks[chunk].truncate(random.random_range(0..CHUNK_BYTES)),
            2 => {
                let at = random.random_range(0..CHUNK_BYTES / 4096) * 4096;
                chunks[chunk][at..at + 4096].fill(0);
            }
            _ => {
                let other = (chunk + 1 + random.random_range(0..chunks.len() - 1)) % chunks.len();
                chunks.swap(chunk, other);
            }
        }
        let mut second = store(PolicyKind::S3Fifo, 32 << 20);
        let result = load(&mut second, &chunks, CLOCK, PolicyKind::S3Fifo);
        // Zeros written over zeros are no damage.
        let is_as_saved = chunks == saved(&first, CLOCK);
        assert_eq!(result.is_ok(), is_as_saved, "seed {seed} case {case}");
        // Even what was loaded before the damage was met is right.
        for (key, version, value) in &items {
            let got = get(&mut second, CLOCK.now, key);
            assert!(got.is_none() || got == Some((*version, value.clone())), "seed {seed} case {case}");
        }
        second.flush(CLOCK.now);
        while second.work(CLOCK.now, 1000) == crate::store::Progress::More {}
        assert_eq!(second.items(), 0);
    }
}
