//! The bodies of multi-get and multi-set: a number of entries, each a flat struct followed by its bytes.
//!
//! ```text
//! multi-get   ┌──────────┬─────┬──────────┬─────┬─┄     result   ┌─────────────┬───────┬─────────────┬───────┬─┄
//!             │ KeyEntry │ key │ KeyEntry │ key │        (both)  │ ResultEntry │ value │ ResultEntry │ value │
//!             └──────────┴─────┴──────────┴─────┴─┄              └─────────────┴───────┴─────────────┴───────┴─┄
//! multi-set   ┌───────────┬─────┬───────┬───────────┬─────┬───────┬─┄
//!             │ ItemEntry │ key │ value │ ItemEntry │ key │ value │
//!             └───────────┴─────┴───────┴───────────┴─────┴───────┴─┄
//! ```
//! `Keys` and `Items` are checked once, whole, when they are parsed; walking them can't fail after that.

use crate::header::{ItemEntry, KeyEntry, ReplyHeader, ResultEntry};
use crate::limits::MULTI_KEYS_MAX;
use crate::operation::Status;
use crate::version::Version;

/// The keys of a multi-get, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Keys<'a> {
    /// Checks that `bytes` holds exactly `count` entries with keys of at least one byte, and no more than a frame may.
    pub fn parse(count: usize, bytes: &'a [u8]) -> Option<Self> {
        if count > MULTI_KEYS_MAX {
            return None;
        }
        let mut walk = KeyWalk(bytes);
        let whole = walk.by_ref().take(count).filter(|key| !key.is_empty()).count() == count && walk.0.is_empty();
        whole.then_some(Self { count, bytes })
    }

    /// How many keys there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The keys in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        KeyWalk(self.bytes)
    }

    /// The entries as they travel.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Appends one entry to a body under construction.
    pub fn push(key: &[u8], body: &mut Vec<u8>) {
        assert!((1..=usize::from(u16::MAX)).contains(&key.len()), "a key has 1 to 65,535 bytes");
        KeyEntry { key_bytes: key.len() as u16 }.put(body);
        body.extend_from_slice(key);
    }
}

struct KeyWalk<'a>(&'a [u8]);

impl<'a> Iterator for KeyWalk<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (entry, rest) = KeyEntry::take(self.0)?;
        let (key, rest) = rest.split_at_checked(usize::from(entry.key_bytes))?;
        self.0 = rest;
        Some(key)
    }
}

/// One item of a multi-set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Milliseconds to live; zero is for ever.
    pub ttl_ms: u64,
    /// Kept with the item.
    pub client_flags: u32,
}

/// The items of a multi-set, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Items<'a> {
    /// Checks that `bytes` holds exactly `count` items with keys of at least one byte, and no more than a frame may.
    pub fn parse(count: usize, bytes: &'a [u8]) -> Option<Self> {
        if count > MULTI_KEYS_MAX {
            return None;
        }
        let mut walk = ItemWalk(bytes);
        let whole = walk.by_ref().take(count).filter(|item| !item.key.is_empty()).count() == count && walk.0.is_empty();
        whole.then_some(Self { count, bytes })
    }

    /// How many items there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = Item<'a>> {
        ItemWalk(self.bytes)
    }

    /// The entries as they travel.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Appends one item to a body under construction.
    pub fn push(item: Item<'_>, body: &mut Vec<u8>) {
        assert!((1..=usize::from(u16::MAX)).contains(&item.key.len()), "a key has 1 to 65,535 bytes");
        ItemEntry {
            ttl_ms: item.ttl_ms,
            client_flags: item.client_flags,
            value_bytes: crate::frame_length(item.value.len()),
            key_bytes: item.key.len() as u16,
        }
        .put(body);
        body.extend_from_slice(item.key);
        body.extend_from_slice(item.value);
    }
}

struct ItemWalk<'a>(&'a [u8]);

impl<'a> Iterator for ItemWalk<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let (entry, rest) = ItemEntry::take(self.0)?;
        let (key, rest) = rest.split_at_checked(usize::from(entry.key_bytes))?;
        let (value, rest) = rest.split_at_checked(entry.value_bytes as usize)?;
        self.0 = rest;
        Some(Item { key, value, ttl_ms: entry.ttl_ms, client_flags: entry.client_flags })
    }
}

/// One result of a multi operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiResult<'a> {
    /// How this key's part ended.
    pub status: Status,
    /// The item's version.
    pub version: Version,
    /// The client's flags, kept with the item.
    pub client_flags: u32,
    /// With `Overloaded`: milliseconds to wait before trying again.
    pub retry_after_ms: u16,
    /// What it says may be stale, or not be committed yet.
    pub is_stale: bool,
    /// The value of a hit.
    pub value: &'a [u8],
}

impl<'a> MultiResult<'a> {
    /// Appends the result to a reply's body.
    pub fn push(&self, body: &mut Vec<u8>) {
        ResultEntry {
            version: self.version.as_u64(),
            client_flags: self.client_flags,
            value_bytes: crate::frame_length(self.value.len()),
            status: self.status.code(),
            flags: if self.is_stale { ReplyHeader::STALE } else { 0 },
            retry_after_ms: self.retry_after_ms,
        }
        .put(body);
        body.extend_from_slice(self.value);
    }

    /// Reads the result at the front of a reply's body and returns it with what follows; `None` when it is not right.
    pub fn take(body: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (entry, rest) = ResultEntry::take(body)?;
        let (value, rest) = rest.split_at_checked(entry.value_bytes as usize)?;
        let result = Self {
            status: Status::from_code(entry.status)?,
            version: Version::from_u64(entry.version),
            client_flags: entry.client_flags,
            retry_after_ms: entry.retry_after_ms,
            is_stale: entry.flags & ReplyHeader::STALE != 0,
            value,
        };
        Some((result, rest))
    }
}
