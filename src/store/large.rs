//! Large values: reserved while they arrive, in blocks once they are there.
//!
//! A value over [`INLINE_BYTES_MAX`] lies in blocks of 8 KiB; what is left over, and the list of the blocks, lie in the
//! item's record. So a touch or a move copies the record and no block. A reservation takes its blocks one at a time as
//! the bytes arrive: memory for 16 MiB is not reclaimed in one call.

use quoit_wire::limits::KEY_BYTES_MAX;

use super::append::{KEPT_FROM_WRITES, Part};
use super::blocks::{BlockId, block_start};
use super::hit::Reservation;
use super::index::Entry;
use super::item::{Header, INLINE_BYTES_MAX, RECORD_BYTES_MAX};
use super::operation::{Condition, Expiry, ExtendOutcome, ReserveRefusal, SetOutcome};
use super::segments::{BLOCK_BYTES, NO_SEGMENT, SEGMENT_BYTES};
use super::{Draft, End, Found, Store};
use crate::time::Instant;

/// Values that are still arriving take at most one in this many bytes of the arena.
const ARRIVING_PART: usize = 4;
/// Attempts to find one block, in reclaim batches. Past that everything must be pinned.
const ATTEMPTS_MAX: usize = 20_000;

impl Store {
    /// Reserves space for an item whose value of `value_bytes` is still arriving. Nothing is visible before
    /// [`Self::publish`].
    pub fn reserve(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        value_bytes: usize,
    ) -> Result<Reservation, ReserveRefusal> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value_bytes > self.options.value_bytes_max {
            return Err(ReserveRefusal::TooLarge);
        }
        let arena_bytes = self.memory.segments.count() * SEGMENT_BYTES;
        if self.arriving_bytes + value_bytes > arena_bytes / ARRIVING_PART {
            return Err(ReserveRefusal::Busy);
        }
        if !self.policy.evicts() {
            let free_bytes = self.memory.segments.free_count().saturating_sub(KEPT_FROM_WRITES) * SEGMENT_BYTES;
            let vacant_bytes = self.blocks.vacant(&self.memory) * BLOCK_BYTES;
            let room = free_bytes as u64 + vacant_bytes as u64 + self.dead_bytes;
            if (self.arriving_bytes + value_bytes) as u64 > room {
                return Err(ReserveRefusal::NoSpace);
            }
        }
        self.arriving_bytes += value_bytes;
        Ok(Reservation {
            hash,
            key: key.into(),
            value_bytes,
            blocks: Vec::new(),
            filled: 0,
            since: now,
            is_lost: false,
        })
    }

    /// The next piece of reserved space to be filled: receive into it, then say how much with [`Self::advance`]. Empty
    /// when the value is complete, or when memory ran out ([`PolicyKind::None`](super::PolicyKind::None), or all of it
    /// pinned): then [`Self::fill`] still takes the bytes, and publishing ends in `NoSpace`.
    pub fn unfilled<'a>(&'a mut self, reservation: &mut Reservation) -> &'a mut [u8] {
        if reservation.missing_bytes() == 0 || !self.provide(reservation, reservation.filled + 1) {
            return &mut [];
        }
        let length = (BLOCK_BYTES - reservation.filled % BLOCK_BYTES).min(reservation.missing_bytes());
        self.reserved_piece(reservation, reservation.filled, length)
    }

    /// The same for the next `bytes` bytes: all of the space that they take, piece by piece in order. No piece where memory
    /// has run out.
    pub fn unfilled_pieces(
        &mut self,
        reservation: &mut Reservation,
        bytes: usize,
        mut take_piece: impl FnMut(&mut [u8]),
    ) {
        let end = reservation.filled + bytes.min(reservation.missing_bytes());
        if !self.provide(reservation, end) {
            return;
        }
        let mut at = reservation.filled;
        while at < end {
            let length = (BLOCK_BYTES - at % BLOCK_BYTES).min(end - at);
            take_piece(self.reserved_piece(reservation, at, length));
            at += length;
        }
    }

    /// The first `bytes` bytes of what [`Self::unfilled`] or [`Self::unfilled_pieces`] gave are filled.
    pub fn advance(&mut self, reservation: &mut Reservation, bytes: usize) {
        let is_provided = reservation.filled + bytes <= reservation.blocks.len() * BLOCK_BYTES;
        assert!(is_provided && bytes <= reservation.missing_bytes(), "more bytes than there was space for");
        reservation.filled += bytes;
    }

    /// Copies the next bytes of the value into the reserved space; returns how many, fewer only when it is complete.
    pub fn fill(&mut self, reservation: &mut Reservation, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(reservation.missing_bytes())];
        let mut copied = 0;
        while copied < bytes.len() {
            let piece = self.unfilled(reservation);
            let length = piece.len().min(bytes.len() - copied);
            piece[..length].copy_from_slice(&bytes[copied..copied + length]);
            if reservation.is_lost {
                reservation.filled += bytes.len() - copied;
                break;
            }
            self.advance(reservation, length);
            copied += length;
        }
        bytes.len()
    }

    /// Makes a completed reservation the item, as [`Store::set`] would have. Whatever the outcome, the reservation is
    /// gone.
    pub fn publish(
        &mut self,
        now: Instant,
        reservation: Reservation,
        client_flags: u32,
        expiry: Expiry,
        condition: Condition,
    ) -> SetOutcome {
        assert_eq!(reservation.missing_bytes(), 0, "published before it was complete");
        self.make_room(now, RECORD_BYTES_MAX);
        let current = self.find_live(now, reservation.hash, &reservation.key);
        let current_version = current.map(|found| self.versions.of(reservation.hash, found.header.sequence));
        if !condition.holds(current_version) {
            self.abandon(reservation);
            return SetOutcome::ConditionFailed(current_version);
        }
        if reservation.is_lost {
            self.abandon(reservation);
            return SetOutcome::NoSpace;
        }
        let header = self.header_for(now, client_flags, expiry);
        self.publish_as(now, reservation, header, current)
    }

    /// Gives reserved space back.
    pub fn abandon(&mut self, reservation: Reservation) {
        self.arriving_bytes -= reservation.value_bytes;
        for block in reservation.blocks {
            self.blocks.give(&mut self.memory, block);
        }
    }

    /// Stores a complete reservation under `header`'s flags and expiry.
    fn publish_as(
        &mut self,
        now: Instant,
        mut reservation: Reservation,
        header: Header,
        current: Option<Found>,
    ) -> SetOutcome {
        let header = Header { value_bytes: reservation.value_bytes, key_bytes: reservation.key.len(), ..header };
        let (tail, list) = reservation.record_parts(&header);
        let key = std::mem::take(&mut reservation.key);
        let parts = [tail, Part::Bytes(&list)];
        let draft = Draft { hash: reservation.hash, key: &key, header, parts: &parts, keeps_blocks: false };
        let Some(version) = self.put(now, draft, current) else {
            self.abandon(reservation);
            return SetOutcome::NoSpace;
        };
        self.hand_over(reservation, header.blocks());
        SetOutcome::Stored(version)
    }

    /// The first `blocks` blocks of a reservation belong to its item now; the others go back.
    pub(super) fn hand_over(&mut self, mut reservation: Reservation, blocks: usize) {
        let kept: Vec<BlockId> = reservation.blocks.drain(..blocks).collect();
        for block in kept {
            self.blocks.publish(&mut self.memory, block, reservation.hash);
        }
        self.abandon(reservation);
    }

    /// A set whose value does not fit an item.
    pub(super) fn set_large(&mut self, now: Instant, hash: u64, key: &[u8], write: super::Write<'_>) -> SetOutcome {
        let current = self.find_live(now, hash, key).map(|found| self.versions.of(hash, found.header.sequence));
        if !write.condition.holds(current) {
            return SetOutcome::ConditionFailed(current);
        }
        let mut reservation = match self.reserve(now, hash, key, write.value.len()) {
            Ok(reservation) => reservation,
            Err(ReserveRefusal::TooLarge) => return SetOutcome::TooLarge,
            Err(ReserveRefusal::NoSpace | ReserveRefusal::Busy) => return SetOutcome::NoSpace,
        };
        self.fill(&mut reservation, write.value);
        self.publish(now, reservation, write.client_flags, write.expiry, write.condition)
    }

    /// An append or prepend whose result does not fit an item.
    pub(super) fn extend_large(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        bytes: &[u8],
        end: End,
        value_bytes: usize,
    ) -> ExtendOutcome {
        let Ok(mut reservation) = self.reserve(now, hash, key, value_bytes) else {
            return ExtendOutcome::NoSpace;
        };
        if !self.provide(&mut reservation, value_bytes) {
            self.abandon(reservation);
            return ExtendOutcome::NoSpace;
        }
        self.make_room(now, RECORD_BYTES_MAX);
        // Finding memory may have evicted the item. From here on nothing is reclaimed until the new one is written.
        let Some(current) = self.find_live(now, hash, key) else {
            self.abandon(reservation);
            return ExtendOutcome::Missing;
        };
        if end == End::Front {
            self.fill(&mut reservation, bytes);
        }
        self.fill_from(&mut reservation, current);
        if end == End::Back {
            self.fill(&mut reservation, bytes);
        }
        match self.publish_as(now, reservation, current.header, Some(current)) {
            SetOutcome::Stored(version) => ExtendOutcome::Stored(version),
            _ => ExtendOutcome::NoSpace,
        }
    }

    /// Copies an item's value into reserved space whose blocks are there.
    fn fill_from(&mut self, reservation: &mut Reservation, source: Found) {
        let Found { entry, header, .. } = source;
        let tail_at = entry.location() + header.bytes() + header.key_bytes;
        for number in 0..=header.blocks() {
            let (mut at, mut left) = match number < header.blocks() {
                true => (block_start(self.listed_block(entry.location(), &header, number)), BLOCK_BYTES),
                false => (tail_at, header.inline_bytes()),
            };
            while left > 0 {
                let offset = reservation.filled % BLOCK_BYTES;
                let length = left.min(BLOCK_BYTES - offset);
                let target = block_start(reservation.blocks[reservation.filled / BLOCK_BYTES]) + offset;
                self.memory.arena.copy(at, target, length);
                reservation.filled += length;
                (at, left) = (at + length, left - length);
            }
        }
    }

    /// `length` bytes of reserved space from byte `at` of the value on, all in one block, which is there.
    fn reserved_piece(&mut self, reservation: &Reservation, at: usize, length: usize) -> &mut [u8] {
        let block = reservation.blocks[at / BLOCK_BYTES];
        self.memory.arena.bytes_mut(block_start(block) + at % BLOCK_BYTES, length)
    }

    /// Makes sure that the first `bytes` bytes of a reservation have blocks; without memory for them it is lost, and has none.
    fn provide(&mut self, reservation: &mut Reservation, bytes: usize) -> bool {
        while !reservation.is_lost && reservation.blocks.len() * BLOCK_BYTES < bytes {
            if !self.provide_block(reservation) {
                reservation.is_lost = true;
                for block in std::mem::take(&mut reservation.blocks) {
                    self.blocks.give(&mut self.memory, block);
                }
            }
        }
        !reservation.is_lost
    }

    /// Adds a block to a reservation.
    fn provide_block(&mut self, reservation: &mut Reservation) -> bool {
        // Reclaiming needs the time only to know what has ended; that the value began to arrive a while ago does no harm.
        let now = reservation.since;
        self.make_room(now, BLOCK_BYTES);
        self.second_chance_bytes = 0;
        for _ in 0..ATTEMPTS_MAX {
            let vacant = self.blocks.take(&mut self.memory, NO_SEGMENT);
            let block = match vacant {
                None if self.memory.segments.free_count() > KEPT_FROM_WRITES => {
                    self.blocks.take_segment(&mut self.memory)
                }
                vacant => vacant,
            };
            if let Some(block) = block {
                reservation.blocks.push(block);
                return true;
            }
            if !self.reclaim_batch(now, true) {
                return false;
            }
        }
        false
    }

    /// Block `number` in the list of a large item.
    pub(super) fn listed_block(&self, location: usize, header: &Header, number: usize) -> BlockId {
        let list_at = location + header.bytes() + header.key_bytes + header.inline_bytes();
        let bytes = self.memory.arena.bytes(list_at + 4 * number, 4);
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// The item that lists `block`, found by its key's hash, and the block's number in the list.
    pub(super) fn owner_of_block(&self, hash: u64, block: BlockId) -> Option<(usize, Header, usize)> {
        let place_in = |entry: Entry| {
            let header = self.header_at(entry.location());
            let mut numbers = 0..header.blocks();
            let number = numbers.find(|number| self.listed_block(entry.location(), &header, *number) == block);
            number.map(|number| (entry.location(), header, number))
        };
        self.index.find(&self.memory, hash, place_in).map(|(_, _, owner)| owner)
    }
}

impl Reservation {
    /// What a complete value gives its item's record: the bytes that lie in the record itself, which come out of the last
    /// block, and the list of the other blocks.
    pub(super) fn record_parts(&self, header: &Header) -> (Part<'static>, Vec<u8>) {
        let at = self.blocks.get(header.blocks()).map_or(0, |block| block_start(*block));
        let list = self.blocks[..header.blocks()].iter().flat_map(|block| block.to_le_bytes()).collect();
        (Part::Kept { at, length: header.inline_bytes() }, list)
    }
}

const _: () = assert!(INLINE_BYTES_MAX == BLOCK_BYTES);
