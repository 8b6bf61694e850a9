//! Loading: items of a state become items of a store, oldest first.
//!
//! Each is written where its expiry and its policy's queue put it now, in an arena that may be smaller, beside items of
//! another state. What finds no room evicts older ones as a set would, and so what is left is what the policy would have
//! kept.

use super::record::{Record, WHOLE_BYTES_MAX};
use crate::store::append::{KEPT_FROM_WRITES, OpenKind, Part};
use crate::store::hit::Reservation;
use crate::store::item::{HEADER_BYTES_MAX, Header, MILLIS_MAX, RECORD_BYTES_MAX};
use crate::store::policy::{MAIN, QUEUES};
use crate::store::segments::NO_SEGMENT;
use crate::store::{PolicyKind, Store};
use crate::time::{Instant, WallClock};

/// One state, or one part of one, on its way into a store.
#[derive(Debug)]
pub struct Loader {
    clock: WallClock,
    /// What the policy knew of the items means the same now as when they were saved.
    is_same_policy: bool,
    arriving: Option<Arriving>,
    report: LoadReport,
}

/// What became of a state's items. Those that later ones evicted are counted as loaded, and as evictions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Items that were stored.
    pub items: u64,
    /// Items that had ended meanwhile.
    pub expired: u64,
    /// Items that found no room: of a policy that evicts nothing, or larger than values may be now.
    pub refused: u64,
}

/// An item whose value is still coming.
#[derive(Debug)]
struct Arriving {
    reservation: Reservation,
    header: Header,
    queue: u8,
    policy_bits: u8,
}

impl Store {
    /// Begins to load items that were saved under `policy`; `clock` is now.
    pub fn begin_load(&self, clock: WallClock, policy: PolicyKind) -> Loader {
        let is_same_policy = policy == self.options.policy;
        Loader { clock, is_same_policy, arriving: None, report: LoadReport::default() }
    }

    /// Stores an item of a state. When its value is cut, [`Self::load_more`] brings the rest.
    pub fn load_item(&mut self, loader: &mut Loader, hash: u64, record: &Record<'_>) {
        let now = loader.clock.now;
        let expires = record.expires_wall_ms.map(|wall_ms| loader.clock.instant_at(wall_ms));
        if expires.is_some_and(|expires| expires <= now) {
            loader.report.expired += 1;
            return;
        }
        let header = Header {
            key_bytes: record.key.len(),
            value_bytes: record.value_bytes,
            sequence: record.sequence,
            client_flags: record.client_flags,
            expires_ms: expires.map(|expires| expires.as_millis().min(MILLIS_MAX)),
            idle_ms: record.idle_ms.min(MILLIS_MAX),
            ..Header::default()
        };
        // Bits of another policy say little more than that the item was hit.
        let (queue, policy_bits) = match loader.is_same_policy && usize::from(record.queue) < QUEUES {
            true => (record.queue, record.policy_bits),
            false => (MAIN, record.policy_bits.min(1)),
        };
        let is_taken = if record.value_bytes > self.options.value_bytes_max {
            false
        } else if record.value_bytes <= WHOLE_BYTES_MAX {
            self.make_room(now, HEADER_BYTES_MAX + record.key.len() + record.value.len());
            self.enter_loaded(now, hash, record.key, &header, (queue, policy_bits), &[Part::Bytes(record.value)])
        } else {
            match self.reserve(now, hash, record.key, record.value_bytes) {
                Ok(reservation) => {
                    loader.arriving = Some(Arriving { reservation, header, queue, policy_bits });
                    self.load_more(loader, record.value);
                    return;
                }
                Err(_) => false,
            }
        };
        self.count_loaded(loader, hash, is_taken);
    }

    /// Brings more of the value of the last item.
    pub fn load_more(&mut self, loader: &mut Loader, bytes: &[u8]) {
        // None: the item was not taken, and the rest of it is passed by.
        let Some(mut arriving) = loader.arriving.take() else { return };
        self.fill(&mut arriving.reservation, bytes);
        if arriving.reservation.missing_bytes() > 0 {
            loader.arriving = Some(arriving);
            return;
        }
        let Arriving { mut reservation, header, queue, policy_bits } = arriving;
        let hash = reservation.hash;
        self.make_room(loader.clock.now, RECORD_BYTES_MAX);
        if reservation.is_lost {
            self.abandon(reservation);
            self.count_loaded(loader, hash, false);
            return;
        }
        let (tail, list) = reservation.record_parts(&header);
        let key = std::mem::take(&mut reservation.key);
        let parts = [tail, Part::Bytes(&list)];
        let is_taken = self.enter_loaded(loader.clock.now, hash, &key, &header, (queue, policy_bits), &parts);
        self.hand_over(reservation, if is_taken { header.blocks() } else { 0 });
        self.count_loaded(loader, hash, is_taken);
    }

    /// Ends a load; tells what became of the items.
    pub fn end_load(&mut self, mut loader: Loader) -> LoadReport {
        if let Some(arriving) = loader.arriving.take() {
            self.abandon(arriving.reservation);
        }
        loader.report
    }

    /// Writes an item as it was; `false` when there is no room, or the key is there already.
    fn enter_loaded(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        header: &Header,
        (queue, policy_bits): (u8, u8),
        parts: &[Part<'_>],
    ) -> bool {
        if self.find(hash, key).is_some() {
            return false;
        }
        let kind = OpenKind::new(queue, now.as_millis(), header.expires_ms);
        let mut header = *header;
        let Some(location) = self.place(kind, &mut header, KEPT_FROM_WRITES, NO_SEGMENT) else {
            return false;
        };
        self.write_item(location, &header, key, parts);
        if self.index.insert(&mut self.memory, hash, policy_bits, location).is_err() {
            self.leave(location, &header);
            return false;
        }
        true
    }

    fn count_loaded(&mut self, loader: &mut Loader, _hash: u64, is_taken: bool) {
        if is_taken {
            loader.report.items += 1;
        } else {
            loader.report.refused += 1;
            #[cfg(test)]
            self.counters.evicted_hashes.push(_hash);
        }
    }
}
