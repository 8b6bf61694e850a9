//! Floor 2: one core's items. See `README.md` beside this file.
//!
//! The door of the floor: the store's operations. Keys come with their hash (`quoit_wire::topology::key_hash`), whose
//! top bits say the vnode; `now` is an argument. Nothing here does I/O.

mod hit;
mod operation;
mod options;

use std::collections::HashMap;

use quoit_wire::Version;
use quoit_wire::limits::KEY_BYTES_MAX;
use quoit_wire::topology::{VNODE_BITS_MAX, vnode_of};

pub use hit::{Hit, Pin, Reservation, Slices, Value};
pub use operation::{
    Condition, End, Expiry, ExtendOutcome, Increment, IncrementOutcome, Progress, ReserveRefusal, SetOutcome,
    TouchOutcome, Write,
};
pub use options::{PolicyKind, StoreError, StoreOptions, UnknownPolicy};

use crate::samples::{Sample, SampleKind};
use crate::time::{Duration, Instant};

/// Bytes an item is taken to need beside key and value.
const ITEM_OVERHEAD_BYTES: usize = 128;

/// One core's items.
pub struct Store {
    options: StoreOptions,
    vnodes: Vec<Option<Vnode>>,
    used_bytes: usize,
    items: usize,
    evictions: u64,
    expirations: u64,
}

#[derive(Default)]
struct Vnode {
    term: u32,
    sequence: u64,
    table: HashMap<Box<[u8]>, Item>,
}

struct Item {
    version: Version,
    client_flags: u32,
    expiry: Expiry,
    expires: Option<Instant>,
    value: Box<[u8]>,
}

impl Item {
    fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

impl Store {
    /// A store without vnodes.
    pub fn new(options: StoreOptions) -> Result<Self, StoreError> {
        if options.vnode_bits > VNODE_BITS_MAX {
            return Err(StoreError::VnodeBits { given: options.vnode_bits, limit: VNODE_BITS_MAX });
        }
        let vnodes = (0..1usize << options.vnode_bits).map(|_| None).collect();
        Ok(Self { options, vnodes, used_bytes: 0, items: 0, evictions: 0, expirations: 0 })
    }

    /// From now on this store owns `vnode`, empty, and numbers its writes under `term`.
    pub fn add_vnode(&mut self, vnode: usize, term: u32) {
        self.vnodes[vnode] = Some(Vnode { term, ..Vnode::default() });
    }

    /// Whether this store owns the vnode of `hash`.
    pub fn owns(&self, hash: u64) -> bool {
        self.vnodes[vnode_of(hash, self.options.vnode_bits)].is_some()
    }

    /// First stage of a turn's prefetch: fetches what [`Self::prefetch_item`] will look at.
    #[inline]
    pub fn prefetch_bucket(&self, _hash: u64) {}

    /// Second stage of a turn's prefetch: fetches the item's bytes, once its bucket is there.
    #[inline]
    pub fn prefetch_item(&self, _hash: u64) {}

    /// Reads an item. A hit counts for the eviction policy, and restarts an idle expiry.
    ///
    /// Panics, as every operation on a key does, when the store does not own the key's vnode.
    pub fn get(&mut self, now: Instant, hash: u64, key: &[u8]) -> Option<Hit<'_>> {
        self.expire(now, hash, key);
        let item = self.vnode(hash).table.get_mut(key)?;
        if item.expiry.idle {
            item.expires = Some(now + item.expiry.ttl);
        }
        Some(Hit {
            version: item.version,
            client_flags: item.client_flags,
            expires: item.expires,
            value: Value::new(&item.value),
        })
    }

    /// Writes an item.
    pub fn set(&mut self, now: Instant, hash: u64, key: &[u8], write: Write<'_>) -> SetOutcome {
        self.expire(now, hash, key);
        if key.len() > KEY_BYTES_MAX || write.value.len() > self.options.value_bytes_max {
            return SetOutcome::TooLarge;
        }
        let current = self.vnode(hash).table.get(key).map(|item| item.version);
        if !write.condition.holds(current) {
            return SetOutcome::ConditionFailed(current);
        }
        let expires = (write.expiry.ttl > Duration::ZERO).then(|| now + write.expiry.ttl);
        match self.store(hash, key, write.value.into(), write.client_flags, write.expiry, expires) {
            Some(version) => SetOutcome::Stored(version),
            None => SetOutcome::NoSpace,
        }
    }

    /// Removes an item; the version of the delete, or `None` where there was no item.
    pub fn delete(&mut self, now: Instant, hash: u64, key: &[u8]) -> Option<Version> {
        self.expire(now, hash, key);
        self.remove(hash, key)?;
        Some(self.next_version(hash))
    }

    /// Gives an item a new time to live from now on; zero is for ever. An item with idle expiry keeps it, with this
    /// time, unless it is zero. A touch is a write and makes a version.
    pub fn touch(&mut self, now: Instant, hash: u64, key: &[u8], ttl: Duration) -> TouchOutcome {
        self.expire(now, hash, key);
        if !self.vnode(hash).table.contains_key(key) {
            return TouchOutcome::Missing;
        }
        let version = self.next_version(hash);
        if let Some(item) = self.vnode(hash).table.get_mut(key) {
            item.expiry = Expiry { ttl, idle: item.expiry.idle && ttl > Duration::ZERO };
            item.expires = (ttl > Duration::ZERO).then(|| now + ttl);
            item.version = version;
        }
        TouchOutcome::Touched(version)
    }

    /// Adds to a counter: an item whose value is the decimal ASCII of an `i64`. Expiry and client flags stay.
    pub fn increment(&mut self, now: Instant, hash: u64, key: &[u8], increment: Increment) -> IncrementOutcome {
        self.expire(now, hash, key);
        let (value, client_flags, expiry, expires) = match self.vnode(hash).table.get(key) {
            Some(item) => {
                let Some(value) = std::str::from_utf8(&item.value).ok().and_then(|text| text.parse::<i64>().ok())
                else {
                    return IncrementOutcome::NotANumber;
                };
                let Some(value) = value.checked_add(increment.delta) else {
                    return IncrementOutcome::Overflow;
                };
                (value, item.client_flags, item.expiry, item.expires)
            }
            None => {
                let Some((initial, ttl)) = increment.create else {
                    return IncrementOutcome::Missing;
                };
                (initial, 0, Expiry::after(ttl), (ttl > Duration::ZERO).then(|| now + ttl))
            }
        };
        match self.store(hash, key, value.to_string().as_bytes().into(), client_flags, expiry, expires) {
            Some(version) => IncrementOutcome::Stored { version, value },
            None => IncrementOutcome::NoSpace,
        }
    }

    /// Adds bytes to an item's value. Expiry and client flags stay.
    pub fn extend(&mut self, now: Instant, hash: u64, key: &[u8], bytes: &[u8], end: End) -> ExtendOutcome {
        self.expire(now, hash, key);
        let value_bytes_max = self.options.value_bytes_max;
        let Some(item) = self.vnode(hash).table.get(key) else {
            return ExtendOutcome::Missing;
        };
        if item.value.len() + bytes.len() > value_bytes_max {
            return ExtendOutcome::TooLarge;
        }
        let (front, back): (&[u8], &[u8]) = match end {
            End::Front => (bytes, &item.value),
            End::Back => (&item.value, bytes),
        };
        let value = [front, back].concat().into_boxed_slice();
        let (client_flags, expiry, expires) = (item.client_flags, item.expiry, item.expires);
        match self.store(hash, key, value, client_flags, expiry, expires) {
            Some(version) => ExtendOutcome::Stored(version),
            None => ExtendOutcome::NoSpace,
        }
    }

    /// Reserves space for an item whose value of `value_bytes` is still arriving. Nothing is visible before
    /// [`Self::publish`].
    pub fn reserve(
        &mut self,
        _now: Instant,
        hash: u64,
        key: &[u8],
        value_bytes: usize,
    ) -> Result<Reservation, ReserveRefusal> {
        if key.len() > KEY_BYTES_MAX || value_bytes > self.options.value_bytes_max {
            return Err(ReserveRefusal::TooLarge);
        }
        Ok(Reservation { hash, key: key.into(), value: vec![0; value_bytes], filled: 0 })
    }

    /// The next piece of reserved space to be filled; empty when the value is complete. Receive into it, then say how
    /// much with [`Self::advance`].
    pub fn unfilled<'a>(&'a mut self, reservation: &'a mut Reservation) -> &'a mut [u8] {
        &mut reservation.value[reservation.filled..]
    }

    /// The next `bytes` bytes of [`Self::unfilled`] are filled.
    pub fn advance(&mut self, reservation: &mut Reservation, bytes: usize) {
        assert!(bytes <= reservation.missing_bytes(), "more bytes than were reserved");
        reservation.filled += bytes;
    }

    /// Copies the next bytes of the value into the reserved space; returns how many, fewer only when it is complete.
    pub fn fill(&mut self, reservation: &mut Reservation, bytes: &[u8]) -> usize {
        let mut copied = 0;
        while copied < bytes.len() {
            let piece = self.unfilled(reservation);
            if piece.is_empty() {
                break;
            }
            let length = piece.len().min(bytes.len() - copied);
            piece[..length].copy_from_slice(&bytes[copied..copied + length]);
            self.advance(reservation, length);
            copied += length;
        }
        copied
    }

    /// Makes a completed reservation the item, as [`Self::set`] would have. Whatever the outcome, the reservation is gone.
    pub fn publish(
        &mut self,
        now: Instant,
        reservation: Reservation,
        client_flags: u32,
        expiry: Expiry,
        condition: Condition,
    ) -> SetOutcome {
        assert_eq!(reservation.missing_bytes(), 0, "published before it was complete");
        let write = Write { value: &reservation.value, client_flags, expiry, condition };
        self.set(now, reservation.hash, &reservation.key, write)
    }

    /// Gives reserved space back.
    pub fn abandon(&mut self, _reservation: Reservation) {}

    /// Removes every item, at once for every reader; the memory comes back through [`Self::work`]. A flush is one
    /// sequenced write in each vnode.
    pub fn flush(&mut self, _now: Instant) {
        for vnode in self.vnodes.iter_mut().flatten() {
            vnode.table.clear();
            vnode.sequence += 1;
        }
        self.used_bytes = 0;
        self.items = 0;
    }

    /// Background work: at most `steps` steps of a microsecond or two each of expiry, reclaiming ahead of need,
    /// compaction and index upkeep. Call it once a turn, with more steps when the core has nothing else to do.
    pub fn work(&mut self, _now: Instant, _steps: usize) -> Progress {
        Progress::Idle
    }

    /// The value that `pin` keeps in place, for as long as it is pinned.
    pub fn pinned_value(&self, pin: &Pin) -> Value<'_> {
        match pin.never {}
    }

    /// Ends a pin: the value's memory may change again.
    pub fn unpin(&mut self, pin: Pin) {
        match pin.never {}
    }

    /// Items that are stored; expired ones that were not yet found are among them.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Lists the store's counters.
    pub fn samples(&self, out: &mut Vec<Sample>) {
        let gauge = |name, help, value| Sample { name, help, kind: SampleKind::Gauge, label: None, value };
        let counter = |name, help, value| Sample { name, help, kind: SampleKind::Counter, label: None, value };
        out.push(gauge("items", "Items that are stored.", self.items as u64));
        out.push(gauge("memory_used_bytes", "Bytes of memory in use.", self.used_bytes as u64));
        out.push(gauge("memory_cap_bytes", "Bytes of memory there may be.", self.options.memory_bytes as u64));
        out.push(counter("evictions_total", "Items evicted to make room.", self.evictions));
        out.push(counter("expirations_total", "Items removed because they had expired.", self.expirations));
    }

    fn vnode(&mut self, hash: u64) -> &mut Vnode {
        match &mut self.vnodes[vnode_of(hash, self.options.vnode_bits)] {
            Some(vnode) => vnode,
            None => panic!("the store does not own the vnode of this key"),
        }
    }

    fn next_version(&mut self, hash: u64) -> Version {
        let vnode = self.vnode(hash);
        vnode.sequence += 1;
        Version::new(vnode.term, vnode.sequence)
    }

    fn store(
        &mut self,
        hash: u64,
        key: &[u8],
        value: Box<[u8]>,
        client_flags: u32,
        expiry: Expiry,
        expires: Option<Instant>,
    ) -> Option<Version> {
        let item_bytes = ITEM_OVERHEAD_BYTES + key.len() + value.len();
        let replaced_bytes = self.vnode(hash).table.get(key).map_or(0, |item| item_footprint(key, item));
        while self.used_bytes - replaced_bytes + item_bytes > self.options.memory_bytes {
            if self.options.policy == PolicyKind::None || !self.evict_other_than(key) {
                return None;
            }
        }
        self.remove(hash, key);
        let version = self.next_version(hash);
        self.vnode(hash).table.insert(key.into(), Item { version, client_flags, expiry, expires, value });
        self.used_bytes += item_bytes;
        self.items += 1;
        Some(version)
    }

    fn evict_other_than(&mut self, kept: &[u8]) -> bool {
        for vnode in self.vnodes.iter_mut().flatten() {
            let Some(key) = vnode.table.keys().find(|key| ***key != *kept).cloned() else {
                continue;
            };
            if let Some(item) = vnode.table.remove(&key) {
                self.used_bytes -= item_footprint(&key, &item);
                self.items -= 1;
                self.evictions += 1;
                return true;
            }
        }
        false
    }

    fn expire(&mut self, now: Instant, hash: u64, key: &[u8]) {
        if self.vnode(hash).table.get(key).is_some_and(|item| item.is_expired(now)) {
            self.remove(hash, key);
            self.expirations += 1;
        }
    }

    fn remove(&mut self, hash: u64, key: &[u8]) -> Option<()> {
        let item = self.vnode(hash).table.remove(key)?;
        self.used_bytes -= item_footprint(key, &item);
        self.items -= 1;
        Some(())
    }
}

fn item_footprint(key: &[u8], item: &Item) -> usize {
    ITEM_OVERHEAD_BYTES + key.len() + item.value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let mut store = Store::new(StoreOptions {
            memory_bytes: 1 << 20,
            value_bytes_max: 1 << 17,
            policy: PolicyKind::S3Fifo,
            vnode_bits: 0,
            hash_seed: 1,
        })
        .unwrap();
        store.add_vnode(0, 7);
        store
    }

    #[test]
    fn an_item_ends_at_its_expiry_and_not_before() {
        let mut store = store();
        let write = Write { value: b"v", expiry: Expiry::after(Duration::from_millis(10)), ..Write::default() };
        assert_eq!(store.set(Instant::ORIGIN, 0, b"k", write), SetOutcome::Stored(Version::new(7, 1)));
        let hit = store.get(Instant::from_millis(9), 0, b"k").map(|hit| hit.value.as_slice().map(<[u8]>::to_vec));
        assert_eq!(hit, Some(Some(b"v".to_vec())));
        assert!(store.get(Instant::from_millis(10), 0, b"k").is_none());
    }
}
