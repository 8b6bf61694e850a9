//! Records: what a write leaves behind, as it travels from a primary to its copies.
//!
//! A record tells the resulting state, never the operation: an increment travels as the counter's new value. So applying
//! one needs nothing but the record, and applying it twice does no harm.

use super::layout::{RecordEntry, ResultEntry, SliceEntry};
use crate::header::RetryToken;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::operation::Status;
use crate::version::Version;

/// An item as it travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The client's flags.
    pub client_flags: u32,
    /// Milliseconds to live from when the record was made; zero is for ever.
    pub ttl_ms: u64,
    /// The time to live that every hit starts anew; zero: hits change nothing.
    pub idle_ms: u64,
}

/// What one write changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The item is now this.
    Put(Put<'a>),
    /// A client deleted the item.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// The primary evicted the item.
    Evict {
        /// The key.
        key: &'a [u8],
    },
    /// A hit gave an item with idle expiry a new end.
    Refresh {
        /// The key.
        key: &'a [u8],
        /// Milliseconds to live from when the record was made.
        ttl_ms: u64,
    },
    /// The vnode was flushed.
    Clear,
}

/// What a repeat of a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptResult {
    /// The write.
    pub token: RetryToken,
    /// How it ended.
    pub status: Status,
    /// The version it made, or the one that stood in its way.
    pub version: Version,
    /// A counter's new value.
    pub counter: Option<i64>,
}

/// One write of a vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it changed.
    pub change: Change<'a>,
    /// With writes that carry a retry token: what a repeat is answered.
    pub result: Option<KeptResult>,
}

/// One item of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceItem<'a> {
    /// The number of the write that made it.
    pub sequence: u64,
    /// The item.
    pub put: Put<'a>,
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const EVICT: u8 = 3;
const REFRESH: u8 = 4;
const CLEAR: u8 = 5;

impl<'a> Change<'a> {
    /// The key it concerns; a clear concerns all.
    pub const fn key(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Put(Put { key, .. }) | Self::Delete { key } | Self::Evict { key } | Self::Refresh { key, .. } => {
                Some(key)
            }
            Self::Clear => None,
        }
    }
}

impl KeptResult {
    /// Appends the result.
    pub fn push(&self, out: &mut Vec<u8>) {
        ResultEntry {
            session: self.token.session,
            number: self.token.number,
            version: self.version.as_u64(),
            counter: self.counter.unwrap_or(0),
            status: self.status.code(),
            has_counter: u8::from(self.counter.is_some()),
        }
        .put(out);
    }

    /// Reads the result at the front of `bytes` and returns it with what follows; `None` when it is not right.
    pub fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (entry, rest) = ResultEntry::take(bytes)?;
        let counter = match (entry.has_counter, entry.counter) {
            (0, 0) => None,
            (1, counter) => Some(counter),
            _ => return None,
        };
        let result = Self {
            token: RetryToken { session: entry.session, number: entry.number },
            status: Status::from_code(entry.status)?,
            version: Version::from_u64(entry.version),
            counter,
        };
        Some((result, rest))
    }
}

impl<'a> Record<'a> {
    /// Appends the record.
    pub fn push(&self, out: &mut Vec<u8>) {
        let blank = RecordEntry {
            marks: if self.result.is_some() { RecordEntry::HAS_RESULT } else { 0 },
            key_bytes: self.change.key().map_or(0, key_length),
            ..RecordEntry::default()
        };
        let (entry, value) = match self.change {
            Change::Put(put) => (put_entry(&put, put.value.len(), blank.marks), put.value),
            Change::Delete { .. } => (RecordEntry { kind: DELETE, ..blank }, &[][..]),
            Change::Evict { .. } => (RecordEntry { kind: EVICT, ..blank }, &[][..]),
            Change::Refresh { ttl_ms, .. } => (RecordEntry { kind: REFRESH, ttl_ms, ..blank }, &[][..]),
            Change::Clear => (RecordEntry { kind: CLEAR, ..blank }, &[][..]),
        };
        entry.put(out);
        if let Some(result) = &self.result {
            result.push(out);
        }
        out.extend_from_slice(self.change.key().unwrap_or_default());
        out.extend_from_slice(value);
    }

    /// Bytes that [`Self::push`] appends.
    pub fn encoded_bytes(&self) -> usize {
        let value_bytes = if let Change::Put(put) = self.change { put.value.len() } else { 0 };
        Self::bytes_with(self.change.key().unwrap_or_default(), value_bytes, self.result.as_ref())
    }

    /// Bytes of a record that concerns `key`; `value_bytes` with a put alone.
    pub const fn bytes_with(key: &[u8], value_bytes: usize, result: Option<&KeptResult>) -> usize {
        RecordEntry::BYTES + if result.is_some() { ResultEntry::BYTES } else { 0 } + key.len() + value_bytes
    }

    /// Appends a record that puts an item whose value lies in pieces: `put.value` is not looked at.
    pub fn push_put<'v>(
        put: &Put<'_>,
        value_bytes: usize,
        value: impl Iterator<Item = &'v [u8]>,
        result: Option<&KeptResult>,
        out: &mut Vec<u8>,
    ) {
        let marks = if result.is_some() { RecordEntry::HAS_RESULT } else { 0 };
        put_entry(put, value_bytes, marks).put(out);
        if let Some(result) = result {
            result.push(out);
        }
        out.extend_from_slice(put.key);
        value.for_each(|piece| out.extend_from_slice(piece));
    }

    /// Reads the record at the front of `bytes` and returns it with what follows; `None` when it is not right.
    pub fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (entry, rest) = RecordEntry::take(bytes)?;
        let (result, rest) = match entry.marks {
            0 => (None, rest),
            RecordEntry::HAS_RESULT => KeptResult::take(rest).map(|(result, rest)| (Some(result), rest))?,
            _ => return None,
        };
        let (key, rest) = rest.split_at_checked(usize::from(entry.key_bytes))?;
        let value_bytes = entry.value_bytes as usize;
        if value_bytes > VALUE_BYTES_MAX || key.is_empty() != (entry.kind == CLEAR) {
            return None;
        }
        let (value, rest) = rest.split_at_checked(value_bytes)?;
        let RecordEntry { client_flags, ttl_ms, idle_ms, .. } = entry;
        let is_bare = value.is_empty() && client_flags == 0 && idle_ms == 0;
        let change = match entry.kind {
            PUT => Change::Put(Put { key, value, client_flags, ttl_ms, idle_ms }),
            REFRESH if is_bare => Change::Refresh { key, ttl_ms },
            DELETE if is_bare && ttl_ms == 0 => Change::Delete { key },
            EVICT if is_bare && ttl_ms == 0 => Change::Evict { key },
            CLEAR if is_bare && ttl_ms == 0 => Change::Clear,
            _ => return None,
        };
        Some((Self { change, result }, rest))
    }
}

impl<'a> SliceItem<'a> {
    /// Appends an item whose value lies in pieces: `put.value` is not looked at.
    pub fn push<'v>(
        sequence: u64,
        put: &Put<'_>,
        value_bytes: usize,
        value: impl Iterator<Item = &'v [u8]>,
        out: &mut Vec<u8>,
    ) {
        SliceEntry { sequence }.put(out);
        Record::push_put(put, value_bytes, value, None, out);
    }

    /// Reads the item at the front of `bytes` and returns it with what follows; `None` when it is not right.
    pub fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (SliceEntry { sequence }, rest) = SliceEntry::take(bytes)?;
        match Record::take(rest)? {
            (Record { change: Change::Put(put), result: None }, rest) => Some((Self { sequence, put }, rest)),
            _ => None,
        }
    }
}

/// Reads one thing from the front of some bytes and returns it with what follows.
type Take<'a, T> = fn(&'a [u8]) -> Option<(T, &'a [u8])>;

/// Records or items that were checked whole when they were parsed; walking them can't fail after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Run<'a> {
    /// Checks that `bytes` holds exactly `count` records.
    pub(super) fn of_records(count: usize, bytes: &'a [u8]) -> Option<Self> {
        Self::of(count, bytes, Record::take)
    }

    /// Checks that `bytes` holds exactly `count` items of a slice.
    pub(super) fn of_items(count: usize, bytes: &'a [u8]) -> Option<Self> {
        Self::of(count, bytes, SliceItem::take)
    }

    /// Records that were checked before.
    pub(super) const fn checked(count: usize, bytes: &'a [u8]) -> Self {
        Self { count, bytes }
    }

    fn of<T>(count: usize, bytes: &'a [u8], take: Take<'a, T>) -> Option<Self> {
        let mut rest = bytes;
        for _ in 0..count {
            rest = take(rest)?.1;
        }
        rest.is_empty().then_some(Self { count, bytes })
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// As they travel.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The records of an append in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        walk(self.bytes, Record::take)
    }

    /// The same, each with its bytes as they travel.
    pub fn records_with_bytes(&self) -> impl Iterator<Item = (Record<'a>, &'a [u8])> + use<'a> {
        walk(self.bytes, |bytes| {
            let (record, behind) = Record::take(bytes)?;
            Some(((record, &bytes[..bytes.len() - behind.len()]), behind))
        })
    }

    /// The items of a slice in order.
    pub fn items(&self) -> impl Iterator<Item = SliceItem<'a>> + use<'a> {
        walk(self.bytes, SliceItem::take)
    }
}

fn walk<'a, T: 'a>(bytes: &'a [u8], take: Take<'a, T>) -> impl Iterator<Item = T> + use<'a, T> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (one, behind) = take(rest)?;
        rest = behind;
        Some(one)
    })
}

fn put_entry(put: &Put<'_>, value_bytes: usize, marks: u8) -> RecordEntry {
    RecordEntry {
        kind: PUT,
        marks,
        key_bytes: key_length(put.key),
        value_bytes: crate::frame_length(value_bytes),
        client_flags: put.client_flags,
        ttl_ms: put.ttl_ms,
        idle_ms: put.idle_ms,
    }
}

fn key_length(key: &[u8]) -> u16 {
    assert!((1..=KEY_BYTES_MAX).contains(&key.len()), "a key has 1 to 65,535 bytes");
    key.len() as u16
}
