//! Looks ahead in a frame of appends: what its records will look at is asked for while those before them are applied.
//!
//! A copy would wait for memory at every record: its keys are spread over all vnodes. So it does what a core does with
//! requests (`Shard::prefetch`): for a window of records at a time it fetches what all of them need, step by step.

use quoit_wire::peer::{Appends, Record};

use crate::store::Store;

/// Records whose memory is fetched together: enough to hide its latency, few enough for the first-level cache.
const WINDOW: usize = 32;

/// The hashes of a frame's keys, known from where their memory is asked for.
pub(super) struct Ahead<I> {
    records: I,
    /// Of the records from number `first` on; zero for one that has no key.
    hashes: [u64; WINDOW],
    first: usize,
    count: usize,
}

/// Looks ahead in `appends`.
pub(super) fn ahead<'a>(appends: &Appends<'a>) -> Ahead<impl Iterator<Item = Record<'a>> + use<'a>> {
    let records = appends.iter().flat_map(|append| append.records.records());
    Ahead { records, hashes: [0; WINDOW], first: 0, count: 0 }
}

impl<'a, I: Iterator<Item = Record<'a>>> Ahead<I> {
    /// The hash of the key in record `number` of the frame, which may not be one before another that was asked for.
    pub(super) fn hash(&mut self, store: &Store, number: usize) -> u64 {
        debug_assert!(number >= self.first, "looking back");
        if number >= self.first + self.count {
            let passed = number - (self.first + self.count);
            self.first = number;
            self.count = 0;
            for (place, record) in self.hashes.iter_mut().zip(self.records.by_ref().skip(passed)) {
                *place = record.change.key().map_or(0, |key| store.hash(key));
                self.count += 1;
            }
            store.prefetch(self.hashes[..self.count].iter().copied());
        }
        self.hashes[number - self.first]
    }
}
