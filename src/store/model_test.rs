//! The store against a map: the same operations, seeded; every outcome, version and byte must agree.
//!
//! Evictions are told by the store, so under every policy each miss is explained; under `none` there are none. Pinned
//! values are compared with a copy made when they were pinned, reservations arrive in pieces, time jumps, and now and then
//! the store is saved and a new one goes on with what it has loaded.

use std::collections::HashMap;

use quoit_wire::Version;
use quoit_wire::topology::{key_hash, vnode_of};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::segments::{BLOCKS_PER_SEGMENT, Role, segment_start};
use super::state::LoadReport;
use super::*;
use crate::time::WallClock;

const VNODE_BITS: u8 = 3;
const TERM: u32 = 9;
const HASH_SEED: u64 = 5;

/// What a run does more or less of.
#[derive(Clone, Copy)]
struct Mix {
    policy: PolicyKind,
    memory_bytes: usize,
    keys: u64,
    steps: usize,
    /// Of 1000 values, how many are larger than an item holds inline.
    large_values: u32,
    /// Of 1000 steps, how many may be a flush: one in fifty of them is.
    flushes: u32,
    /// Of 1000 steps, how many may be a save and a load: one in fifty of them is.
    restarts: u32,
    has_expiry: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct ModelItem {
    key: Vec<u8>,
    value: Vec<u8>,
    version: Version,
    client_flags: u32,
    expires_ms: Option<u64>,
    idle_ms: u64,
}

struct Arrival {
    reservation: Reservation,
    value: Vec<u8>,
    sent: usize,
    client_flags: u32,
    expiry: Expiry,
}

struct Run {
    mix: Mix,
    seed: u64,
    random: StdRng,
    store: Store,
    items: HashMap<u64, ModelItem>,
    sequences: Vec<u64>,
    pins: Vec<(Pin, Vec<u8>)>,
    arrivals: Vec<Arrival>,
    now_ms: u64,
    step: usize,
    refused: usize,
}

impl Run {
    fn new(mix: Mix, seed: u64) -> Self {
        let store = Self::empty_store(&mix);
        let (random, items, sequences) = (StdRng::seed_from_u64(seed), HashMap::new(), vec![0; 1 << VNODE_BITS]);
        let (pins, arrivals) = (vec![], vec![]);
        Self { mix, seed, random, store, items, sequences, pins, arrivals, now_ms: 1000, step: 0, refused: 0 }
    }

    fn empty_store(mix: &Mix) -> Store {
        let mut store = Store::new(StoreOptions {
            memory_bytes: mix.memory_bytes,
            value_bytes_max: mix.memory_bytes / 8,
            policy: mix.policy,
            vnode_bits: VNODE_BITS,
            hash_seed: HASH_SEED,
        })
        .unwrap();
        (0..1 << VNODE_BITS).for_each(|vnode| store.add_vnode(vnode, TERM));
        store
    }

    fn now(&self) -> Instant {
        Instant::from_millis(self.now_ms)
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.random.random_range(0..1000) < per_mille
    }

    fn key(&mut self) -> (u64, Vec<u8>) {
        let number = self.random.random_range(0..self.mix.keys);
        let length = match number % 500 {
            0 => 60_000,
            1..5 => 300,
            _ => 8 + (number % 20) as usize,
        };
        let mut key = vec![b'k'; length];
        key[..8].copy_from_slice(&number.to_le_bytes());
        (key_hash(HASH_SEED, &key), key)
    }

    fn value(&mut self) -> Vec<u8> {
        let length = if self.chance(self.mix.large_values) {
            let most = if self.chance(50) { self.mix.memory_bytes / 8 } else { 100_000 };
            self.random.random_range(8000..=most)
        } else {
            let most = [1, 20, 100, 1000, 8192][self.random.random_range(0..5)];
            self.random.random_range(0..=most)
        };
        // Repeated, because drawing megabytes takes most of a run's time; the period divides no block.
        let mut period = [0; 61];
        self.random.fill_bytes(&mut period);
        let mut value = period.repeat(length.div_ceil(period.len()));
        value.truncate(length);
        value
    }

    fn expiry(&mut self) -> Expiry {
        if !self.mix.has_expiry || self.chance(400) {
            return Expiry::NEVER;
        }
        let most = [3, 2000, 60_000, 10_000_000, u64::MAX][self.random.random_range(0..5)];
        Expiry { ttl: Duration::from_millis(self.random.random_range(1..=most)), idle: self.chance(300) }
    }

    fn flags(&mut self) -> u32 {
        if self.chance(300) { self.random.random() } else { 0 }
    }

    fn next_version(&mut self, hash: u64) -> Version {
        let sequence = &mut self.sequences[vnode_of(hash, VNODE_BITS)];
        *sequence += 1;
        Version::new(TERM, *sequence)
    }

    /// Drops what the store says it evicted, and the item of `hash` if it has ended.
    fn settle(&mut self, hash: u64) {
        for evicted in std::mem::take(&mut self.store.counters.evicted_hashes) {
            assert!(
                self.items.remove(&evicted).is_some(),
                "evicted {evicted:x}, which was not there: {}",
                self.place()
            );
        }
        let now_ms = self.now_ms;
        if self.items.get(&hash).is_some_and(|item| item.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms)) {
            self.items.remove(&hash);
        }
    }

    fn place(&self) -> String {
        format!("policy {} seed {} step {}", self.mix.policy, self.seed, self.step)
    }

    fn put(&mut self, hash: u64, key: Vec<u8>, value: Vec<u8>, client_flags: u32, expiry: Expiry) -> Version {
        let version = self.next_version(hash);
        let ttl_ms = expiry.ttl.as_millis();
        let expires_ms = (ttl_ms > 0).then(|| (self.now_ms.saturating_add(ttl_ms)).min(item::MILLIS_MAX));
        let idle_ms = if expiry.idle { ttl_ms.min(item::MILLIS_MAX) } else { 0 };
        self.items.insert(hash, ModelItem { key, value, version, client_flags, expires_ms, idle_ms });
        version
    }

    fn run(&mut self) {
        for step in 0..self.mix.steps {
            self.step = step;
            self.now_ms += [0, 0, 0, 1, 1, 5, 200][self.random.random_range(0..7)];
            match self.random.random_range(0..1000) {
                0..350 => self.get(),
                350..600 => self.set(),
                600..660 => self.delete(),
                660..730 => self.touch(),
                730..790 => self.increment(),
                790..850 => self.extend(),
                850..880 => self.arrive(),
                880..900 => self.change_pins(),
                900..980 => {
                    let steps = self.random.random_range(0..20);
                    self.store.work(self.now(), steps);
                }
                980.. if self.chance(self.mix.flushes) => {
                    self.settle(0);
                    self.store.flush(self.now());
                    self.items.clear();
                    self.sequences.iter_mut().for_each(|sequence| *sequence += 1);
                }
                980.. if self.chance(self.mix.restarts) => self.restart(),
                _ => {}
            }
            if step % 20_000 == 0 {
                self.check_books();
            }
        }
        self.finish();
    }

    fn get(&mut self) {
        let (hash, key) = self.key();
        self.store.prefetch([hash].into_iter());
        self.settle(hash);
        let now_ms = self.now_ms;
        let place = self.place();
        let hit = self.store.get(Instant::from_millis(now_ms), hash, &key);
        match (hit, self.items.get_mut(&hash)) {
            (None, None) => {}
            (Some(hit), Some(item)) => {
                if item.idle_ms > 0 {
                    item.expires_ms = Some(now_ms.saturating_add(item.idle_ms).min(item::MILLIS_MAX));
                }
                let mut value = vec![];
                hit.value.copy_to(&mut value);
                assert!(value == item.value && hit.value.len() == value.len(), "value: {place}");
                assert_eq!(hit.version, item.version, "{place}");
                assert_eq!(hit.client_flags, item.client_flags, "{place}");
                assert_eq!(hit.expires.map(Instant::as_millis), item.expires_ms, "{place}");
            }
            (hit, item) => panic!("store has it: {}, model: {:?}: {place}", hit.is_some(), item.map(|i| i.version)),
        }
    }

    fn set(&mut self) {
        let (hash, key) = self.key();
        let (value, client_flags, expiry) = (self.value(), self.flags(), self.expiry());
        let condition = match self.random.random_range(0..10) {
            0 => Condition::IfAbsent,
            1 => Condition::IfPresent,
            2 => Condition::IfVersion(self.items.get(&hash).map_or(Version::NONE, |item| item.version)),
            3 => Condition::IfVersion(Version::new(TERM, 1)),
            _ => Condition::Always,
        };
        let write = Write { value: &value, client_flags, expiry, condition };
        let outcome = self.store.set(self.now(), hash, &key, write);
        self.settle_set(hash, key, value, client_flags, expiry, condition, outcome);
    }

    #[expect(clippy::too_many_arguments, reason = "what a set is made of")]
    fn settle_set(
        &mut self,
        hash: u64,
        key: Vec<u8>,
        value: Vec<u8>,
        client_flags: u32,
        expiry: Expiry,
        condition: Condition,
        outcome: SetOutcome,
    ) {
        self.settle(hash);
        let current = self.items.get(&hash).map(|item| item.version);
        if outcome == SetOutcome::NoSpace {
            self.refused += 1;
            return;
        }
        let expected = match condition.holds(current) {
            true => SetOutcome::Stored(self.put(hash, key, value, client_flags, expiry)),
            false => SetOutcome::ConditionFailed(current),
        };
        assert_eq!(outcome, expected, "{}", self.place());
    }

    fn delete(&mut self) {
        let (hash, key) = self.key();
        self.settle(hash);
        let expected = self.items.remove(&hash).map(|_| self.next_version(hash));
        assert_eq!(self.store.delete(self.now(), hash, &key), expected, "{}", self.place());
    }

    fn touch(&mut self) {
        let (hash, key) = self.key();
        let ttl = self.expiry().ttl;
        let outcome = self.store.touch(self.now(), hash, &key, ttl);
        self.settle(hash);
        let expected = match self.items.get(&hash).cloned() {
            _ if outcome == TouchOutcome::NoSpace => {
                self.refused += 1;
                return;
            }
            None => TouchOutcome::Missing,
            Some(item) => {
                let expiry = Expiry { ttl, idle: item.idle_ms > 0 };
                TouchOutcome::Touched(self.put(hash, key, item.value, item.client_flags, expiry))
            }
        };
        assert_eq!(outcome, expected, "{}", self.place());
    }

    fn increment(&mut self) {
        let (hash, key) = self.key();
        let delta = if self.chance(20) { i64::MAX } else { self.random.random_range(-1000..1000) };
        let create = self.chance(700).then(|| (self.random.random_range(-50..50), self.expiry().ttl));
        let outcome = self.store.increment(self.now(), hash, &key, Increment { delta, create });
        self.settle(hash);
        let parsed = self.items.get(&hash).map(|item| std::str::from_utf8(&item.value).ok()?.parse::<i64>().ok());
        let expected = match (parsed, create) {
            _ if outcome == IncrementOutcome::NoSpace => {
                self.refused += 1;
                return;
            }
            (None, None) => IncrementOutcome::Missing,
            (None, Some((value, ttl))) => {
                let version = self.put(hash, key, value.to_string().into_bytes(), 0, Expiry::after(ttl));
                IncrementOutcome::Stored { version, value }
            }
            (Some(None), _) => IncrementOutcome::NotANumber,
            (Some(Some(value)), _) => match value.checked_add(delta) {
                None => IncrementOutcome::Overflow,
                Some(value) => {
                    let version = self.next_version(hash);
                    let item = self.items.get_mut(&hash).unwrap();
                    (item.value, item.version) = (value.to_string().into_bytes(), version);
                    IncrementOutcome::Stored { version, value }
                }
            },
        };
        assert_eq!(outcome, expected, "{}", self.place());
    }

    fn extend(&mut self) {
        let (hash, key) = self.key();
        let bytes = if self.chance(100) { self.value() } else { b"more".to_vec() };
        let end = if self.chance(500) { End::Front } else { End::Back };
        let outcome = self.store.extend(self.now(), hash, &key, &bytes, end);
        self.settle(hash);
        let length = self.items.get(&hash).map(|item| item.value.len() + bytes.len());
        let expected = match length {
            _ if outcome == ExtendOutcome::NoSpace => {
                self.refused += 1;
                return;
            }
            None => ExtendOutcome::Missing,
            Some(length) if length > self.mix.memory_bytes / 8 => ExtendOutcome::TooLarge,
            Some(_) => {
                let version = self.next_version(hash);
                let item = self.items.get_mut(&hash).unwrap();
                item.version = version;
                match end {
                    End::Front => item.value.splice(..0, bytes).for_each(drop),
                    End::Back => item.value.extend(bytes),
                }
                ExtendOutcome::Stored(version)
            }
        };
        assert_eq!(outcome, expected, "{}", self.place());
    }

    /// Begins, continues or ends a value that arrives in pieces.
    fn arrive(&mut self) {
        let now = self.now();
        if self.arrivals.len() < 3 && self.chance(300) {
            let (_, key) = self.key();
            let (value, client_flags, expiry) = (self.value(), self.flags(), self.expiry());
            let hash = key_hash(HASH_SEED, &key);
            match self.store.reserve(now, hash, &key, value.len()) {
                Ok(reservation) => {
                    self.arrivals.push(Arrival { reservation, value, sent: 0, client_flags, expiry });
                }
                Err(_) => self.refused += 1,
            }
            return;
        }
        if self.arrivals.is_empty() {
            return;
        }
        let number = self.random.random_range(0..self.arrivals.len());
        let mut arrival = self.arrivals.swap_remove(number);
        if self.chance(50) {
            self.store.abandon(arrival.reservation);
            return;
        }
        let piece = self.random.random_range(0..=arrival.value.len() - arrival.sent);
        let wanted = arrival.sent + piece.max(1).min(arrival.value.len() - arrival.sent);
        while arrival.sent < wanted {
            let mut filled = arrival.sent;
            let mut fill = |space: &mut [u8]| {
                let length = space.len().min(wanted - filled);
                space[..length].copy_from_slice(&arrival.value[filled..filled + length]);
                filled += length;
            };
            if self.random.random_bool(0.5) {
                self.store.unfilled_pieces(&mut arrival.reservation, wanted - arrival.sent, fill);
            } else {
                fill(self.store.unfilled(&mut arrival.reservation));
            }
            if filled == arrival.sent {
                self.refused += 1;
                self.store.abandon(arrival.reservation);
                return;
            }
            // A receive may bring less than there is space for; what was written behind that is written again.
            let length = self.random.random_range(1..=filled - arrival.sent);
            self.store.advance(&mut arrival.reservation, length);
            arrival.sent += length;
        }
        if arrival.sent < arrival.value.len() {
            self.arrivals.push(arrival);
            return;
        }
        let Arrival { reservation, value, client_flags, expiry, .. } = arrival;
        let key = reservation.key().to_vec();
        let hash = key_hash(HASH_SEED, &key);
        let outcome = self.store.publish(now, reservation, client_flags, expiry, Condition::Always);
        self.settle_set(hash, key, value, client_flags, expiry, Condition::Always, outcome);
    }

    fn change_pins(&mut self) {
        if self.pins.len() < 20 && self.chance(550) {
            let (hash, key) = self.key();
            let now = self.now();
            if let Some(hit) = self.store.get(now, hash, &key) {
                let mut value = vec![];
                hit.value.copy_to(&mut value);
                if let Some(pin) = hit.pin() {
                    self.pins.push((pin, value));
                }
                if let Some(item) = self.items.get_mut(&hash).filter(|item| item.idle_ms > 0) {
                    item.expires_ms = Some(now.as_millis().saturating_add(item.idle_ms).min(item::MILLIS_MAX));
                }
            }
        } else if !self.pins.is_empty() {
            let number = self.random.random_range(0..self.pins.len());
            let (pin, value) = self.pins.swap_remove(number);
            self.check_pin(&pin, &value);
            self.store.unpin(pin);
        }
    }

    fn check_pin(&self, pin: &Pin, value: &[u8]) {
        let mut pinned = vec![];
        self.store.pinned_value(pin).copy_to(&mut pinned);
        assert!(pinned == value, "pinned bytes changed: {}", self.place());
    }

    /// Saves, and goes on with a new store that loads what was saved: by another clock, and some time later.
    fn restart(&mut self) {
        self.let_go();
        self.settle(0);
        let before = WallClock { now: self.now(), wall_ms: 1_700_000_000_000 };
        let down_ms = [0, 300, 90_000][self.random.random_range(0..3)];
        let chunks = state::tests::saved(&self.store, before);
        let sequences: Vec<u64> = self.store.vnode_sequences().map(|(_, sequence)| sequence).collect();
        assert_eq!(sequences, self.sequences, "{}", self.place());

        self.now_ms = self.random.random_range(1..100_000);
        let after = WallClock { now: self.now(), wall_ms: before.wall_ms + down_ms };
        self.store = Self::empty_store(&self.mix);
        for (vnode, sequence) in sequences.into_iter().enumerate() {
            self.store.continue_vnode(vnode, sequence);
        }
        let report = state::tests::load(&mut self.store, &chunks, after, self.mix.policy).expect("an intact state");
        self.refused += report.refused as usize;
        self.items.retain(|_, item| {
            let Some(expires_ms) = item.expires_ms else { return true };
            let remaining_ms = expires_ms as i64 - before.now.as_millis() as i64 - down_ms as i64;
            item.expires_ms = Some((after.now.as_millis() as i64 + remaining_ms).min(item::MILLIS_MAX as i64) as u64);
            remaining_ms > 0
        });
        let LoadReport { items, refused, .. } = report;
        assert_eq!((items + refused) as usize, self.items.len(), "{}", self.place());
        self.settle(0);
        self.check_books();
    }

    /// Every number the store keeps is what a count gives.
    fn check_books(&mut self) {
        self.settle(0);
        let store = &self.store;
        let place = self.place();
        let (mut items, mut dead_bytes, mut live_bytes) = (0, 0, [0u64; QUEUES]);
        let mut blocks = 0;
        let mut free = store.memory.segments.count();
        for id in 1..store.memory.segments.fresh() {
            let segment = store.memory.segments.get(id);
            free -= usize::from(segment.role != Role::Free);
            if segment.role == Role::Blocks && segment.flush_epoch == store.flush_epoch {
                blocks += segment.blocks_used.count_ones() as usize;
            }
            if segment.role != Role::Items || segment.flush_epoch != store.flush_epoch {
                continue;
            }
            let (mut at, mut live) = (0, 0);
            while at < segment.written as usize {
                let location = segment_start(id) + at;
                let header = store.header_at(location);
                let key = store.memory.arena.bytes(location + header.bytes(), header.key_bytes);
                if store.index.find_location(&store.memory, key_hash(HASH_SEED, key), location).is_some() {
                    live += header.record_bytes();
                    items += 1;
                    live_bytes[usize::from(segment.queue)] += header.total_bytes() as u64;
                    if let Some(expires_ms) = header.expires_ms.filter(|_| !store.is_in_expiry_walk(id)) {
                        assert!((segment.expires_min..=segment.expires_max).contains(&expires_ms), "{place}");
                    }
                }
                at += header.record_bytes();
            }
            assert_eq!((at, live), (segment.written as usize, segment.live as usize), "segment {id}: {place}");
            dead_bytes += (at - live) as u64;
        }
        assert_eq!(free, store.memory.segments.free_count(), "{place}");
        assert_eq!((items, live_bytes, dead_bytes), (store.items, store.live_bytes, store.dead_bytes), "{place}");
        assert!(
            blocks <= store.blocks.used() && blocks + 4 * BLOCKS_PER_SEGMENT * 16 >= store.blocks.used(),
            "{place}"
        );
        assert!(self.items.len() >= store.items, "{place}");
    }

    /// Ends everything that keeps memory of the store in use.
    fn let_go(&mut self) {
        for arrival in std::mem::take(&mut self.arrivals) {
            self.store.abandon(arrival.reservation);
        }
        for (pin, value) in std::mem::take(&mut self.pins) {
            self.check_pin(&pin, &value);
            self.store.unpin(pin);
        }
    }

    fn finish(&mut self) {
        self.let_go();
        self.check_books();
        let place = self.place();
        let now_ms = self.now_ms;
        self.items.retain(|_, item| item.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms));
        for (hash, item) in &self.items {
            let hit = self.store.get(Instant::from_millis(now_ms), *hash, &item.key).expect(&place);
            let mut value = vec![];
            hit.value.copy_to(&mut value);
            assert!(value == item.value && hit.version == item.version, "{place}");
        }
        // In time all that has ended is gone without a read, and a flush gives everything back.
        self.now_ms += 20_000_000;
        let now_ms = self.now_ms;
        while self.store.work(self.now(), 1000) == Progress::More {}
        self.settle(0);
        self.items.retain(|_, item| item.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms));
        assert_eq!(self.items.len(), self.store.items, "{place}");
        self.store.flush(self.now());
        while self.store.work(self.now(), 1000) == Progress::More {}
        let ghosts = self.store.memory.segments.role_count(Role::Ghosts) * SEGMENT_BYTES;
        assert_eq!((self.store.items(), self.store.used_bytes()), (0, ghosts), "{place}");
        assert_eq!((self.store.blocks.used(), self.store.memory.segments.pinned_count()), (0, 0), "{place}");
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    // More runs, and other ones: QUOIT_MODEL_SEEDS=100..200 cargo test --release store::model_test
    let text = option_env!("QUOIT_MODEL_SEEDS").unwrap_or("1..3");
    let (first, end) = text.split_once("..").expect("QUOIT_MODEL_SEEDS is first..end");
    first.parse().expect("a number")..end.parse().expect("a number")
}

fn run(mix: Mix) -> usize {
    let mut refused = 0;
    for seed in seeds() {
        let mut run = Run::new(mix, seed);
        run.run();
        refused += run.refused;
    }
    refused
}

const MIX: Mix = Mix {
    policy: PolicyKind::S3Fifo,
    memory_bytes: 9 << 20,
    keys: 20_000,
    steps: 60_000,
    large_values: 20,
    flushes: 20,
    restarts: 4,
    has_expiry: true,
};

#[test]
fn every_policy_agrees_with_a_map() {
    for policy in PolicyKind::ALL {
        run(Mix { policy: *policy, ..MIX });
    }
}

#[test]
fn every_policy_agrees_with_a_map_on_small_items_without_expiry() {
    for policy in PolicyKind::ALL {
        run(Mix { policy: *policy, keys: 200_000, large_values: 0, has_expiry: false, ..MIX });
    }
}

#[test]
fn large_values_agree_with_a_map() {
    for policy in PolicyKind::ALL {
        run(Mix { policy: *policy, keys: 2000, steps: 20_000, large_values: 700, ..MIX });
    }
}

/// A store of 16 MiB into which items that are all hit were written: as many as one write after another could not keep.
fn overrun(policy: PolicyKind, hits: usize) -> Store {
    let options =
        StoreOptions { memory_bytes: 16 << 20, value_bytes_max: 64 << 10, policy, vnode_bits: 0, hash_seed: 1 };
    let mut store = Store::new(options).expect("there is memory");
    store.add_vnode(0, 1);
    let now = Instant::from_millis(1);
    let mut set = |number: u32| {
        let key = number.to_le_bytes();
        let write = Write {
            value: &[7; 200],
            client_flags: 0,
            expiry: Expiry::after(Duration::ZERO),
            condition: Condition::Always,
        };
        let hash = key_hash(1, &key);
        assert!(matches!(store.set(now, hash, &key, write), SetOutcome::Stored(_)));
        (0..hits).for_each(|_| assert!(store.get(now, hash, &key).is_some()));
    };
    (0..200_000).for_each(&mut set);
    store
}

#[test]
fn an_eviction_is_told_by_its_cause() {
    let [policy, pressure] = overrun(PolicyKind::S3Fifo, 0).counters.evictions;
    assert!(policy > 1000 && pressure == 0, "{policy} let go, {pressure} under pressure");
    // Everything has its second chance, and there is no room for it.
    let [policy, pressure] = overrun(PolicyKind::Lru, 1).counters.evictions;
    assert!(pressure > 0, "{policy} let go, {pressure} under pressure");
}

#[test]
fn with_room_for_everything_nothing_is_evicted_or_refused() {
    for policy in PolicyKind::ALL {
        let mix = Mix { policy: *policy, memory_bytes: 64 << 20, keys: 3000, large_values: 5, ..MIX };
        for seed in seeds() {
            let mut run = Run::new(mix, seed);
            run.run();
            assert_eq!((run.refused, run.store.counters.evictions), (0, [0, 0]), "{}", run.place());
        }
    }
}

/// What is run again under valgrind: short, and still every policy evicts, compacts, expires and receives large values.
#[test]
fn a_short_run_agrees_with_a_map() {
    let mut evicted = 0;
    for policy in PolicyKind::ALL {
        let mut run = Run::new(Mix { policy: *policy, keys: 2000, steps: 2600, large_values: 400, ..MIX }, 1);
        run.run();
        evicted += run.store.counters.evictions.iter().sum::<u64>();
    }
    assert!(evicted > 0, "nothing was evicted: too short");
}

/// All of the store's `unsafe`, and what it rests on. The arena lies between addresses that valgrind knows to be nobody's,
/// so an access past its ends is told, as is one outside of any allocation beside it.
#[test]
fn valgrind_finds_nothing_in_a_short_run() {
    let tests = std::env::current_exe().expect("a test is a program");
    let status = std::process::Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=99", "--exit-on-first-error=yes"])
        .arg(tests)
        .args(["--exact", "store::model_test::a_short_run_agrees_with_a_map"])
        .status()
        .expect("valgrind is there: .ci/setup installs it");
    assert!(status.success(), "valgrind found something, above: {status}");
}
