//! What replication needs of the store: items as they are, changes under a number that somebody else chose, and what left.
//!
//! A vnode that others follow ([`VnodeRole::Followed`]) numbers its evictions like writes and reports them; one that
//! follows ([`VnodeRole::Following`]) evicts nothing by itself: where it has no memory left, it says so. Expiry is
//! nobody's decision: each copy has the item's end and drops it by its own clock, and a record that gives an item a new
//! end carries the whole item, so a copy that dropped it a moment early gets it back.

use quoit_wire::Version;
use quoit_wire::peer::{Change, Put};
use quoit_wire::topology::vnode_of;

use super::index::{CURSOR_END, cursor_of};
use super::versions::TERMS_MAX;
use super::{Expiry, Found, Head, Header, Hit, SetOutcome, Store, TermStart, Value, VnodeRole, Write};
use crate::time::{Duration, Instant};

/// Pages that one step of a walk looks at, where they are empty.
const WALK_PAGES_MAX: usize = 16;

/// An item as another copy needs it.
pub struct StoredItem<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The number of the write that made it.
    pub sequence: u64,
    /// The client's flags.
    pub client_flags: u32,
    /// Milliseconds to live from now on; zero is for ever.
    pub ttl_ms: u64,
    /// The time to live that every hit starts anew; zero: hits change nothing.
    pub idle_ms: u64,
    /// The value.
    pub value: Value<'a>,
}

/// An item that was evicted from a vnode that others follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The vnode.
    pub vnode: usize,
    /// The number that the eviction took.
    pub sequence: u64,
    /// The item's key.
    pub key: Box<[u8]>,
    /// The item's version.
    pub version: Version,
}

/// How a change that came from elsewhere ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in effect.
    Yes,
    /// There is no memory for it. Nothing was changed.
    NoSpace,
    /// Its key belongs to another vnode. Nothing was changed.
    Foreign,
}

impl Store {
    /// What this store's copy of `vnode`, which it owns, is to the cluster from now on.
    pub fn set_vnode_role(&mut self, vnode: usize, role: VnodeRole) {
        self.versions.set_role(vnode, role);
    }

    /// Where each term of `vnode` began, oldest first, as far as that is remembered; empty when it is not owned.
    pub fn terms(&self, vnode: usize) -> Vec<TermStart> {
        self.versions.terms(vnode)
    }

    /// The next write of `vnode`, which is owned, is the first under `term`. Sequences go on.
    pub fn begin_term(&mut self, vnode: usize, term: u32) {
        let first_sequence = self.versions.sequence(vnode) + 1;
        let mut terms = self.versions.terms(vnode);
        // A term under which nothing was written need not be remembered.
        terms.retain(|start| start.first_sequence < first_sequence);
        terms.push(TermStart { term, first_sequence });
        self.versions.set_terms(vnode, &terms);
    }

    /// This copy of `vnode`, which is owned, takes over the history of the one that it follows.
    pub fn adopt_terms(&mut self, vnode: usize, terms: &[TermStart]) {
        debug_assert!(terms.len() <= TERMS_MAX);
        self.versions.set_terms(vnode, terms);
    }

    /// The version of the last write in `vnode`; of an empty term when it is not remembered, or there was none.
    pub fn position(&self, vnode: usize) -> Version {
        let sequence = self.versions.sequence(vnode);
        Version::new(self.versions.term_of(vnode, sequence), sequence)
    }

    /// The number of the last write in `vnode`. Cheaper than [`Self::position`].
    #[inline]
    pub fn sequence(&self, vnode: usize) -> u64 {
        self.versions.sequence(vnode)
    }

    /// The term under which write `sequence` of `vnode` was made; zero where that is not remembered.
    pub fn term_of(&self, vnode: usize, sequence: u64) -> u32 {
        self.versions.term_of(vnode, sequence)
    }

    /// The next write in `vnode` is to have the number after `sequence`: a copy begins in the middle of a history.
    pub fn set_position(&mut self, vnode: usize, sequence: u64) {
        self.versions.set_sequence(vnode, sequence);
    }

    /// Takes a number of `vnode` for something that is no write to an item; the number.
    pub fn take_sequence(&mut self, vnode: usize) -> u64 {
        let sequence = self.versions.sequence(vnode) + 1;
        self.versions.set_sequence(vnode, sequence);
        sequence
    }

    /// Looks at an item without counting a hit, for the policy or for idle expiry.
    pub fn peek(&self, now: Instant, hash: u64, key: &[u8]) -> Option<StoredItem<'_>> {
        let (_, entry, _) = self.find(hash, key)?;
        self.stored_item(now, entry.location())
    }

    /// Reads an item as [`Self::get`] does, and changes nothing: neither is it counted as a hit, nor does it live longer by
    /// it, nor is it removed if it has ended.
    pub fn read_only(&self, now: Instant, hash: u64, key: &[u8]) -> Option<Hit<'_>> {
        let item = self.peek(now, hash, key)?;
        let expires = (item.ttl_ms > 0).then(|| now + Duration::from_millis(item.ttl_ms));
        let version = self.versions.of(hash, item.sequence);
        Some(Hit { version, client_flags: item.client_flags, expires, value: item.value })
    }

    /// Carries out write number `sequence` of `vnode`, as another copy has made it. Afterwards that is the vnode's
    /// position, unless it was beyond it already. Cost: that of the write; a clear's is that of [`Self::clear_vnode`].
    pub fn apply(&mut self, now: Instant, vnode: usize, sequence: u64, change: &Change<'_>) -> Applied {
        let hash = change.key().map_or(0, |key| self.hash(key));
        self.apply_hashed(now, vnode, hash, sequence, change)
    }

    /// The same with the hash of the change's key, which the caller knows; zero where there is none.
    pub fn apply_hashed(
        &mut self,
        now: Instant,
        vnode: usize,
        hash: u64,
        sequence: u64,
        change: &Change<'_>,
    ) -> Applied {
        let is_foreign = vnode_of(hash, self.options.vnode_bits) != vnode;
        if is_foreign && change.key().is_some() {
            return Applied::Foreign;
        }
        let before = self.versions.sequence(vnode);
        // The store gives each write the number after its vnode's last one.
        self.versions.set_sequence(vnode, sequence.saturating_sub(1));
        let has_room = match *change {
            Change::Put(put) => self.apply_put(now, hash, &put),
            Change::Delete { key } | Change::Evict { key } => {
                self.delete(now, hash, key);
                true
            }
            Change::Refresh { key, ttl_ms } => {
                self.refresh(now, hash, key, ttl_ms);
                true
            }
            Change::Clear => {
                self.clear_vnode(vnode);
                true
            }
        };
        self.versions.set_sequence(vnode, if has_room { before.max(sequence) } else { before });
        if has_room { Applied::Yes } else { Applied::NoSpace }
    }

    /// Visits the items of `vnode` from `cursor` on until their bytes pass `bytes_max`; returns the cursor behind them,
    /// [`Self::CURSOR_END`] at the end. Begin at zero. A walk meets every item that is there from its beginning to its
    /// end, whatever is written in between its steps. Cost: the items visited, and the page of the index they lie in.
    pub fn walk_vnode(
        &self,
        now: Instant,
        vnode: usize,
        mut cursor: u32,
        bytes_max: usize,
        mut visit: impl FnMut(StoredItem<'_>),
    ) -> u32 {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for _ in 0..WALK_PAGES_MAX {
            let page_end = self.index.entries_at(&self.memory, vnode, cursor, &mut entries);
            for (number, entry) in entries.iter().enumerate() {
                let at = cursor_of(entry.tag());
                // Entries with one tag are not told apart by a cursor: they go together.
                let is_first_of_tag = number == 0 || cursor_of(entries[number - 1].tag()) != at;
                if bytes >= bytes_max && is_first_of_tag {
                    return at;
                }
                if let Some(item) = self.stored_item(now, entry.location()) {
                    bytes += item.key.len() + item.value.len();
                    visit(item);
                }
            }
            cursor = page_end;
            if cursor >= CURSOR_END || bytes >= bytes_max {
                break;
            }
        }
        cursor
    }

    /// The cursor of [`Self::walk_vnode`] behind the last item.
    pub const CURSOR_END: u32 = CURSOR_END;

    /// Removes every item of one vnode. Cost: a look at each; 5,000 small ones take about half a millisecond.
    pub fn clear_vnode(&mut self, vnode: usize) {
        (0..).take_while(|page| self.drop_page(vnode, *page)).for_each(drop);
    }

    /// Removes every item of one vnode and owns it no longer. Cost: as [`Self::clear_vnode`].
    pub fn drop_vnode(&mut self, vnode: usize) {
        self.clear_vnode(vnode);
        self.disown_vnode(vnode);
    }

    /// Takes the reports of what was evicted from vnodes that others follow, in the order of their numbers.
    pub fn take_evictions(&mut self) -> Vec<Eviction> {
        std::mem::take(&mut self.evictions)
    }

    /// An item is about to be evicted: where others follow its vnode, that is a write, and they have to learn of it.
    #[cold]
    pub(super) fn report_eviction(&mut self, hash: u64, location: usize, header: &Header) {
        let key = self.memory.arena.bytes(location + header.bytes(), header.key_bytes).into();
        let version = self.versions.of(hash, header.sequence);
        let sequence = self.versions.advance(hash).sequence();
        self.evictions.push(Eviction { vnode: vnode_of(hash, self.options.vnode_bits), sequence, key, version });
    }

    fn apply_put(&mut self, now: Instant, hash: u64, put: &Put<'_>) -> bool {
        let ttl_ms = if put.idle_ms > 0 { put.idle_ms } else { put.ttl_ms };
        let expiry = Expiry { ttl: Duration::from_millis(ttl_ms), idle: put.idle_ms > 0 };
        let write = Write { value: put.value, client_flags: put.client_flags, expiry, ..Write::default() };
        let is_stored = matches!(self.set(now, hash, put.key, write), SetOutcome::Stored(_));
        if is_stored && put.idle_ms > 0 {
            self.refresh(now, hash, put.key, put.ttl_ms);
        }
        is_stored
    }

    /// Gives an item a new end without a new version.
    fn refresh(&mut self, now: Instant, hash: u64, key: &[u8], ttl_ms: u64) {
        let Some(Found { entry, mut header, .. }) = self.find_live(now, hash, key) else { return };
        if header.expires_ms.is_some() && ttl_ms > 0 {
            let location = entry.location();
            let expires_ms = (now + Duration::from_millis(ttl_ms)).as_millis().min(super::item::MILLIS_MAX);
            header.expires_ms = Some(expires_ms);
            let shared = self.shared_at(location);
            header.write(self.memory.arena.bytes_mut(location, header.bytes()), &shared);
            self.note_expiry(super::segments::segment_of(location), expires_ms);
        }
    }

    fn stored_item(&self, now: Instant, location: usize) -> Option<StoredItem<'_>> {
        let header = self.header_at(location);
        let now_ms = now.as_millis();
        if header.is_expired(now_ms) {
            return None;
        }
        Some(StoredItem {
            key: self.memory.arena.bytes(location + header.bytes(), header.key_bytes),
            sequence: header.sequence,
            client_flags: header.client_flags,
            ttl_ms: header.expires_ms.map_or(0, |expires_ms| expires_ms - now_ms),
            idle_ms: header.idle_ms,
            value: Value::new(&self.memory, location, &Head::read(self.memory.arena.head(location))),
        })
    }
}

impl StoredItem<'_> {
    /// The item without its value, as it travels.
    pub fn put(&self) -> Put<'_> {
        Put { key: self.key, value: &[], client_flags: self.client_flags, ttl_ms: self.ttl_ms, idle_ms: self.idle_ms }
    }
}
