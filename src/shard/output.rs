//! What a shard says: reply frames for one connection, in order, with large values left where they lie.
//!
//! ```text
//! bytes   ┌ frame ┬ frame ┬ head of a hit ┐             ┌ frame ┬ …        small replies are copied here
//!                                         └── piece ────┘                   a large value's slice in the arena, pinned
//! ```
//! The owner sends `bytes` with the pieces spliced in at their places, then gives the pins back to the store.

use quoit_wire::{MultiResult, Reply, ReplyHeader, ResultEntry, Status, Version};

use crate::store::{Hit, Pin};

/// Bytes of arena memory that belong between `bytes[..at]` and `bytes[at..]` of an [`Output`].
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where in the output's bytes it is spliced in; pieces are in rising order.
    pub at: usize,
    /// First byte; valid and unchanged while the output's pins are held.
    pub pointer: *const u8,
    /// Number of bytes.
    pub length: usize,
}

/// Reply frames that wait to be sent on one connection, or to another core.
#[derive(Debug, Default)]
pub struct Output {
    /// Frames, without the pieces.
    pub bytes: Vec<u8>,
    /// Large values, spliced in.
    pub pieces: Vec<Piece>,
    /// What keeps the pieces' memory in place; give each to [`crate::store::Store::unpin`] when all is sent.
    pub pins: Vec<Pin>,
    /// Bytes of all pieces.
    pub piece_bytes: usize,
}

/// How replies with large values may be built.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLimits {
    /// Values of at least this many bytes are pinned rather than copied; `usize::MAX` copies all.
    pub pin_bytes_min: usize,
    /// Bytes that may still be copied into this output; a hit that exceeds it is answered `Overloaded`.
    pub copy_bytes_max: usize,
    /// Milliseconds an `Overloaded` reply asks the client to wait.
    pub retry_after_ms: u16,
}

impl Output {
    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.pieces.is_empty()
    }

    /// Bytes that will be sent.
    pub const fn len(&self) -> usize {
        self.bytes.len() + self.piece_bytes
    }

    /// Makes room for `bytes` more. A small buffer doubles, as vectors do; a large one grows by steps, so that buffers are
    /// what their budget says and not up to twice that.
    #[inline]
    pub fn reserve(&mut self, bytes: usize) {
        if self.bytes.capacity() - self.bytes.len() < bytes {
            self.grow(bytes);
        }
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        const DOUBLING_BYTES_MAX: usize = 256 << 10;
        const STEP_BYTES: usize = 64 << 10;
        if self.bytes.capacity() < DOUBLING_BYTES_MAX {
            self.bytes.reserve(bytes);
        } else {
            self.bytes.reserve_exact(bytes.max(STEP_BYTES));
        }
    }

    /// Appends a reply whose value is at hand.
    #[inline]
    pub fn reply(&mut self, reply: &Reply<'_>) {
        self.reserve(ReplyHeader::FRAME_BYTES + reply.value.len());
        reply.encode(&mut self.bytes);
    }

    /// Appends a reply of a status alone.
    #[inline]
    pub fn status(&mut self, id: u32, status: Status) {
        self.reply(&Reply::status(id, status));
    }

    /// Appends `Overloaded` with the time to wait.
    pub fn overloaded(&mut self, id: u32, retry_after_ms: u16) {
        self.reply(&Reply { retry_after_ms, ..Reply::status(id, Status::Overloaded) });
    }

    /// Appends the outcome of a write.
    #[inline]
    pub fn written(&mut self, id: u32, status: Status, version: Version) {
        self.reply(&Reply { version, ..Reply::status(id, status) });
    }

    /// Appends a hit, its value copied or pinned; returns the status answered.
    #[inline(always)]
    pub fn hit(&mut self, id: u32, hit: &Hit<'_>, limits: ReplyLimits) -> Status {
        let value_bytes = hit.value.len();
        let head = Reply {
            id,
            status: Status::Ok,
            version: hit.version,
            client_flags: hit.client_flags,
            retry_after_ms: 0,
            is_stale: false,
            value: &[],
        };
        if value_bytes >= limits.pin_bytes_min
            && let Some(pin) = hit.pin()
        {
            self.reserve(ReplyHeader::FRAME_BYTES);
            head.encode_head(value_bytes, &mut self.bytes);
            let at = self.bytes.len();
            self.pieces.extend(hit.value.slices().map(|slice| Piece {
                at,
                pointer: slice.as_ptr(),
                length: slice.len(),
            }));
            self.pins.push(pin);
            self.piece_bytes += value_bytes;
            return Status::Ok;
        }
        if value_bytes > limits.copy_bytes_max {
            self.overloaded(id, limits.retry_after_ms);
            return Status::Overloaded;
        }
        self.reserve(ReplyHeader::FRAME_BYTES + value_bytes);
        head.encode_head(value_bytes, &mut self.bytes);
        match hit.value.as_slice() {
            Some(value) => self.bytes.extend_from_slice(value),
            None => hit.value.copy_to(&mut self.bytes),
        }
        Status::Ok
    }

    /// Marks the reply that was appended at `start`: what it says may be stale.
    pub(super) fn mark_stale(&mut self, start: usize) {
        self.bytes[start + ReplyHeader::FLAGS_AT] |= ReplyHeader::STALE;
    }

    /// Marks the result of a multi operation that was appended at `start`.
    pub(super) fn mark_result_stale(&mut self, start: usize) {
        self.bytes[start + ResultEntry::FLAGS_AT] |= ReplyHeader::STALE;
    }

    /// Begins the reply to a multi operation; [`Self::close_multi`] ends it.
    pub fn open_multi(&mut self, id: u32) -> OpenMulti {
        let start = self.bytes.len();
        self.status(id, Status::Ok);
        OpenMulti { start }
    }

    /// Appends one result to the multi reply that was opened last.
    pub fn multi_result(&mut self, result: &MultiResult<'_>) {
        self.reserve(ResultEntry::BYTES + result.value.len());
        result.push(&mut self.bytes);
    }

    /// Appends one hit to the multi reply that was opened last: `TooLarge` when the reply would pass `bytes_max`,
    /// `Overloaded` when it would pass what may be copied now.
    pub fn multi_hit(&mut self, open: &OpenMulti, hit: &Hit<'_>, bytes_max: usize, limits: ReplyLimits) -> Status {
        let result = |status, value| MultiResult {
            status,
            version: hit.version,
            client_flags: hit.client_flags,
            retry_after_ms: 0,
            is_stale: false,
            value,
        };
        self.reserve(ResultEntry::BYTES + hit.value.len().min(bytes_max));
        let reply_bytes = self.bytes.len() - open.start + hit.value.len();
        if reply_bytes > bytes_max {
            result(Status::TooLarge, &[][..]).push(&mut self.bytes);
            return Status::TooLarge;
        }
        if reply_bytes > limits.copy_bytes_max {
            let overloaded = MultiResult { retry_after_ms: limits.retry_after_ms, ..result(Status::Overloaded, &[]) };
            overloaded.push(&mut self.bytes);
            return Status::Overloaded;
        }
        match hit.value.as_slice() {
            Some(value) => result(Status::Ok, value).push(&mut self.bytes),
            None => result(Status::Ok, &hit.value.slices().collect::<Vec<_>>().concat()).push(&mut self.bytes),
        }
        Status::Ok
    }

    /// Writes the length of the multi reply, now that its end is known.
    pub fn close_multi(&mut self, open: &OpenMulti) {
        let length = (self.bytes.len() - open.start - 4) as u32;
        self.bytes[open.start..open.start + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// A multi reply under construction.
#[derive(Debug)]
pub struct OpenMulti {
    start: usize,
}
