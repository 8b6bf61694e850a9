//! What a read gives: the item's metadata and its value where it lies.

use quoit_wire::Version;

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
    /// on pinned memory is reached.
    pub fn pin(&self) -> Option<Pin> {
        None
    }
}

/// A value where it lies in the arena: one slice for most, several for large ones.
#[derive(Clone)]
pub struct Value<'a> {
    bytes: &'a [u8],
}

impl<'a> Value<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The whole value, when it lies in one piece.
    pub fn as_slice(&self) -> Option<&'a [u8]> {
        Some(self.bytes)
    }

    /// The pieces of the value in order; none is empty.
    pub fn slices(&self) -> Slices<'a> {
        Slices { bytes: self.bytes }
    }

    /// Appends the value to `out`.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        for slice in self.slices() {
            out.extend_from_slice(slice);
        }
    }
}

/// The pieces of a [`Value`].
#[derive(Clone)]
pub struct Slices<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let bytes = std::mem::take(&mut self.bytes);
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// The right to read a value's bytes until the store gets it back; see [`Hit::pin`].
#[must_use = "memory stays pinned until Store::unpin"]
#[derive(Debug)]
pub struct Pin {
    pub(super) never: std::convert::Infallible,
}

/// Space for a value that is still arriving. Give it back through `publish` or `abandon`.
#[must_use = "space stays reserved until Store::publish or Store::abandon"]
#[derive(Debug)]
pub struct Reservation {
    pub(super) hash: u64,
    pub(super) key: Box<[u8]>,
    pub(super) value: Vec<u8>,
    pub(super) filled: usize,
}

impl Reservation {
    /// Bytes of the value that have not arrived.
    pub fn missing_bytes(&self) -> usize {
        self.value.len() - self.filled
    }

    /// The key it will be stored under.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}
