//! Departures: what has left a store by itself, one by one, for whoever asked to be told.
//!
//! No server asks, and pays one comparison where an item leaves. The simulation does: there, a miss must have a cause.

use quoit_wire::Version;

use super::Store;
use super::item::Header;

/// Why an item left that nobody has deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepartureCause {
    /// It made room for others.
    Evicted,
    /// Its time to live was over.
    Expired,
}

/// An item that has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The item's key.
    pub key: Box<[u8]>,
    /// The item's version.
    pub version: Version,
    /// Why it left.
    pub cause: DepartureCause,
}

impl Store {
    /// From now on what leaves is kept until it is taken.
    pub fn log_departures(&mut self) {
        self.departures.get_or_insert_default();
    }

    /// Takes what has left since the last time; nothing where [`Self::log_departures`] was never called.
    pub fn take_departures(&mut self) -> Vec<Departure> {
        self.departures.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The item at `location` is about to leave.
    #[inline]
    pub(super) fn note_departure(&mut self, hash: u64, location: usize, header: &Header, cause: DepartureCause) {
        if self.departures.is_some() {
            self.keep_departure(hash, location, header, cause);
        }
    }

    #[cold]
    fn keep_departure(&mut self, hash: u64, location: usize, header: &Header, cause: DepartureCause) {
        let key = self.memory.arena.bytes(location + header.bytes(), header.key_bytes).into();
        let version = self.versions.of(hash, header.sequence);
        self.departures.get_or_insert_default().push(Departure { key, version, cause });
    }
}
