//! The backlog: a core's latest records, for copies that have not applied them yet.
//!
//! A primary keeps what some copy lacks; a copy keeps what some other in-sync copy may lack, because it may be the
//! primary that has to bring them up to date (C7). All records of the core lie in one log of bytes, in the order in which
//! they were made, and each vnode knows where its own are: keeping one is writing it down once, sending it a copy of a slice.
//!
//! ```text
//! log     chunk 7 ┌────────┬────────┬─┄   chunk 8 ┌────────┬────────┬─┄          each chunk of 64 KiB, but one of its own for a
//!                 │ record │ record │             │ record │ record │            record that is larger
//!                 └────────┴────────┴─┄           └────────┴────────┴─┄
//! record  ┌───────┬──────────┬───────┬───────────┐
//!         │ vnode │ sequence │ bytes │ as it     │
//!         │ u16   │ u64      │ u32   │ travels   │
//!         └───────┴──────────┴───────┴───────────┘
//! ```
//! One bound on bytes for the whole core: past it the oldest chunk goes, whichever vnodes its records belong to, and who
//! needed them is streamed the vnode anew. A chunk goes by itself when none of its records is needed any more; until then it
//! is there whole, and counts as such.

use std::collections::VecDeque;

/// Bytes of a chunk. Larger: one record that is needed keeps more beside it; smaller: more chunks to be made.
const CHUNK_BYTES: usize = 1 << OFFSET_BITS;
/// A small backlog is cut into at least this many chunks, so that not all of it goes at once.
const CHUNKS_MIN: usize = 8;
/// Empty chunks kept for their memory.
const SPARE_CHUNKS_MAX: usize = 4;
/// Bytes before each record.
const HEAD_BYTES: usize = 14;
/// What a record costs beside its bytes: its place, in a queue that is at least half full.
const PLACE_BYTES: usize = 2 * size_of::<Place>();
/// Places of one vnode for which memory is kept when it has none.
const PLACES_KEPT: usize = 32;
const OFFSET_BITS: u32 = 16;

/// The records of one core.
pub(super) struct Backlog {
    logs: Vec<Log>,
    /// Oldest first; the last one is written to.
    chunks: VecDeque<Chunk>,
    /// The number of the oldest chunk.
    first_chunk: u64,
    spare: Vec<Vec<u8>>,
    records: usize,
    /// Bytes of all chunks, the spare ones among them.
    chunk_bytes: usize,
    chunk_bytes_each: usize,
    bytes_max: usize,
}

/// One vnode's records.
#[derive(Default)]
struct Log {
    /// The number of the oldest record that is kept; that of the next one, when none is.
    first: u64,
    places: VecDeque<Place>,
}

/// Where a record lies: its chunk's number above its offset there.
#[derive(Clone, Copy)]
struct Place(u64);

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Records in it that are needed.
    needed: usize,
}

impl Backlog {
    /// An empty one for `vnodes` vnodes.
    pub(super) fn new(vnodes: usize, bytes_max: usize) -> Self {
        Self {
            logs: (0..vnodes).map(|_| Log { first: 1, ..Log::default() }).collect(),
            chunks: VecDeque::new(),
            first_chunk: 0,
            spare: Vec::new(),
            records: 0,
            chunk_bytes: 0,
            chunk_bytes_each: CHUNK_BYTES.min(bytes_max / CHUNKS_MIN),
            bytes_max,
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.chunk_bytes + self.records * PLACE_BYTES
    }

    /// Bytes that it may take.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Adds the record of write `sequence`, of so many `bytes`, which `put` appends.
    pub(super) fn push(&mut self, vnode: usize, sequence: u64, bytes: usize, put: impl FnOnce(&mut Vec<u8>)) {
        let log = &self.logs[vnode];
        if log.first + log.places.len() as u64 != sequence {
            self.restart(vnode, sequence);
        }
        let has_room =
            self.chunks.back().is_some_and(|chunk| chunk.bytes.capacity() - chunk.bytes.len() >= HEAD_BYTES + bytes);
        if !has_room {
            self.add_chunk(HEAD_BYTES + bytes);
        }
        let number = self.first_chunk + self.chunks.len() as u64 - 1;
        let Some(chunk) = self.chunks.back_mut() else { return };
        self.logs[vnode].places.push_back(Place::new(number, chunk.bytes.len()));
        let mut head = [0; HEAD_BYTES];
        head[..2].copy_from_slice(&(vnode as u16).to_le_bytes());
        head[2..10].copy_from_slice(&sequence.to_le_bytes());
        head[10..].copy_from_slice(&(bytes as u32).to_le_bytes());
        chunk.bytes.extend_from_slice(&head);
        let start = chunk.bytes.len();
        put(&mut chunk.bytes);
        assert!(chunk.bytes.len() - start == bytes, "a record has as many bytes as was said");
        chunk.needed += 1;
        self.records += 1;
        while self.bytes() > self.bytes_max && !self.chunks.is_empty() {
            self.drop_oldest_chunk();
        }
    }

    /// Whether every record of `vnode` from number `from` on is here.
    pub(super) fn covers(&self, vnode: usize, from: u64) -> bool {
        let log = &self.logs[vnode];
        (log.first..=log.first + log.places.len() as u64).contains(&from)
    }

    /// The records of `vnode` from number `from` on.
    pub(super) fn records(&self, vnode: usize, from: u64) -> impl Iterator<Item = &[u8]> + Clone {
        let log = &self.logs[vnode];
        let passed = usize::try_from(from.saturating_sub(log.first)).unwrap_or(usize::MAX).min(log.places.len());
        log.places.range(passed..).map(|place| {
            let chunk = &self.chunks[self.index_of(*place)];
            take_record(&chunk.bytes[place.offset()..]).map_or(&[][..], |(_, _, record, _)| record)
        })
    }

    /// Nobody needs the records of `vnode` up to number `sequence` any more.
    pub(super) fn settle(&mut self, vnode: usize, sequence: u64) {
        while let log = &mut self.logs[vnode]
            && log.first <= sequence
            && let Some(place) = log.places.pop_front()
        {
            log.first += 1;
            self.records -= 1;
            let index = self.index_of(place);
            self.chunks[index].needed -= 1;
            if self.chunks[index].needed == 0 {
                self.empty_chunk(index);
            }
        }
        let log = &mut self.logs[vnode];
        if log.places.is_empty() && log.places.capacity() > PLACES_KEPT {
            log.places = VecDeque::new();
        }
    }

    /// Forgets the records of `vnode`; the next one has number `next`.
    pub(super) fn restart(&mut self, vnode: usize, next: u64) {
        self.settle(vnode, u64::MAX);
        self.logs[vnode].first = next;
    }

    fn index_of(&self, place: Place) -> usize {
        (place.chunk() - self.first_chunk) as usize
    }

    /// Begins a chunk with room for a record of so many bytes.
    fn add_chunk(&mut self, bytes: usize) {
        let spare = self.spare.pop_if(|_| bytes <= self.chunk_bytes_each);
        let bytes = spare.unwrap_or_else(|| {
            let fresh = Vec::with_capacity(bytes.max(self.chunk_bytes_each));
            self.chunk_bytes += fresh.capacity();
            fresh
        });
        self.chunks.push_back(Chunk { bytes, needed: 0 });
    }

    /// None of the records in this chunk is needed any more. The one that is written to begins anew.
    fn empty_chunk(&mut self, index: usize) {
        let bytes = std::mem::take(&mut self.chunks[index].bytes);
        if index + 1 == self.chunks.len() && bytes.capacity() <= self.chunk_bytes_each {
            self.chunks[index].bytes = cleared(bytes);
        } else {
            self.recycle(bytes);
        }
        while self.chunks.len() > 1 && self.chunks[0].needed == 0 {
            self.chunks.pop_front();
            self.first_chunk += 1;
        }
    }

    fn recycle(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < SPARE_CHUNKS_MAX && (1..=self.chunk_bytes_each).contains(&bytes.capacity()) {
            self.spare.push(cleared(bytes));
        } else {
            self.chunk_bytes -= bytes.capacity();
        }
    }

    /// Makes room: what is kept for its memory goes first, then the oldest records, with those before them of their vnodes.
    fn drop_oldest_chunk(&mut self) {
        if let Some(spare) = self.spare.pop() {
            self.chunk_bytes -= spare.capacity();
            return;
        }
        let bytes = std::mem::take(&mut self.chunks[0].bytes);
        self.chunk_bytes -= bytes.capacity();
        let number = self.first_chunk;
        let mut rest = &bytes[..];
        while let Some((vnode, sequence, _, behind)) = take_record(rest) {
            if self.logs[vnode].first <= sequence {
                self.settle(vnode, sequence);
            }
            rest = behind;
        }
        if self.first_chunk == number {
            debug_assert!(self.chunks[0].needed == 0, "all of its records were settled");
            self.chunks.pop_front();
            self.first_chunk += 1;
        }
    }
}

impl Place {
    fn new(chunk: u64, offset: usize) -> Self {
        Self(chunk << OFFSET_BITS | offset as u64)
    }

    fn chunk(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    fn offset(self) -> usize {
        (self.0 & ((1 << OFFSET_BITS) - 1)) as usize
    }
}

/// The record at the front of `bytes`: its vnode and number, its bytes, and what follows.
fn take_record(bytes: &[u8]) -> Option<(usize, u64, &[u8], &[u8])> {
    let (vnode, rest) = bytes.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((usize::from(u16::from_le_bytes(*vnode)), u64::from_le_bytes(*sequence), record, rest))
}

fn cleared(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.clear();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(backlog: &mut Backlog, vnode: usize, number: u64, bytes: usize) {
        backlog.push(vnode, number, bytes, |out| out.resize(out.len() + bytes, number as u8));
    }

    fn numbers(backlog: &Backlog, vnode: usize, from: u64) -> Vec<u8> {
        backlog.records(vnode, from).map(|record| record[0]).collect()
    }

    #[test]
    fn the_oldest_records_go_first_whichever_vnode_they_belong_to() {
        // Chunks of eight records.
        let bytes_max = 8 * 8 * (HEAD_BYTES + 50);
        let mut backlog = Backlog::new(2, bytes_max);
        (1..=10).for_each(|number| push(&mut backlog, 0, number, 50));
        (1..=40).for_each(|number| push(&mut backlog, 1, number, 50));
        assert!(!backlog.covers(0, 8) && backlog.covers(0, 9) && backlog.covers(1, 1), "one chunk has gone");
        assert_eq!(numbers(&backlog, 0, 10), [10]);
        assert!(backlog.covers(0, 11) && !backlog.covers(0, 12), "the next one is no gap");
        for number in 41..=1000 {
            push(&mut backlog, 1, number, 50);
            assert!(backlog.bytes() <= bytes_max);
        }
        assert!(backlog.covers(1, 970) && !backlog.covers(1, 930) && numbers(&backlog, 0, 1).is_empty());
        assert!(numbers(&backlog, 1, 970).into_iter().eq((970..=1000).map(|number: u64| number as u8)));
    }

    #[test]
    fn a_vnode_that_settles_leaves_nothing_behind_while_another_lags() {
        let mut backlog = Backlog::new(2, 1 << 20);
        push(&mut backlog, 0, 1, 50);
        for number in 1..=100_000 {
            push(&mut backlog, 1, number, 50);
            backlog.settle(1, number.saturating_sub(3));
            assert!(backlog.chunks.len() <= 3 || backlog.bytes() <= (SPARE_CHUNKS_MAX + 3) * CHUNK_BYTES);
        }
        assert_eq!(backlog.records, 4);
        assert_eq!(numbers(&backlog, 0, 1), [1]);
        backlog.settle(0, 1);
        assert!(backlog.chunks.len() <= 2, "{}", backlog.chunks.len());
        push(&mut backlog, 1, 200_000, 50);
        assert!(!backlog.covers(1, 100_001), "a gap is never papered over");
    }

    #[test]
    fn a_large_record_lies_by_itself_and_one_larger_than_all_is_not_kept() {
        let mut backlog = Backlog::new(2, 1 << 20);
        push(&mut backlog, 0, 1, 10);
        push(&mut backlog, 0, 2, 300_000);
        push(&mut backlog, 0, 3, 10);
        assert_eq!(backlog.records(0, 1).map(<[u8]>::len).collect::<Vec<_>>(), [10, 300_000, 10]);
        assert!(backlog.bytes() < 500_000);
        backlog.settle(0, 2);
        assert!(backlog.bytes() < 200_000, "its memory is given back");
        push(&mut backlog, 1, 1, 2 << 20);
        assert!(!backlog.covers(1, 1) && backlog.covers(1, 2) && backlog.bytes() < 1 << 20);
    }

    #[test]
    fn whatever_is_pushed_and_settled_it_is_what_a_plain_list_would_be() {
        let mut random = 7u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let mut backlog = Backlog::new(4, 40_000);
        let mut lists: Vec<VecDeque<(u64, u8, usize)>> = vec![VecDeque::new(); 4];
        let mut last = [0u64; 4];
        for step in 0..200_000u64 {
            let vnode = draw(4) as usize;
            match draw(10) {
                0..6 => {
                    let bytes = if draw(100) == 0 { draw(9000) } else { draw(100) } as usize + 1;
                    last[vnode] += 1;
                    backlog.push(vnode, last[vnode], bytes, |out| out.resize(out.len() + bytes, step as u8));
                    lists[vnode].push_back((last[vnode], step as u8, bytes));
                }
                6..9 => {
                    let settled = last[vnode].saturating_sub(draw(30));
                    backlog.settle(vnode, settled);
                    lists[vnode].retain(|(number, ..)| *number > settled);
                }
                _ if draw(50) == 0 => {
                    last[vnode] += draw(5);
                    backlog.restart(vnode, last[vnode] + 1);
                    lists[vnode].clear();
                }
                _ => {}
            }
            // Past its bound it forgets the oldest by itself.
            for (list, log) in lists.iter_mut().zip(&backlog.logs) {
                list.retain(|(number, ..)| *number >= log.first);
            }
            let kept = backlog.records(vnode, 0).map(|record| (record[0], record.len()));
            assert!(kept.eq(lists[vnode].iter().map(|(_, byte, bytes)| (*byte, *bytes))), "step {step}");
            assert!(backlog.bytes() <= 40_000);
        }
        let held: usize = backlog.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum();
        let spare: usize = backlog.spare.iter().map(Vec::capacity).sum();
        assert_eq!(held + spare, backlog.chunk_bytes);
    }
}
