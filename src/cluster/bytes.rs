//! Reading and writing the cluster's own records and messages: little-endian numbers, texts with their length before them.
//!
//! Everything that is read comes from outside: what is missing or left over is an error, never a panic.

use quoit_wire::topology::Seat;

use super::ring::NAME_BYTES_MAX;

/// Bytes that end too early, go on too long, or are no text or truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes that mean nothing: {0}")]
pub(super) struct BytesError(pub(super) &'static str);

/// Takes fields off the front of some bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], BytesError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(BytesError("they end too early"))?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, BytesError> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, BytesError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, BytesError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, BytesError> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, BytesError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BytesError("neither true nor false")),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, BytesError> {
        let length = usize::from(self.u8()?);
        let (text, rest) = self.bytes.split_at_checked(length).ok_or(BytesError("a text ends too early"))?;
        self.bytes = rest;
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| BytesError("a text that is not UTF-8"))
    }

    pub(super) fn seat(&mut self) -> Result<Seat, BytesError> {
        Ok(Seat { node: self.u16()?, core: self.u16()? })
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), BytesError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(BytesError("they go on too long")) }
    }
}

/// Appends a text. Texts are checked before they come here: at most [`NAME_BYTES_MAX`].
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() <= NAME_BYTES_MAX, "a name of {} bytes", text.len());
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a seat.
pub(super) fn put_seat(out: &mut Vec<u8>, seat: Seat) {
    out.extend_from_slice(&seat.node.to_le_bytes());
    out.extend_from_slice(&seat.core.to_le_bytes());
}
