//! Replies: their encoding for a server, their decoding for a client.

use crate::header::ReplyHeader;
use crate::limits::BODY_BYTES_MAX;
use crate::operation::Status;
use crate::version::Version;

/// A whole reply, borrowed from the bytes it arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The request's id; zero for news from the server.
    pub id: u32,
    /// How the request ended.
    pub status: Status,
    /// The item's version; an epoch with `Moved` and `TopologyChanged`.
    pub version: Version,
    /// The client's flags, kept with the item.
    pub client_flags: u32,
    /// With `Overloaded`: milliseconds to wait before trying again.
    pub retry_after_ms: u16,
    /// What it says may be stale, or not be committed yet.
    pub is_stale: bool,
    /// The value, a structured body, or (with an error) a message for a person.
    pub value: &'a [u8],
}

/// A reply that no server of this protocol sends. The connection can't be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The frame's length is below a header or above any body.
    #[error("a reply of {0} bytes: not this protocol")]
    Length(usize),
    /// The status is none of ours.
    #[error("a reply with status {0}: not this protocol, or a newer one")]
    Status(u8),
}

impl<'a> Reply<'a> {
    /// Decodes the reply at the front of `bytes` and returns it with the frame's length; `Ok(None)` when it is not whole.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, ReplyError> {
        let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
        let frame_bytes = u32::from_le_bytes(*length) as usize + 4;
        if !(ReplyHeader::FRAME_BYTES..=BODY_BYTES_MAX + ReplyHeader::FRAME_BYTES).contains(&frame_bytes) {
            return Err(ReplyError::Length(frame_bytes));
        }
        let Some(frame) = bytes.get(..frame_bytes) else { return Ok(None) };
        let Some((header, value)) = ReplyHeader::take(&frame[4..]) else {
            return Err(ReplyError::Length(frame_bytes));
        };
        let status = Status::from_code(header.status).ok_or(ReplyError::Status(header.status))?;
        let reply = Self {
            id: header.id,
            status,
            version: Version::from_u64(header.version),
            client_flags: header.client_flags,
            retry_after_ms: header.retry_after_ms,
            is_stale: header.flags & ReplyHeader::STALE != 0,
            value,
        };
        Ok(Some((reply, frame_bytes)))
    }

    /// Appends the reply as one frame to `out`.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(self.value.len(), out);
        out.extend_from_slice(self.value);
    }

    /// Appends all but the value, for a value of `value_bytes` that the caller sends behind it from where it lies.
    #[inline]
    pub fn encode_head(&self, value_bytes: usize, out: &mut Vec<u8>) {
        let header = ReplyHeader {
            id: self.id,
            status: self.status.code(),
            flags: if self.is_stale { ReplyHeader::STALE } else { 0 },
            retry_after_ms: self.retry_after_ms,
            version: self.version.as_u64(),
            client_flags: self.client_flags,
        };
        // Put together first and appended at once: one look at the buffer's room for both.
        let mut head = [0; ReplyHeader::FRAME_BYTES];
        head[..4].copy_from_slice(&crate::frame_length(ReplyHeader::BYTES + value_bytes).to_le_bytes());
        head[4..].copy_from_slice(&header.to_bytes());
        out.extend_from_slice(&head);
    }

    /// A reply of a status alone.
    #[inline]
    pub const fn status(id: u32, status: Status) -> Self {
        Self { id, status, version: Version::NONE, client_flags: 0, retry_after_ms: 0, is_stale: false, value: &[] }
    }
}
