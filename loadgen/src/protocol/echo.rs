//! The echo's protocol: so many bytes out, so many bytes back, whatever they are.

use super::{Outcome, Reply, Request};

/// Frame sizes of an echo; by default those that the native protocol would have for the same work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo {
    /// Bytes of a request.
    pub(crate) request_bytes: usize,
    /// Bytes of a reply.
    pub(crate) reply_bytes: usize,
}

impl Echo {
    /// Writes the key, as every other protocol does, and fills up to the frame's size.
    #[inline]
    pub(super) fn encode(&self, request: Request<'_>, out: &mut Vec<u8>) {
        let key = match request {
            Request::Get { key } | Request::Set { key, .. } | Request::Delete { key } | Request::Increment { key } => {
                key
            }
            Request::MultiGet { keys, .. } => keys,
        };
        let end = out.len() + self.request_bytes;
        out.extend_from_slice(&key[..key.len().min(self.request_bytes)]);
        out.resize(end, 0);
    }

    #[inline]
    pub(super) fn decode(&self, bytes: &[u8]) -> Option<Reply> {
        (!bytes.is_empty()).then_some(Reply {
            slot: 0,
            frame_bytes: self.reply_bytes,
            value: 0..self.reply_bytes,
            outcome: Outcome::Hit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_frame_size_whatever_the_key() {
        let echo = Echo { request_bytes: 8, reply_bytes: 4 };
        let mut out = Vec::new();
        echo.encode(Request::Get { key: b"abc" }, &mut out);
        echo.encode(Request::Get { key: b"0123456789" }, &mut out);
        assert_eq!(out, b"abc\0\0\0\0\x0001234567");
    }

    #[test]
    fn a_reply_is_known_by_its_first_byte() {
        let echo = Echo { request_bytes: 8, reply_bytes: 1 << 20 };
        assert_eq!(echo.decode(b""), None);
        assert_eq!(echo.decode(b"e").map(|reply| reply.frame_bytes), Some(1 << 20));
    }
}
