//! What a read gives: the item's metadata and its value where it lies.

use quoit_wire::Version;

use super::blocks::{BlockId, block_start, segment_of_block};
use super::item::{Head, INLINE_BYTES_MAX};
use super::segments::{BLOCK_BYTES, Memory, segment_of};
use crate::time::Instant;

/// A read that found its item.
pub struct Hit<'a> {
    /// The item's version.
    pub version: Version,
    /// The client's flags.
    pub client_flags: u32,
    /// When the item ends, if ever.
    pub expires: Option<Instant>,
    /// The value.
    pub value: Value<'a>,
}

impl Hit<'_> {
    /// Keeps the value in place until [`unpin`](super::Store::unpin), so that a send may read it; `None` when the bound
    /// on pinned memory (an eighth of the arena) is reached.
    pub fn pin(&self) -> Option<Pin> {
        self.value.pin()
    }
}

/// A value where it lies in the arena: one slice for most, several for large ones.
#[derive(Clone)]
pub struct Value<'a> {
    memory: &'a Memory,
    /// Where the item begins.
    location: usize,
    /// Where its bytes begin: of a large one first what lies in the item itself (its tail), then the blocks' numbers.
    body_at: usize,
    length: usize,
}

impl<'a> Value<'a> {
    /// The value of the item at `location`.
    #[inline(always)]
    pub(super) fn new(memory: &'a Memory, location: usize, head: &Head) -> Self {
        Self { memory, location, body_at: location + head.key_at() + head.key_bytes, length: head.value_bytes }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The whole value, when it lies in one piece.
    #[inline]
    pub fn as_slice(&self) -> Option<&'a [u8]> {
        (self.length <= INLINE_BYTES_MAX).then(|| self.memory.arena.bytes(self.body_at, self.length))
    }

    /// The pieces of the value in order; none is empty.
    #[inline]
    pub fn slices(&self) -> Slices<'a> {
        let tail_bytes = if self.length > INLINE_BYTES_MAX { self.length % BLOCK_BYTES } else { self.length };
        let tail = self.memory.arena.bytes(self.body_at, tail_bytes);
        Slices { memory: self.memory, list: self.list(), tail }
    }

    /// Appends the value to `out`.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        for slice in self.slices() {
            out.extend_from_slice(slice);
        }
    }

    fn pin(&self) -> Option<Pin> {
        if !self.memory.segments.pin(segment_of(self.location)) {
            return None;
        }
        for (number, block) in self.blocks().enumerate() {
            if !self.memory.segments.pin(segment_of_block(block)) {
                for pinned in self.blocks().take(number) {
                    self.memory.segments.unpin(segment_of_block(pinned));
                }
                self.memory.segments.unpin(segment_of(self.location));
                return None;
            }
        }
        Some(Pin { location: self.location })
    }

    /// The blocks it lies in.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockId> + use<'a> {
        blocks(self.list())
    }

    /// One of them; `None` past the last.
    pub(super) fn block(&self, index: usize) -> Option<BlockId> {
        blocks(self.list().get(4 * index..)?).next()
    }

    /// The blocks' numbers, four bytes each.
    #[inline]
    fn list(&self) -> &'a [u8] {
        if self.length <= INLINE_BYTES_MAX {
            return &[];
        }
        self.memory.arena.bytes(self.body_at + self.length % BLOCK_BYTES, 4 * (self.length / BLOCK_BYTES))
    }
}

fn blocks(list: &[u8]) -> impl Iterator<Item = BlockId> + use<'_> {
    list.chunks_exact(4).map(|number| u32::from_le_bytes([number[0], number[1], number[2], number[3]]))
}

/// The pieces of a [`Value`]; neighbouring blocks come as one.
#[derive(Clone)]
pub struct Slices<'a> {
    memory: &'a Memory,
    list: &'a [u8],
    tail: &'a [u8],
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let Some(first) = blocks(self.list).next() else {
            let tail = std::mem::take(&mut self.tail);
            return (!tail.is_empty()).then_some(tail);
        };
        let neighbours = blocks(self.list).zip(first..).take_while(|(block, expected)| block == expected).count();
        self.list = &self.list[4 * neighbours..];
        Some(self.memory.arena.bytes(block_start(first), neighbours * BLOCK_BYTES))
    }
}

/// The right to read a value's bytes until the store gets it back; see [`Hit::pin`].
#[must_use = "memory stays pinned until Store::unpin"]
#[derive(Debug, PartialEq, Eq)]
pub struct Pin {
    pub(super) location: usize,
}

/// Space for a value that is still arriving. Give it back through `publish` or `abandon`.
#[must_use = "space stays reserved until Store::publish or Store::abandon"]
#[derive(Debug)]
pub struct Reservation {
    pub(super) hash: u64,
    pub(super) key: Box<[u8]>,
    pub(super) value_bytes: usize,
    pub(super) blocks: Vec<BlockId>,
    pub(super) filled: usize,
    /// When it was made.
    pub(super) since: Instant,
    /// Memory ran out: bytes are taken and dropped until the end.
    pub(super) is_lost: bool,
}

impl Reservation {
    /// The key it will be stored under.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Length of the whole value.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Bytes of the value that have not arrived.
    pub fn missing_bytes(&self) -> usize {
        self.value_bytes - self.filled
    }
}
