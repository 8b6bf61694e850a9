//! Saving: a walk over everything that lives, queue by queue, from its old end to its young end.

use quoit_wire::topology::key_hash;

use super::chunk::ChunkWriter;
use super::record::{Record, WHOLE_BYTES_MAX};
use crate::store::item::{Head, Header};
use crate::store::policy::QUEUES;
use crate::store::segments::{NO_SEGMENT, SegmentId, segment_start};
use crate::store::{Store, Value};
use crate::time::{Instant, WallClock};

/// Items of one batch: their index lines are fetched together.
const BATCH_ITEMS: usize = 32;

/// Where a save stands. The store must not change until it is through.
#[derive(Debug)]
pub struct Saver {
    clock: WallClock,
    queue: usize,
    segment: SegmentId,
    /// The next item, as an offset in the segment.
    at: usize,
    /// A value of which only so many bytes are written, and where its item lies.
    cut: Option<(usize, usize)>,
    items: u64,
}

/// An item that a batch looks at.
#[derive(Clone, Copy, Default)]
struct Candidate {
    location: usize,
    hash: u64,
    header: Header,
}

impl Saver {
    /// Items written so far.
    pub fn items(&self) -> u64 {
        self.items
    }
}

impl Store {
    /// Begins to save what lives at `clock`. Call [`Self::save`] until it leaves a chunk empty.
    pub fn begin_save(&self, clock: WallClock) -> Saver {
        Saver { clock, queue: 0, segment: self.chains[0].head, at: 0, cut: None, items: 0 }
    }

    /// Fills `chunk` with the next items; it stays empty when there are no more.
    pub fn save(&self, saver: &mut Saver, chunk: &mut ChunkWriter<'_>) {
        if let Some((location, written)) = saver.cut.take() {
            self.save_value(saver, location, written, chunk);
        }
        while saver.cut.is_none() {
            if saver.segment == NO_SEGMENT {
                if saver.queue + 1 == QUEUES {
                    return;
                }
                saver.queue += 1;
                (saver.segment, saver.at) = (self.chains[saver.queue].head, 0);
            } else if saver.at >= self.memory.segments.get(saver.segment).written as usize {
                (saver.segment, saver.at) = (self.memory.segments.get(saver.segment).next, 0);
            } else if !self.save_batch(saver, chunk) {
                return;
            }
        }
    }

    /// Saves what lives among the next items of a segment; `false` when the chunk is full.
    fn save_batch(&self, saver: &mut Saver, chunk: &mut ChunkWriter<'_>) -> bool {
        let start = segment_start(saver.segment);
        let end = start + self.memory.segments.get(saver.segment).written as usize;
        let mut batch = [Candidate::default(); BATCH_ITEMS];
        let mut candidates = 0;
        let mut location = start + saver.at;
        while location < end && candidates < BATCH_ITEMS {
            let header = self.header_at(location);
            let hash = key_hash(self.options.hash_seed, self.key_at(location, &header));
            self.index.prefetch(&self.memory, hash);
            batch[candidates] = Candidate { location, hash, header };
            candidates += 1;
            location += header.record_bytes();
        }
        for Candidate { location, hash, header } in &batch[..candidates] {
            let after = location + header.record_bytes() - start;
            let found = self.index.find_location(&self.memory, *hash, *location);
            // Items of a vnode that has left are found until they are dropped.
            let stays = !header.is_expired(saver.clock.now.as_millis()) && self.owns(*hash);
            let Some((_, entry)) = found.filter(|_| stays) else {
                saver.at = after;
                continue;
            };
            let record = Record {
                key: self.key_at(*location, header),
                value: &[],
                value_bytes: header.value_bytes,
                sequence: header.sequence,
                policy_bits: entry.policy_bits(),
                queue: saver.queue as u8,
                expires_wall_ms: header.expires_ms.map(|ms| saver.clock.wall_ms_at(Instant::from_millis(ms))),
                idle_ms: header.idle_ms,
                client_flags: header.client_flags,
            };
            if chunk.room() < record.bytes_min() {
                return false;
            }
            record.put_front(|part| chunk.put(part));
            saver.at = after;
            saver.items += 1;
            self.save_value(saver, *location, 0, chunk);
            if saver.cut.is_some() {
                return false;
            }
        }
        true
    }

    /// Saves an item's value from byte `from` on, as far as there is room.
    fn save_value(&self, saver: &mut Saver, location: usize, from: usize, chunk: &mut ChunkWriter<'_>) {
        let value = Value::new(&self.memory, location, &Head::read(self.memory.arena.head(location)));
        let mut passed = 0;
        for slice in value.slices() {
            let begin = from.saturating_sub(passed).min(slice.len());
            let length = (slice.len() - begin).min(chunk.room());
            chunk.put(&slice[begin..begin + length]);
            passed += begin + length;
            if begin + length < slice.len() {
                debug_assert!(value.len() > WHOLE_BYTES_MAX, "only large values are cut");
                saver.cut = Some((location, passed));
                return;
            }
        }
    }

    fn key_at(&self, location: usize, header: &Header) -> &[u8] {
        self.memory.arena.bytes(location + header.bytes(), header.key_bytes)
    }
}
