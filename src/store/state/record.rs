//! Records: the bytes of one item in a state. Not those it has in the arena, which may change from version to version.
//!
//! ```text
//! 0           2       4             8          16           +8        +8         +4        +key
//! ┌───────────┬───────┬─────────────┬──────────┬────────────┬─────────┬──────────┬─────┬───────┐
//! │ key_bytes │ marks │ value_bytes │ sequence │ expires    │ idle ms │ client   │ key │ value │
//! │ u16       │ u16   │ u32         │ u64      │ wall ms u64│ u64     │ flags u32│     │       │
//! │           │       │             │          │ if expiry  │ if idle │ if not 0 │     │       │
//! └───────────┴───────┴─────────────┴──────────┴────────────┴─────────┴──────────┴─────┴───────┘
//!
//! marks   10             9      8        7     4 3           0
//!        ┌──────────────┬──────┬────────┬───────┬─────────────┐
//!        │ client flags │ idle │ expiry │ queue │ policy bits │
//!        └──────────────┴──────┴────────┴───────┴─────────────┘
//! ```
//! Records follow one another without gaps. A record never begins in one payload and ends in the next, but for values
//! over [`WHOLE_BYTES_MAX`]: such a value may be cut at a payload's end, and the next one begins with what is missing.

use quoit_wire::Version;
use quoit_wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use super::chunk::{CHUNK_PAYLOAD_BYTES_MAX, Damage};
use crate::store::item::INLINE_BYTES_MAX;

/// Values up to this length are never cut.
pub(super) const WHOLE_BYTES_MAX: usize = 8 << 10;
/// What every record has.
const FIXED_BYTES: usize = 16;
/// The longest record without its value.
const FRONT_BYTES_MAX: usize = FIXED_BYTES + 8 + 8 + 4 + KEY_BYTES_MAX;

const MARK_QUEUE_SHIFT: u32 = 4;
const MARK_EXPIRY: u16 = 1 << 8;
const MARK_IDLE: u16 = 1 << 9;
const MARK_CLIENT_FLAGS: u16 = 1 << 10;
const MARKS_KNOWN: u16 = (1 << 11) - 1;

const _: () = assert!(FRONT_BYTES_MAX + WHOLE_BYTES_MAX < CHUNK_PAYLOAD_BYTES_MAX);
// What is received piece by piece on loading is what the store takes piece by piece.
const _: () = assert!(WHOLE_BYTES_MAX == INLINE_BYTES_MAX);

/// One item, as it stands in a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// The value, or its beginning.
    pub value: &'a [u8],
    /// Length of the whole value.
    pub value_bytes: usize,
    /// The write's number in its vnode.
    pub sequence: u64,
    /// What the eviction policy knows of it.
    pub policy_bits: u8,
    /// The eviction policy's queue it was in.
    pub queue: u8,
    /// When it ends, by the wall clock; `None`: never.
    pub expires_wall_ms: Option<u64>,
    /// The time to live that starts anew with every hit; zero: none.
    pub idle_ms: u64,
    /// The client's flags.
    pub client_flags: u32,
}

/// What stands next in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// An item, and the bytes of its record as far as they are here.
    Item(Record<'a>, &'a [u8]),
    /// More of the value of the item before.
    More(&'a [u8]),
}

/// Takes payloads apart, in the order in which they were written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces {
    /// Bytes of the last item's value that are still to come.
    missing: usize,
}

impl Record<'_> {
    /// Bytes before the value.
    pub(super) fn front_bytes(&self) -> usize {
        let optional = [(self.expires_wall_ms.is_some(), 8), (self.idle_ms != 0, 8), (self.client_flags != 0, 4)];
        FIXED_BYTES + optional.iter().filter(|field| field.0).map(|field| field.1).sum::<usize>() + self.key.len()
    }

    /// Bytes that must be free for the record to be begun.
    pub(super) fn bytes_min(&self) -> usize {
        self.front_bytes() + if self.value_bytes <= WHOLE_BYTES_MAX { self.value_bytes } else { 0 }
    }

    /// Everything before the value, by `put`.
    pub(super) fn put_front(&self, mut put: impl FnMut(&[u8])) {
        let mut marks = u16::from(self.policy_bits) | u16::from(self.queue) << MARK_QUEUE_SHIFT;
        marks |= if self.expires_wall_ms.is_some() { MARK_EXPIRY } else { 0 };
        marks |= if self.idle_ms != 0 { MARK_IDLE } else { 0 };
        marks |= if self.client_flags != 0 { MARK_CLIENT_FLAGS } else { 0 };
        let mut fixed = [0; FIXED_BYTES];
        fixed[..2].copy_from_slice(&(self.key.len() as u16).to_le_bytes());
        fixed[2..4].copy_from_slice(&marks.to_le_bytes());
        fixed[4..8].copy_from_slice(&(self.value_bytes as u32).to_le_bytes());
        fixed[8..].copy_from_slice(&self.sequence.to_le_bytes());
        put(&fixed);
        if let Some(expires_wall_ms) = self.expires_wall_ms {
            put(&expires_wall_ms.to_le_bytes());
        }
        if self.idle_ms != 0 {
            put(&self.idle_ms.to_le_bytes());
        }
        if self.client_flags != 0 {
            put(&self.client_flags.to_le_bytes());
        }
        put(self.key);
    }
}

impl Pieces {
    /// Takes the next piece off `payload`; `None` at its end.
    pub fn next<'a>(&mut self, payload: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Damage> {
        if payload.is_empty() {
            return Ok(None);
        }
        if self.missing > 0 {
            let (more, rest) = payload.split_at(self.missing.min(payload.len()));
            self.missing -= more.len();
            *payload = rest;
            return Ok(Some(Piece::More(more)));
        }
        let (record, bytes) = read(payload).ok_or(Damage::Content("an item that is none"))?;
        self.missing = record.value_bytes - record.value.len();
        let (all, rest) = payload.split_at(bytes);
        if self.missing > 0 && (!rest.is_empty() || record.value_bytes <= WHOLE_BYTES_MAX) {
            return Err(Damage::Content("an item that is cut where it may not be"));
        }
        *payload = rest;
        Ok(Some(Piece::Item(record, all)))
    }

    /// Whether the last payload ended within an item.
    pub fn is_cut(&self) -> bool {
        self.missing > 0
    }
}

/// Reads the record at the start of `bytes`, and how long it is here; `None` where there is none.
fn read(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let mut rest = bytes;
    let mut take = |length: usize| {
        let (field, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(field)
    };
    let uint = |field: &[u8]| field.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let fixed = take(FIXED_BYTES)?;
    let (key_bytes, marks) = (uint(&fixed[..2]) as usize, uint(&fixed[2..4]) as u16);
    let (value_bytes, sequence) = (uint(&fixed[4..8]) as usize, uint(&fixed[8..]));
    let is_sound = key_bytes > 0
        && value_bytes <= VALUE_BYTES_MAX
        && sequence <= Version::SEQUENCE_MAX
        && marks & !MARKS_KNOWN == 0;
    if !is_sound {
        return None;
    }
    let expires_wall_ms = if marks & MARK_EXPIRY != 0 { Some(uint(take(8)?)) } else { None };
    let idle_ms = if marks & MARK_IDLE != 0 { uint(take(8)?) } else { 0 };
    let client_flags = if marks & MARK_CLIENT_FLAGS != 0 { uint(take(4)?) as u32 } else { 0 };
    let key = take(key_bytes)?;
    let value = &rest[..value_bytes.min(rest.len())];
    let record = Record {
        key,
        value,
        value_bytes,
        sequence,
        policy_bits: (marks & 0xF) as u8,
        queue: (marks >> MARK_QUEUE_SHIFT & 0xF) as u8,
        expires_wall_ms,
        idle_ms,
        client_flags,
    };
    Some((record, bytes.len() - rest.len() + value.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_reads_back_as_it_was_written(
            key in proptest::collection::vec(any::<u8>(), 1..300),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            sequence in 0..=Version::SEQUENCE_MAX,
            policy_bits in 0u8..16,
            queue in 0u8..16,
            expires_wall_ms in proptest::option::of(any::<u64>()),
            idle_ms in prop_oneof![Just(0), any::<u64>()],
            client_flags in prop_oneof![Just(0), any::<u32>()],
        ) {
            let (key, value) = (&key[..], &value[..]);
            let value_bytes = value.len();
            let record = Record {
                key, value, value_bytes, sequence, policy_bits, queue, expires_wall_ms, idle_ms, client_flags,
            };
            let mut bytes = vec![];
            record.put_front(|part| bytes.extend_from_slice(part));
            prop_assert_eq!(bytes.len(), record.front_bytes());
            bytes.extend_from_slice(value);
            prop_assert_eq!(bytes.len(), record.bytes_min());
            let mut payload = &bytes[..];
            let mut pieces = Pieces::default();
            prop_assert_eq!(pieces.next(&mut payload), Ok(Some(Piece::Item(record, &bytes[..]))));
            prop_assert_eq!((pieces.next(&mut payload), pieces.is_cut()), (Ok(None), false));
        }

        #[test]
        fn any_bytes_are_answered_without_a_panic(
            bytes in proptest::collection::vec(prop_oneof![3 => Just(0u8), 2 => 0u8..4, 1 => any::<u8>()], 0..200),
        ) {
            let mut payload = &bytes[..];
            let mut pieces = Pieces::default();
            while let Ok(Some(_)) = pieces.next(&mut payload) {}
        }
    }
}
