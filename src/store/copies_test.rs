//! A primary's store and its copies: whatever is done to the one, the others are told, and hold the same.
//!
//! One follows from the beginning; one is streamed the items by walks while everything goes on, as a copy that catches up
//! is. Both share their store with a vnode of their own, whose items have to make room for the followed ones.

use quoit_wire::Version;
use quoit_wire::peer::{Change, Put};
use quoit_wire::topology::{key_hash, vnode_of};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;

const VNODE_BITS: u8 = 2;
const HASH_SEED: u64 = 77;
/// The vnode that is followed; another one lives beside it in each copy's store.
const VNODE: usize = 2;
const BESIDE: usize = 1;
const SLICE_BYTES: usize = 8 << 10;

/// An item to be compared: key, version, value, client flags, time to live, idle time.
type Held = (Vec<u8>, Version, Vec<u8>, u32, u64, u64);

struct Copy {
    store: Store,
    /// The walk's cursor while the copy is streamed.
    cursor: u32,
}

struct World {
    random: StdRng,
    seed: u64,
    now: Instant,
    primary: Store,
    copies: Vec<Copy>,
    evictions: usize,
    refused: usize,
}

/// A copy's store has room for the followed vnode, and for some of the one beside it.
const PRIMARY_BYTES: usize = 9 << 20;
const COPY_BYTES: usize = 16 << 20;

fn store(policy: PolicyKind, memory_bytes: usize) -> Store {
    Store::new(StoreOptions {
        memory_bytes,
        value_bytes_max: 1 << 20,
        policy,
        vnode_bits: VNODE_BITS,
        hash_seed: HASH_SEED,
    })
    .unwrap()
}

/// A change as owned bytes.
enum Owned {
    Put { key: Vec<u8>, value: Vec<u8>, client_flags: u32, ttl_ms: u64, idle_ms: u64 },
    Delete(Vec<u8>),
    Evict(Vec<u8>),
    Refresh(Vec<u8>, u64),
    Clear,
}

impl Owned {
    fn change(&self) -> Change<'_> {
        match self {
            Self::Put { key, value, client_flags, ttl_ms, idle_ms } => {
                let (client_flags, ttl_ms, idle_ms) = (*client_flags, *ttl_ms, *idle_ms);
                Change::Put(Put { key, value, client_flags, ttl_ms, idle_ms })
            }
            Self::Delete(key) => Change::Delete { key },
            Self::Evict(key) => Change::Evict { key },
            Self::Refresh(key, ttl_ms) => Change::Refresh { key, ttl_ms: *ttl_ms },
            Self::Clear => Change::Clear,
        }
    }
}

fn owned(item: &StoredItem<'_>) -> Owned {
    let mut value = Vec::new();
    item.value.copy_to(&mut value);
    let StoredItem { key, client_flags, ttl_ms, idle_ms, .. } = *item;
    Owned::Put { key: key.to_vec(), value, client_flags, ttl_ms, idle_ms }
}

impl World {
    fn new(policy: PolicyKind, seed: u64) -> Self {
        let mut primary = store(policy, PRIMARY_BYTES);
        primary.add_vnode(VNODE, 3);
        primary.set_vnode_role(VNODE, VnodeRole::Followed);
        let copy = || {
            let mut store = store(policy, COPY_BYTES);
            store.add_vnode(VNODE, 3);
            store.set_vnode_role(VNODE, VnodeRole::Following);
            store.add_vnode(BESIDE, 8);
            store
        };
        let copies =
            vec![Copy { store: copy(), cursor: Store::CURSOR_END }, Copy { store: copy(), cursor: Store::CURSOR_END }];
        let (random, now) = (StdRng::seed_from_u64(seed), Instant::from_millis(1000));
        Self { random, seed, now, primary, copies, evictions: 0, refused: 0 }
    }

    fn key(&mut self, vnode: usize) -> (u64, Vec<u8>) {
        loop {
            let number = self.random.random_range(0..30_000u64);
            let mut key = number.to_le_bytes().to_vec();
            key.resize(8 + (number % 30) as usize, b'k');
            let hash = key_hash(HASH_SEED, &key);
            if vnode_of(hash, VNODE_BITS) == vnode {
                return (hash, key);
            }
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let most = [8, 100, 2000, 2000, 40_000][self.random.random_range(0..5)];
        let mut value = vec![0; self.random.random_range(0..=most)];
        self.random.fill_bytes(&mut value);
        value
    }

    fn expiry(&mut self) -> Expiry {
        let most = [0, 0, 500, 100_000][self.random.random_range(0..4)];
        let ttl = Duration::from_millis(if most > 0 { self.random.random_range(1..=most) } else { 0 });
        Expiry { ttl, idle: self.random.random_range(0..3) == 0 }
    }

    /// One operation on the primary; the record of what it left behind, if it wrote.
    fn operate(&mut self) -> Option<(u64, Owned)> {
        let (hash, key) = self.key(VNODE);
        let now = self.now;
        let version = match self.random.random_range(0..100) {
            0..45 => {
                let (value, expiry) = (self.value(), self.expiry());
                let client_flags = if self.random.random_range(0..3) == 0 { 9 } else { 0 };
                match self.primary.set(
                    now,
                    hash,
                    &key,
                    Write { value: &value, client_flags, expiry, ..Write::default() },
                ) {
                    SetOutcome::Stored(version) => Some(version),
                    SetOutcome::NoSpace => None,
                    other => panic!("{other:?}"),
                }
            }
            45..55 => {
                let version = self.primary.delete(now, hash, &key)?;
                return Some((version.sequence(), Owned::Delete(key)));
            }
            55..65 => {
                let ttl = self.expiry().ttl;
                match self.primary.touch(now, hash, &key, ttl) {
                    TouchOutcome::Touched(version) => Some(version),
                    _ => None,
                }
            }
            65..75 => match self.primary.extend(now, hash, &key, b"more", End::Back) {
                ExtendOutcome::Stored(version) => Some(version),
                _ => None,
            },
            75..98 => {
                let is_hit = self.primary.get(now, hash, &key).is_some();
                let item = self.primary.peek(now, hash, &key).filter(|item| is_hit && item.idle_ms > 0)?;
                let refresh = Owned::Refresh(key.clone(), item.ttl_ms);
                return Some((self.primary.take_sequence(VNODE), refresh));
            }
            98 if self.random.random_range(0..300) == 0 => {
                self.primary.clear_vnode(VNODE);
                return Some((self.primary.take_sequence(VNODE), Owned::Clear));
            }
            _ => {
                self.primary.work(now, 30);
                None
            }
        }?;
        let item = self.primary.peek(now, hash, &key).expect("what was just written is there");
        assert_eq!(item.sequence, version.sequence());
        Some((version.sequence(), owned(&item)))
    }

    /// Tells the copies what has happened, in the order of the numbers.
    fn tell(&mut self, write: Option<(u64, Owned)>) {
        let evictions = self.primary.take_evictions();
        self.evictions += evictions.len();
        let evictions = evictions.into_iter().map(|eviction| (eviction.sequence, Owned::Evict(eviction.key.into())));
        let mut records: Vec<(u64, Owned)> = evictions.chain(write).collect();
        records.sort_by_key(|(sequence, _)| *sequence);
        for (sequence, record) in &records {
            for copy in &mut self.copies {
                assert_eq!(copy.store.position(VNODE).sequence() + 1, *sequence, "seed {}: no gap", self.seed);
                match copy.store.apply(self.now, VNODE, *sequence, &record.change()) {
                    Applied::Yes => {}
                    other => panic!("policy {} seed {}: {other:?}", self.primary.options.policy, self.seed),
                }
            }
        }
    }

    /// Wipes the second copy, and streams it anew from here on.
    fn restart_stream(&mut self) {
        let copy = &mut self.copies[1];
        copy.store.drop_vnode(VNODE);
        copy.store.add_vnode(VNODE, 3);
        copy.store.adopt_terms(VNODE, &self.primary.terms(VNODE));
        copy.store.set_vnode_role(VNODE, VnodeRole::Following);
        copy.store.set_position(VNODE, self.primary.position(VNODE).sequence());
        copy.cursor = 0;
    }

    fn stream(&mut self) {
        let copy = &mut self.copies[1];
        if copy.cursor < Store::CURSOR_END {
            let mut items = Vec::new();
            copy.cursor = self.primary.walk_vnode(self.now, VNODE, copy.cursor, SLICE_BYTES, |item| {
                items.push((item.sequence, owned(&item)));
            });
            for (sequence, item) in items {
                assert_eq!(copy.store.apply(self.now, VNODE, sequence, &item.change()), Applied::Yes);
            }
        }
    }

    /// Writes into the vnode that lives beside the followed one in a copy's store, so that memory is short there.
    fn crowd(&mut self) {
        let (hash, key) = self.key(BESIDE);
        let value = self.value();
        for copy in &mut self.copies {
            let outcome = copy.store.set(self.now, hash, &key, Write { value: &value, ..Write::default() });
            self.refused += usize::from(outcome == SetOutcome::NoSpace);
            copy.store.work(self.now, 10);
        }
    }

    fn items(&self, store: &Store) -> Vec<Held> {
        let (mut items, mut cursor) = (Vec::new(), 0);
        while cursor < Store::CURSOR_END {
            cursor = store.walk_vnode(self.now, VNODE, cursor, SLICE_BYTES, |item| {
                let mut value = Vec::new();
                item.value.copy_to(&mut value);
                let version = Version::new(store.term_of(VNODE, item.sequence), item.sequence);
                items.push((item.key.to_vec(), version, value, item.client_flags, item.ttl_ms, item.idle_ms));
            });
        }
        items.sort();
        items
    }

    fn check(&self) {
        let expected = self.items(&self.primary);
        for (number, copy) in self.copies.iter().enumerate().filter(|(_, copy)| copy.cursor == Store::CURSOR_END) {
            assert_eq!(copy.store.position(VNODE), self.primary.position(VNODE), "seed {}", self.seed);
            let found = self.items(&copy.store);
            assert_eq!(found.len(), expected.len(), "seed {} copy {number}", self.seed);
            assert!(found == expected, "seed {} copy {number}: an item differs", self.seed);
        }
    }

    fn run(&mut self, steps: usize) {
        for step in 0..steps {
            self.now = self.now + Duration::from_millis(self.random.random_range(0..3));
            let write = self.operate();
            self.tell(write);
            if step % 3 == 0 {
                self.crowd();
            }
            if step % 50 == 0 {
                self.stream();
            }
            if step % 10_000 == 5_000 {
                self.restart_stream();
            }
            if step % 7000 == 6999 {
                let term = self.primary.position(VNODE).term() + 2;
                self.primary.begin_term(VNODE, term);
                let terms = self.primary.terms(VNODE);
                self.copies.iter_mut().for_each(|copy| copy.store.adopt_terms(VNODE, &terms));
            }
            if step % 5000 == 4999 {
                self.check();
            }
        }
        while self.copies[1].cursor < Store::CURSOR_END {
            self.stream();
        }
        self.check();
    }
}

#[test]
fn copies_hold_what_the_primary_holds_under_every_policy_and_pressure() {
    let mut evictions = 0;
    for policy in PolicyKind::ALL.iter().filter(|policy| **policy != PolicyKind::None) {
        for seed in 1..3 {
            let mut world = World::new(*policy, seed);
            world.run(25_000);
            assert!(world.evictions > 100, "policy {policy} seed {seed}: {} evictions", world.evictions);
            evictions += world.evictions;
        }
    }
    assert!(evictions > 5_000, "{evictions}");
}

#[test]
fn a_copy_without_memory_says_so_and_keeps_what_it_has() {
    let mut copy = store(PolicyKind::S3Fifo, PRIMARY_BYTES);
    copy.add_vnode(VNODE, 3);
    copy.set_vnode_role(VNODE, VnodeRole::Following);
    let value = vec![7; 4000];
    let mut sequence = 0;
    let mut keys = Vec::new();
    for number in 0u64.. {
        let key = number.to_le_bytes();
        if vnode_of(key_hash(HASH_SEED, &key), VNODE_BITS) != VNODE {
            continue;
        }
        let put = Change::Put(Put { key: &key, value: &value, ..Put::default() });
        match copy.apply(Instant::ORIGIN, VNODE, sequence + 1, &put) {
            Applied::Yes => sequence += 1,
            Applied::NoSpace => break,
            Applied::Foreign => panic!("its own vnode"),
        }
        keys.push(key);
    }
    assert!(sequence > 1000, "{sequence}");
    assert_eq!(copy.position(VNODE).sequence(), sequence);
    for key in &keys {
        assert!(copy.peek(Instant::ORIGIN, key_hash(HASH_SEED, key), key).is_some());
    }
    let foreign = Change::Delete { key: &keys[0] };
    assert_eq!(copy.apply(Instant::ORIGIN, BESIDE, 1, &foreign), Applied::Foreign);
}
