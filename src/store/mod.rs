//! Floor 2: one core's items. See `README.md` beside this file.
//!
//! The door of the floor: the store's operations. Keys come with their hash (`quoit_wire::topology::key_hash`), whose
//! top bits say the vnode; `now` is an argument. Nothing here does I/O. This file owns the flow of each operation; the
//! files beside it own one structure each and know nothing of one another.

mod append;
mod arena;
mod blocks;
mod copies;
#[cfg(test)]
mod copies_test;
mod counters;
mod departures;
mod expiry;
mod hit;
mod index;
mod item;
mod large;
mod leave;
#[cfg(test)]
mod model_test;
mod operation;
mod options;
mod policy;
mod reclaim;
mod segments;
mod sparse;
pub mod state;
#[cfg(test)]
mod time_to_live_test;
mod versions;

use std::io::Write as _;

use quoit_wire::Version;
use quoit_wire::limits::KEY_BYTES_MAX;
use quoit_wire::topology::{key_hash, vnode_of};

use self::append::{KEPT_FROM_WRITES, Open, OpenKind, Part};
use self::arena::{Arena, HEAD_BYTES_MAX};
pub(crate) use self::arena::{LINE_BYTES, prefetch};
use self::blocks::Blocks;
pub use self::copies::{Applied, Eviction, StoredItem};
use self::counters::Counters;
pub use self::departures::{Departure, DepartureCause};
use self::expiry::Expiry as ExpirySchedule;
pub use self::hit::{Hit, Pin, Reservation, Slices, Value};
use self::index::{Entry, Index, Near, Slot, tag_of};
use self::item::{
    HEADER_BYTES_MAX, Head, Header, INLINE_BYTES_MAX, RECORD_BYTES_MAX, SHORT_KEY_BYTES_MAX, SHORT_KEY_BYTES_MIN,
    is_short_key_at,
};
pub use self::operation::{
    Condition, End, Expiry, ExtendOutcome, Increment, IncrementOutcome, Progress, ReserveRefusal, SetOutcome,
    TouchOutcome, Write,
};
pub use self::options::{PolicyKind, StoreError, StoreOptions, UnknownPolicy};
use self::policy::{Item, Policy, QUEUES};
use self::reclaim::Walk;
use self::segments::{Chain, Memory, NO_SEGMENT, SEGMENT_BYTES, SegmentId, Segments, segment_of};
use self::versions::Versions;
pub use self::versions::{TERMS_MAX, TermStart, VnodeRole};
use crate::samples::Sample;
use crate::time::{Duration, Instant};

/// Keys whose memory is fetched together: enough to hide its latency.
const PREFETCH_WINDOW: usize = 32;
/// Longest decimal of an `i64`.
const DECIMAL_BYTES_MAX: usize = 20;

/// One core's items.
pub struct Store {
    options: StoreOptions,
    memory: Memory,
    index: Index,
    policy: Policy,
    /// The policy's, at hand for every read.
    hits_max: u8,
    versions: Versions,
    blocks: Blocks,
    expiry: ExpirySchedule,
    open: Vec<Open>,
    /// The segments of each queue, oldest first.
    chains: [Chain; QUEUES],
    /// Segments of before the last flush.
    flushed: Chain,
    flush_epoch: u32,
    /// Where a policy with a hand goes on; none: at the old end.
    hand: SegmentId,
    reclaim_walk: Option<Walk>,
    expiry_walk: Option<Walk>,
    /// Live items and their bytes in each queue, blocks included.
    items: usize,
    live_bytes: [u64; QUEUES],
    /// Bytes in segments of items that nothing points to any more.
    dead_bytes: u64,
    /// Bytes promised to values that are still arriving.
    arriving_bytes: usize,
    /// What writes still have to pay for, in bytes to walk through.
    debt_bytes: usize,
    second_chance_bytes: usize,
    walked_bytes: u64,
    /// Bytes that walks have copied in vain since something was last evicted: they belong to copies that follow.
    fruitless_bytes: usize,
    counters: Counters,
    /// Of vnodes that others follow, until they are taken.
    evictions: Vec<Eviction>,
    /// What has left by itself, if somebody wants to know.
    departures: Option<Vec<Departure>>,
}

/// An item that was found.
#[derive(Clone, Copy)]
struct Found {
    slot: Slot,
    entry: Entry,
    header: Header,
}

impl Found {
    fn body(&self) -> Part<'static> {
        let at = self.entry.location() + self.header.bytes() + self.header.key_bytes;
        Part::Kept { at, length: self.header.inline_bytes() + 4 * self.header.blocks() }
    }
}

/// An item to be written. Its header's sequence and length of the key are filled in.
struct Draft<'a> {
    hash: u64,
    key: &'a [u8],
    header: Header,
    parts: &'a [Part<'a>],
    /// The blocks of the item that is replaced go on living in this one.
    keeps_blocks: bool,
}

impl Store {
    /// A store without vnodes. Memory is mapped but not touched.
    pub fn new(options: StoreOptions) -> Result<Self, StoreError> {
        let segments = options.segments()?;
        let policy = Policy::new(options.policy);
        // The last item's head is read by loads that go past its end.
        let bytes = (segments + 1) * SEGMENT_BYTES + HEAD_BYTES_MAX;
        let arena = Arena::map(bytes).map_err(|source| StoreError::Map { bytes, source })?;
        Ok(Self {
            memory: Memory { arena, segments: Segments::new(segments) },
            index: Index::new(options.vnode_bits),
            hits_max: policy.hits_max(),
            policy,
            versions: Versions::new(options.vnode_bits),
            blocks: Blocks::new(segments),
            expiry: ExpirySchedule::new(segments),
            options,
            open: Vec::new(),
            chains: [Chain::default(); QUEUES],
            flushed: Chain::default(),
            flush_epoch: 0,
            hand: NO_SEGMENT,
            reclaim_walk: None,
            expiry_walk: None,
            items: 0,
            live_bytes: [0; QUEUES],
            dead_bytes: 0,
            arriving_bytes: 0,
            debt_bytes: 0,
            second_chance_bytes: 0,
            walked_bytes: 0,
            fruitless_bytes: 0,
            counters: Counters::default(),
            evictions: Vec::new(),
            departures: None,
        })
    }

    /// Makes the first huge page of the arena resident, so that no write waits for it, and what part of one is not used is a
    /// core's cost, not its items'. It takes milliseconds where the host has to find the memory.
    pub fn populate(&mut self) {
        self.memory.arena.populate_first_page();
    }

    /// Makes all of the arena resident: no write waits for the kernel to find a page. Takes about a second for some GiB.
    pub fn prefault(&mut self) -> Result<(), StoreError> {
        let bytes = self.memory.segments.count() * SEGMENT_BYTES;
        self.memory.arena.populate_all().map_err(|source| StoreError::Prefault { bytes, source })
    }

    /// From now on this store owns `vnode`, empty, and numbers its writes under `term`.
    pub fn add_vnode(&mut self, vnode: usize, term: u32) {
        self.versions.own(vnode, term);
    }

    /// The vnode goes on from write number `sequence`, of which an earlier life of the node has told.
    pub fn continue_vnode(&mut self, vnode: usize, sequence: u64) {
        self.versions.resume(vnode, sequence);
    }

    /// The vnodes this store owns, each with the number of its last write.
    pub fn vnode_sequences(&self) -> impl Iterator<Item = (usize, u64)> {
        self.versions.sequences()
    }

    /// Whether this store owns the vnode of `hash`.
    #[inline]
    pub fn owns(&self, hash: u64) -> bool {
        self.versions.owns(hash)
    }

    /// Whether memory that is full is made free by evicting.
    pub fn evicts(&self) -> bool {
        self.policy.evicts()
    }

    /// The hash of `key`.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        key_hash(self.options.hash_seed, key)
    }

    /// Fetches what operations on the keys with these hashes will look at: first all their buckets, then all their items, so
    /// the latency of memory is paid once for all of them. Zero, for a request without a key, does no harm.
    #[inline]
    pub fn prefetch(&self, mut hashes: impl Iterator<Item = u64>) {
        let mut window = [(0, Near::default()); PREFETCH_WINDOW];
        loop {
            let mut count = 0;
            for (place, hash) in window.iter_mut().zip(hashes.by_ref()) {
                self.versions.prefetch(hash);
                *place = (hash, self.index.prefetch(&self.memory, hash));
                count += 1;
            }
            for (hash, near) in &window[..count] {
                self.prefetch_item(*hash, *near);
            }
            if count < PREFETCH_WINDOW {
                return;
            }
        }
    }

    /// The first half of [`Self::prefetch`], for keys that need not be there.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(&self.memory, hash);
    }

    /// Fetches the item's first bytes, once its bucket is there. Header, key and a small value take two lines mostly.
    #[inline(always)]
    fn prefetch_item(&self, hash: u64, near: Near) {
        let location = self.index.guess(&self.memory, hash, near).location();
        self.memory.arena.prefetch(location);
        self.memory.arena.prefetch(location + LINE_BYTES);
    }

    /// Reads an item. A hit counts for the eviction policy, and restarts an idle expiry.
    #[inline(always)]
    pub fn get(&mut self, now: Instant, hash: u64, key: &[u8]) -> Option<Hit<'_>> {
        // Most reads end here, and call nothing: while one waits for memory the processor is ahead in the next ones.
        let vnode = vnode_of(hash, self.options.vnode_bits);
        match self.find_near_home(vnode, hash, key) {
            Some((slot, entry, head)) => Some(self.hit(vnode, slot, entry, &head, 0, None)),
            None => self.get_by_any_way(now, hash, key),
        }
    }

    /// [`Self::get`] for items of every kind, and where another entry has the same mark.
    #[inline(never)]
    fn get_by_any_way(&mut self, now: Instant, hash: u64, key: &[u8]) -> Option<Hit<'_>> {
        let Some((slot, entry, head)) = self.find(hash, key) else {
            self.counters.misses += 1;
            return None;
        };
        let (mut client_flags, mut expires) = (0, None);
        if !head.is_plain() {
            (client_flags, expires) = self.read_fields(now, hash, slot, entry.location())?;
        }
        let vnode = vnode_of(hash, self.options.vnode_bits);
        Some(self.hit(vnode, slot, entry, &head, client_flags, expires))
    }

    /// Counts a hit, for the policy too, and gives it.
    #[inline(always)]
    fn hit(
        &mut self,
        vnode: usize,
        slot: Slot,
        entry: Entry,
        head: &Head,
        client_flags: u32,
        expires: Option<Instant>,
    ) -> Hit<'_> {
        // First, and so before anything is written: most versions don't depend on what the item says.
        let version = self.versions.of_vnode(vnode, head.sequence);
        self.counters.hits += 1;
        self.index.count_hit(&mut self.memory, slot, self.hits_max);
        Hit { version, client_flags, expires, value: Value::new(&self.memory, entry.location(), head) }
    }

    /// Client flags and expiry of an item that is read; `None`, and the item is gone, if it has ended.
    fn read_fields(&mut self, now: Instant, hash: u64, slot: Slot, location: usize) -> Option<(u32, Option<Instant>)> {
        let mut header = self.header_at(location);
        if header.is_expired(now.as_millis()) {
            self.drop_expired(hash, slot, location, &header);
            self.counters.misses += 1;
            return None;
        }
        if header.idle_ms != 0 {
            // Only the expiry's own bytes change: a pin on the value notices nothing.
            let expires_ms = now.as_millis().saturating_add(header.idle_ms).min(item::MILLIS_MAX);
            header.expires_ms = Some(expires_ms);
            let shared = self.shared_at(location);
            header.write(self.memory.arena.bytes_mut(location, header.bytes()), &shared);
            self.note_expiry(segment_of(location), expires_ms);
        }
        Some((header.client_flags, header.expires_ms.map(Instant::from_millis)))
    }

    /// Writes an item. A value of more than a few KiB is better received through [`Self::reserve`], which spreads the
    /// work over the time it takes to arrive.
    pub fn set(&mut self, now: Instant, hash: u64, key: &[u8], write: Write<'_>) -> SetOutcome {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || write.value.len() > self.options.value_bytes_max {
            return SetOutcome::TooLarge;
        }
        if write.value.len() > INLINE_BYTES_MAX {
            return self.set_large(now, hash, key, write);
        }
        // Fetched while room is made.
        self.prefetch_bucket(hash);
        self.policy.prefetch(&self.memory, hash);
        self.make_room(now, HEADER_BYTES_MAX + key.len() + write.value.len());
        let current = self.find_live(now, hash, key);
        let current_version = current.map(|found| self.versions.of(hash, found.header.sequence));
        if !write.condition.holds(current_version) {
            return SetOutcome::ConditionFailed(current_version);
        }
        let header =
            Header { value_bytes: write.value.len(), ..self.header_for(now, write.client_flags, write.expiry) };
        let parts = [Part::Bytes(write.value)];
        let draft = Draft { hash, key, header, parts: &parts, keeps_blocks: false };
        match self.put(now, draft, current) {
            Some(version) => SetOutcome::Stored(version),
            None => SetOutcome::NoSpace,
        }
    }

    /// Removes an item; the version of the delete, or `None` where there was no item.
    pub fn delete(&mut self, now: Instant, hash: u64, key: &[u8]) -> Option<Version> {
        let found = self.find_live(now, hash, key)?;
        self.index.remove(&mut self.memory, hash, found.slot);
        self.retire(found.entry.location(), &found.header);
        Some(self.versions.advance(hash))
    }

    /// Gives an item a new time to live from now on; zero is for ever. An item with idle expiry keeps it, with this
    /// time, unless it is zero. A touch is a write and makes a version; blocks of large values are not copied.
    pub fn touch(&mut self, now: Instant, hash: u64, key: &[u8], ttl: Duration) -> TouchOutcome {
        self.make_room(now, HEADER_BYTES_MAX + key.len() + INLINE_BYTES_MAX);
        let Some(current) = self.find_live(now, hash, key) else {
            return TouchOutcome::Missing;
        };
        let expiry = Expiry { ttl, idle: current.header.idle_ms != 0 };
        let fresh = self.header_for(now, current.header.client_flags, expiry);
        let header = Header { value_bytes: current.header.value_bytes, ..fresh };
        let draft = Draft { hash, key, header, parts: &[current.body()], keeps_blocks: true };
        match self.put(now, draft, Some(current)) {
            Some(version) => TouchOutcome::Touched(version),
            None => TouchOutcome::NoSpace,
        }
    }

    /// Adds to a counter: an item whose value is the decimal ASCII of an `i64`. Expiry and client flags stay.
    pub fn increment(&mut self, now: Instant, hash: u64, key: &[u8], increment: Increment) -> IncrementOutcome {
        self.make_room(now, HEADER_BYTES_MAX + key.len() + DECIMAL_BYTES_MAX);
        let current = self.find_live(now, hash, key);
        let (value, header) = match (current, increment.create) {
            (Some(found), _) => {
                let Some(value) = self.counter_value(&found) else {
                    return IncrementOutcome::NotANumber;
                };
                let Some(value) = value.checked_add(increment.delta) else {
                    return IncrementOutcome::Overflow;
                };
                (value, found.header)
            }
            (None, Some((initial, ttl))) => (initial, self.header_for(now, 0, Expiry::after(ttl))),
            (None, None) => return IncrementOutcome::Missing,
        };
        let mut digits = [0; DECIMAL_BYTES_MAX];
        let text = decimal(value, &mut digits);
        let header = Header { value_bytes: text.len(), ..header };
        let draft = Draft { hash, key, header, parts: &[Part::Bytes(text)], keeps_blocks: false };
        match self.put(now, draft, current) {
            Some(version) => IncrementOutcome::Stored { version, value },
            None => IncrementOutcome::NoSpace,
        }
    }

    /// Adds bytes to an item's value. Expiry and client flags stay.
    pub fn extend(&mut self, now: Instant, hash: u64, key: &[u8], bytes: &[u8], end: End) -> ExtendOutcome {
        self.make_room(now, RECORD_BYTES_MAX);
        let Some(current) = self.find_live(now, hash, key) else {
            return ExtendOutcome::Missing;
        };
        let value_bytes = current.header.value_bytes + bytes.len();
        if value_bytes > self.options.value_bytes_max {
            return ExtendOutcome::TooLarge;
        }
        if value_bytes > INLINE_BYTES_MAX {
            return self.extend_large(now, hash, key, bytes, end, value_bytes);
        }
        let header = Header { value_bytes, ..current.header };
        let parts = match end {
            End::Front => [Part::Bytes(bytes), current.body()],
            End::Back => [current.body(), Part::Bytes(bytes)],
        };
        let draft = Draft { hash, key, header, parts: &parts, keeps_blocks: false };
        match self.put(now, draft, Some(current)) {
            Some(version) => ExtendOutcome::Stored(version),
            None => ExtendOutcome::NoSpace,
        }
    }

    /// Removes every item, at once for every reader, in constant time; the memory comes back through [`Self::work`]. A
    /// flush is one sequenced write in each vnode.
    pub fn flush(&mut self, _now: Instant) {
        self.close_all();
        (self.reclaim_walk, self.expiry_walk, self.hand) = (None, None, NO_SEGMENT);
        self.flush_epoch = self.flush_epoch.wrapping_add(1);
        self.index.flush();
        self.versions.flush();
        self.blocks.flush(&mut self.memory);
        for chain in &mut self.chains {
            self.memory.segments.splice(&mut self.flushed, chain);
        }
        self.items = 0;
        self.live_bytes = [0; QUEUES];
        self.dead_bytes = 0;
    }

    /// Background work: at most `steps` steps of a microsecond or two each of expiry, reclaiming ahead of need,
    /// compaction and index upkeep. Call it once a turn, with more steps when the core has nothing else to do, and
    /// several times a second on an idle core: expiry has no other clock.
    pub fn work(&mut self, now: Instant, steps: usize) -> Progress {
        self.work_steps(now, steps)
    }

    /// The value that `pin` keeps in place, for as long as it is pinned.
    pub fn pinned_value(&self, pin: &Pin) -> Value<'_> {
        Value::new(&self.memory, pin.location, &Head::read(self.memory.arena.head(pin.location)))
    }

    /// Ends a pin: the value's memory may change again.
    pub fn unpin(&mut self, pin: Pin) {
        // One at a time: the item, which names them, stays where it is until its own pin goes.
        let mut unpinned = 0;
        while let Some(block) = self.pinned_value(&pin).block(unpinned) {
            unpinned += 1;
            let segment = blocks::segment_of_block(block);
            if self.memory.segments.unpin(segment) {
                self.blocks.free_if_empty(&mut self.memory, segment);
            }
        }
        let segment = segment_of(pin.location);
        if self.memory.segments.unpin(segment) {
            self.free_if_dead(segment);
        }
    }

    /// Items that are stored; expired ones that were not yet found are among them.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Bytes of memory in use: whole segments, for items, index and the policy's ghosts.
    pub fn used_bytes(&self) -> usize {
        (self.memory.segments.count() - self.memory.segments.free_count()) * SEGMENT_BYTES
    }

    /// Lists the store's counters.
    pub fn samples(&self, out: &mut Vec<Sample>) {
        counters::list(self, out);
    }

    /// Bytes of stored items with their headers.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.iter().sum()
    }

    /// Stores an item in place of `current`, if there is one. `None`: no room, and nothing was changed. Reclaims nothing
    /// itself, so what the caller found stays where it is: see [`Self::make_room`].
    fn put(&mut self, now: Instant, draft: Draft<'_>, current: Option<Found>) -> Option<Version> {
        let Draft { hash, key, .. } = draft;
        let version = self.versions.next(hash);
        let mut header = Header { sequence: version.sequence(), key_bytes: key.len(), ..draft.header };
        if let Some(found) = current.filter(|found| self.can_overwrite(found, &mut header)) {
            let location = found.entry.location();
            let shared = self.shared_at(location);
            let header_bytes = header.write(self.memory.arena.bytes_mut(location, header.bytes()), &shared);
            let body_at = location + header_bytes + key.len();
            if draft.parts.first().is_none_or(|part| !matches!(part, Part::Kept { at, .. } if *at == body_at)) {
                self.write_parts(body_at, draft.parts);
            }
            let bits = (found.entry.policy_bits() + 1).min(self.hits_max);
            self.index.replace(&mut self.memory, found.slot, found.entry.with_policy_bits(bits));
            if let Some(expires_ms) = header.expires_ms {
                self.note_expiry(segment_of(location), expires_ms);
            }
            return Some(self.versions.advance(hash));
        }
        let (queue, bits) = match current {
            Some(found) => {
                let queue = self.memory.segments.get(segment_of(found.entry.location())).queue;
                (queue, (found.entry.policy_bits() + 1).min(self.hits_max))
            }
            None => {
                let occupancy = self.occupancy();
                self.policy.admit(&mut self.memory, Item { hash, bytes: header.total_bytes() }, &occupancy)
            }
        };
        let kind = OpenKind::new(queue, now.as_millis(), header.expires_ms);
        let location = self.place(kind, &mut header, KEPT_FROM_WRITES, NO_SEGMENT)?;
        self.write_item(location, &header, key, draft.parts);
        match current {
            Some(found) => {
                let entry = Entry::new(tag_of(hash), bits, location);
                self.index.replace(&mut self.memory, found.slot, entry);
                match draft.keeps_blocks {
                    true => self.leave(found.entry.location(), &found.header),
                    false => self.retire(found.entry.location(), &found.header),
                }
            }
            None => {
                if self.index.insert(&mut self.memory, hash, bits, location).is_err() {
                    self.leave(location, &header);
                    return None;
                }
            }
        }
        Some(self.versions.advance(hash))
    }

    /// Whether the new item fits exactly over the old one, leaving to its segment what that says, and nobody reads it.
    fn can_overwrite(&self, current: &Found, new: &mut Header) -> bool {
        let old = &current.header;
        let id = segment_of(current.entry.location());
        new.share(&self.memory.segments.get(id).shared);
        old.shape() == new.shape()
            && old.value_bytes == new.value_bytes
            && !new.is_large()
            && !self.memory.segments.is_pinned(id)
    }

    /// The item with this key, if there is one that has not ended; one that has is removed.
    fn find_live(&mut self, now: Instant, hash: u64, key: &[u8]) -> Option<Found> {
        let (slot, entry, _) = self.find(hash, key)?;
        let header = self.header_at(entry.location());
        if header.is_expired(now.as_millis()) {
            self.drop_expired(hash, slot, entry.location(), &header);
            return None;
        }
        Some(Found { slot, entry, header })
    }

    /// The index entry of this key, and the head of its item.
    #[inline(always)]
    fn find(&self, hash: u64, key: &[u8]) -> Option<(Slot, Entry, Head)> {
        let arena = &self.memory.arena;
        self.index.find(&self.memory, hash, |entry| {
            let bytes = arena.head(entry.location());
            let head = Head::read(bytes);
            self.has_key(entry, bytes, &head, key).then_some(head)
        })
    }

    /// What [`Self::find`] finds, where it is plain and the first entry with its mark; `None` says nothing.
    #[inline(always)]
    fn find_near_home(&self, vnode: usize, hash: u64, key: &[u8]) -> Option<(Slot, Entry, Head)> {
        let near = self.index.near(vnode, hash)?;
        let (slot, entry) = self.index.first_near(&self.memory, hash, near)?;
        // A third of the items of 64 bytes begin their value in their second line: it need not wait for the first one.
        self.memory.arena.prefetch(entry.location() + LINE_BYTES);
        let bytes = self.memory.arena.head(entry.location());
        let head = Head::read_plain(bytes)?;
        self.has_key(entry, bytes, &head, key).then_some((slot, entry, head))
    }

    #[inline(always)]
    fn has_key(&self, entry: Entry, bytes: &[u8; HEAD_BYTES_MAX], head: &Head, key: &[u8]) -> bool {
        head.key_bytes == key.len()
            && match key.len() {
                SHORT_KEY_BYTES_MIN..=SHORT_KEY_BYTES_MAX => is_short_key_at(bytes, head.key_at(), key),
                _ => self.memory.arena.bytes(entry.location() + head.key_at(), key.len()) == key,
            }
    }

    #[cold]
    fn drop_expired(&mut self, hash: u64, slot: Slot, location: usize, header: &Header) {
        self.note_departure(hash, location, header, DepartureCause::Expired);
        self.index.remove(&mut self.memory, hash, slot);
        self.retire(location, header);
        self.counters.expirations += 1;
    }

    #[inline(always)]
    fn header_at(&self, location: usize) -> Header {
        Header::read(self.memory.arena.head(location), &self.memory.segments.get(segment_of(location)).shared)
    }

    fn header_for(&self, now: Instant, client_flags: u32, expiry: Expiry) -> Header {
        let ttl_ms = expiry.ttl.as_millis();
        Header {
            client_flags,
            expires_ms: (ttl_ms > 0).then(|| (now + expiry.ttl).as_millis().min(item::MILLIS_MAX)),
            idle_ms: if expiry.idle { ttl_ms.min(item::MILLIS_MAX) } else { 0 },
            ..Header::default()
        }
    }

    fn counter_value(&self, found: &Found) -> Option<i64> {
        let Part::Kept { at, length } = found.body() else { return None };
        if found.header.is_large() || length > DECIMAL_BYTES_MAX {
            return None;
        }
        std::str::from_utf8(self.memory.arena.bytes(at, length)).ok()?.parse().ok()
    }
}

/// A counter's value as it is stored, written into `digits`.
fn decimal(value: i64, digits: &mut [u8; DECIMAL_BYTES_MAX]) -> &[u8] {
    let mut rest = &mut digits[..];
    write!(rest, "{value}").expect("an i64 has no more digits, with its sign");
    let length = DECIMAL_BYTES_MAX - rest.len();
    &digits[..length]
}
