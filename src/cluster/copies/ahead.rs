//! Looks ahead in a frame of appends: what its records will look at is asked for while those before them are applied.
//!
//! A copy would wait for memory at every record: its keys are spread over all vnodes. So it does what a core does with
//! requests (`Shard::prefetch`): for a window of records at a time it fetches what all of them need, step by step. What it
//! has read of them for that is kept, so that no record is read twice.

use quoit_wire::peer::{Appends, Record};

use crate::store::Store;

/// Records whose memory is fetched together: enough to hide its latency, few enough for the first-level cache.
const WINDOW: usize = 32;

/// A record of a frame, and what is known of it.
#[derive(Clone, Copy)]
pub(super) struct Coming<'a> {
    pub(super) record: Record<'a>,
    /// As it travels.
    pub(super) bytes: &'a [u8],
    /// Of its key; zero where there is none.
    pub(super) hash: u64,
}

/// A frame's records, from where their memory is asked for.
pub(super) struct Ahead<'a, I> {
    records: I,
    window: Vec<Coming<'a>>,
    /// Which record of the frame is the window's first.
    first: usize,
}

/// Looks ahead in `appends`.
pub(super) fn ahead<'a>(appends: &Appends<'a>) -> Ahead<'a, impl Iterator<Item = (Record<'a>, &'a [u8])> + use<'a>> {
    let records = appends.iter().flat_map(|append| append.records.records_with_bytes());
    Ahead { records, window: Vec::with_capacity(WINDOW), first: 0 }
}

impl<'a, I: Iterator<Item = (Record<'a>, &'a [u8])>> Ahead<'a, I> {
    /// Record `number` of the frame, which has so many, and which may not be one before another that was asked for.
    pub(super) fn record(&mut self, store: &Store, number: usize) -> Option<Coming<'a>> {
        debug_assert!(number >= self.first, "looking back");
        if number >= self.first + self.window.len() {
            let passed = number - (self.first + self.window.len());
            self.first = number;
            self.window.clear();
            let records = self.records.by_ref().skip(passed).take(WINDOW);
            self.window.extend(records.map(|(record, bytes)| {
                let hash = record.change.key().map_or(0, |key| store.hash(key));
                Coming { record, bytes, hash }
            }));
            store.prefetch(self.window.iter().map(|coming| coming.hash));
        }
        self.window.get(number - self.first).copied()
    }
}
