//! When items end: to the millisecond, from one to years; by idling; by a touch in either direction, large values too.

use quoit_wire::topology::key_hash;

use super::segments::BLOCK_BYTES;
use super::*;

const HASH_SEED: u64 = 3;
const MEMORY_BYTES: usize = 32 << 20;
const START: Instant = Instant::from_millis(5_000_000);
const SECOND_MS: u64 = 1000;
const DAY_MS: u64 = 24 * 3600 * SECOND_MS;
const YEAR_MS: u64 = 365 * DAY_MS;

fn store(policy: PolicyKind) -> Store {
    let (value_bytes_max, vnode_bits) = (MEMORY_BYTES / 8, 2);
    let options =
        StoreOptions { memory_bytes: MEMORY_BYTES, value_bytes_max, policy, vnode_bits, hash_seed: HASH_SEED };
    let mut store = Store::new(options).unwrap();
    (0..1 << vnode_bits).for_each(|vnode| store.add_vnode(vnode, 1));
    store
}

fn set(store: &mut Store, now: Instant, key: &[u8], value: &[u8], ttl_ms: u64, idle: bool) {
    let expiry = Expiry { ttl: Duration::from_millis(ttl_ms), idle };
    let write = Write { value, expiry, ..Write::default() };
    assert!(matches!(store.set(now, key_hash(HASH_SEED, key), key, write), SetOutcome::Stored(_)));
}

fn touch(store: &mut Store, now: Instant, key: &[u8], ttl_ms: u64) {
    let outcome = store.touch(now, key_hash(HASH_SEED, key), key, Duration::from_millis(ttl_ms));
    assert!(matches!(outcome, TouchOutcome::Touched(_)), "{outcome:?}");
}

fn is_there(store: &mut Store, now: Instant, key: &[u8]) -> bool {
    store.get(now, key_hash(HASH_SEED, key), key).is_some()
}

fn after(ms: u64) -> Instant {
    START + Duration::from_millis(ms)
}

/// Whatever background work is due at `now`.
fn work(store: &mut Store, now: Instant) {
    while store.work(now, 100) == Progress::More {}
}

#[test]
fn items_of_one_segment_share_end_and_flags_and_keep_their_own() {
    const TTL_MS: i64 = 3_600_000;
    let mut store = store(PolicyKind::Lru);
    // Up to 65 s from the first they are told by two bytes: those are ends on both sides of either bound.
    let items: [(i64, u32); 8] =
        [(0, 700), (1, 700), (-16_384, 0), (-16_385, 9), (49_151, 700), (49_152, 70_000), (0, 0), (30_000, 700)];
    let mut live_bytes = vec![0];
    for (number, (later_ms, client_flags)) in items.iter().enumerate() {
        let expiry = Expiry::after(Duration::from_millis((TTL_MS + later_ms) as u64));
        let write = Write { value: b"value", client_flags: *client_flags, expiry, ..Write::default() };
        let key = [number as u8];
        assert!(matches!(store.set(START, key_hash(HASH_SEED, &key), &key, write), SetOutcome::Stored(_)));
        live_bytes.push(store.live_bytes());
    }
    let costs: Vec<u64> = live_bytes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(costs[1], 5 + 2 + 1 + 5, "two bytes for the end, none for the flags: {costs:?}");
    for passed_ms in [0, TTL_MS - 20_000, TTL_MS - 1, TTL_MS, TTL_MS + 40_000, TTL_MS + 50_000] {
        for (number, (later_ms, client_flags)) in items.iter().enumerate() {
            let key = [number as u8];
            let hit = store.get(after(passed_ms as u64), key_hash(HASH_SEED, &key), &key);
            let expected = (passed_ms < TTL_MS + later_ms).then_some(*client_flags);
            assert_eq!(hit.map(|hit| hit.client_flags), expected, "item {number} after {passed_ms} ms");
        }
    }
}

#[test]
fn an_item_is_served_until_its_last_millisecond_and_not_one_later() {
    let longest_ms = 30 * YEAR_MS;
    for ttl_ms in [1, 2, 127, 128, 999, SECOND_MS, 60 * SECOND_MS, DAY_MS, YEAR_MS, 10 * YEAR_MS, longest_ms] {
        for value_bytes in [10, 3 * BLOCK_BYTES + 5] {
            let mut store = store(PolicyKind::Lru);
            set(&mut store, START, b"key", &vec![1; value_bytes], ttl_ms, false);
            for passed_ms in [0, ttl_ms / 2, ttl_ms - 1] {
                work(&mut store, after(passed_ms));
                assert!(is_there(&mut store, after(passed_ms), b"key"), "{passed_ms} of {ttl_ms} ms");
            }
            assert!(!is_there(&mut store, after(ttl_ms), b"key"), "after {ttl_ms} ms");
        }
    }
}

#[test]
fn what_has_ended_gives_its_memory_back_within_a_second_without_a_read() {
    let mut store = store(PolicyKind::None);
    let items = 20_000;
    let ends_ms = |number: u64| 1 + number * 10 * SECOND_MS / items;
    for number in 0..items {
        set(&mut store, START, &number.to_le_bytes(), &[1; 200], ends_ms(number), false);
    }
    let full_bytes = store.used_bytes();
    for now_ms in (0..=11 * SECOND_MS).step_by(100) {
        work(&mut store, after(now_ms));
        let within_a_second = (0..items).filter(|number| ends_ms(*number) + SECOND_MS > now_ms).count();
        assert!(store.items() <= within_a_second, "{} items at {now_ms} ms", store.items());
    }
    assert_eq!(store.items(), 0);
    assert!(store.used_bytes() < full_bytes / 10, "{} of {full_bytes} bytes", store.used_bytes());
}

#[test]
fn idling_is_counted_from_the_last_hit() {
    for value_bytes in [10, 2 * BLOCK_BYTES] {
        let mut store = store(PolicyKind::S3Fifo);
        set(&mut store, START, b"idle", &vec![1; value_bytes], 100, true);
        set(&mut store, START, b"fixed", &vec![1; value_bytes], 100, false);
        for now_ms in [99, 198, 297, 396] {
            work(&mut store, after(now_ms));
            assert!(is_there(&mut store, after(now_ms), b"idle"), "at {now_ms} ms");
        }
        assert!(!is_there(&mut store, after(100), b"fixed"));
        assert!(is_there(&mut store, after(495), b"idle") && !is_there(&mut store, after(595), b"idle"));
    }
}

#[test]
fn a_touch_keeps_an_idle_item_idling_unless_it_is_for_ever() {
    let mut store = store(PolicyKind::Lru);
    for key in [b"longer", b"for ev"] {
        set(&mut store, START, key, b"value", 100, true);
    }
    touch(&mut store, after(50), b"longer", 1000);
    assert!(is_there(&mut store, after(1049), b"longer"));
    assert!(is_there(&mut store, after(2048), b"longer") && !is_there(&mut store, after(3048), b"longer"));
    touch(&mut store, after(50), b"for ev", 0);
    assert!(is_there(&mut store, after(100 * YEAR_MS), b"for ev"));
}

#[test]
fn a_touch_lengthens_and_shortens_a_large_value_where_it_lies() {
    for policy in PolicyKind::ALL {
        let mut store = store(*policy);
        let value: Vec<u8> = (0..300 * BLOCK_BYTES / 2 + 77).map(|at| at as u8).collect();
        set(&mut store, START, b"key", &value, 10 * SECOND_MS, false);
        let blocks_of = |store: &mut Store, now: Instant| {
            let hit = store.get(now, key_hash(HASH_SEED, b"key"), b"key").expect("it lives");
            let mut read = vec![];
            hit.value.copy_to(&mut read);
            assert!(read == value, "every byte is as it was");
            hit.value.blocks().collect::<Vec<_>>()
        };
        let before = blocks_of(&mut store, START);
        assert_eq!(before.len(), value.len() / BLOCK_BYTES);
        touch(&mut store, after(1), b"key", YEAR_MS);
        work(&mut store, after(10 * SECOND_MS));
        assert_eq!(blocks_of(&mut store, after(10 * SECOND_MS)), before, "{policy}: longer, in the same blocks");
        touch(&mut store, after(20 * SECOND_MS), b"key", 50);
        assert_eq!(blocks_of(&mut store, after(20 * SECOND_MS + 49)), before, "{policy}: shorter, in the same blocks");
        assert!(!is_there(&mut store, after(20 * SECOND_MS + 50), b"key"));
        work(&mut store, after(21 * SECOND_MS + 50));
        assert_eq!((store.items(), store.blocks.used()), (0, 0), "{policy}: its memory is back");
    }
}

#[test]
fn items_that_are_shortened_are_found_without_a_read_too() {
    let mut store = store(PolicyKind::Lru);
    for number in 0..1000u64 {
        set(&mut store, START, &number.to_le_bytes(), &[1; 100], YEAR_MS, false);
    }
    for number in 0..1000u64 {
        touch(&mut store, after(number), &number.to_le_bytes(), 1);
    }
    // Their segment's items end over a year, so it is looked at once a minute (README.md, "Exact expiry").
    work(&mut store, after(67 * SECOND_MS));
    assert_eq!(store.items(), 0);
}
