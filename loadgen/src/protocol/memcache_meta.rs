//! Memcached's meta commands (doc/protocol.txt of memcached 1.6).
//!
//! ```text
//! mg <key> v\r\n                        → VA <bytes>\r\n<data>\r\n | EN\r\n
//! mg <key> v q\r\n … mn\r\n             → the hits alone, then MN\r\n
//! ms <key> <bytes> T<secs> F<flags>\r\n<data>\r\n → HD\r\n
//! md <key>\r\n                          → HD\r\n | NF\r\n
//! ma <key> v N0 J1\r\n                  → VA <bytes>\r\n<number>\r\n
//! ```

use super::memcache::{expiry_secs, refusal};
use super::{Outcome, ProtocolError, Reply, Request, decimal, line};
use crate::work::Op;

const NAME: &str = "memcache-meta";

/// The meta commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemcacheMeta;

impl MemcacheMeta {
    #[inline]
    pub(super) fn encode(self, request: Request<'_>, out: &mut Vec<u8>) {
        match request {
            Request::Get { key } => {
                out.extend_from_slice(b"mg ");
                out.extend_from_slice(key);
                out.extend_from_slice(b" v");
            }
            Request::MultiGet { keys, key_bytes } => {
                for key in keys.chunks_exact(key_bytes) {
                    out.extend_from_slice(b"mg ");
                    out.extend_from_slice(key);
                    out.extend_from_slice(b" v q\r\n");
                }
                out.extend_from_slice(b"mn");
            }
            Request::Set { key, value, ttl_ms, client_flags } => {
                out.extend_from_slice(b"ms ");
                out.extend_from_slice(key);
                out.push(b' ');
                decimal::push(value.len() as u64, out);
                if ttl_ms != 0 {
                    out.extend_from_slice(b" T");
                    decimal::push(expiry_secs(ttl_ms), out);
                }
                if client_flags != 0 {
                    out.extend_from_slice(b" F");
                    decimal::push(u64::from(client_flags), out);
                }
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(value);
            }
            Request::Delete { key } => {
                out.extend_from_slice(b"md ");
                out.extend_from_slice(key);
            }
            Request::Increment { key } => {
                out.extend_from_slice(b"ma ");
                out.extend_from_slice(key);
                out.extend_from_slice(b" v N0 J1");
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    #[inline]
    pub(super) fn decode(self, bytes: &[u8], op: Op) -> Result<Option<Reply>, ProtocolError> {
        if op == Op::MultiGet {
            return decode_many(bytes);
        }
        let Some(text) = line(NAME, bytes)? else { return Ok(None) };
        let head_bytes = text.len() + 2;
        let wrong = || ProtocolError::not_a_reply(NAME, bytes);
        let outcome = match (op, text) {
            (Op::Get, b"EN") | (Op::Delete | Op::Increment, b"NF") => Outcome::Miss,
            (Op::Set, b"HD") => Outcome::Stored,
            (Op::Delete, b"HD") => Outcome::Deleted,
            (Op::Get, _) if text.starts_with(b"VA ") => {
                let value_bytes = value_bytes(text).ok_or_else(wrong)?;
                let value = head_bytes..head_bytes + value_bytes;
                return Ok(Some(Reply { slot: 0, frame_bytes: value.end + 2, value, outcome: Outcome::Hit }));
            }
            (Op::Increment, _) if text.starts_with(b"VA ") => {
                let value_bytes = value_bytes(text).ok_or_else(wrong)?;
                let Some(rest) = bytes.get(head_bytes..head_bytes + value_bytes + 2) else { return Ok(None) };
                let number = decimal::parse_signed(&rest[..value_bytes]).ok_or_else(wrong)?;
                return Ok(Some(Reply::bare(head_bytes + value_bytes + 2, Outcome::Counted(number))));
            }
            _ => {
                let refusal = refusal(text).ok_or_else(wrong)?;
                let value = 0..text.len();
                return Ok(Some(Reply { slot: 0, frame_bytes: head_bytes, value, outcome: Outcome::Refused(refusal) }));
            }
        };
        Ok(Some(Reply::bare(head_bytes, outcome)))
    }
}

/// Walks quiet hits until MN.
fn decode_many(bytes: &[u8]) -> Result<Option<Reply>, ProtocolError> {
    let (mut offset, mut hits) = (0, 0);
    loop {
        let Some(text) = line(NAME, bytes.get(offset..).unwrap_or_default())? else { return Ok(None) };
        offset += text.len() + 2;
        if text == b"MN" {
            return Ok(Some(Reply::bare(offset, Outcome::Many { hits })));
        }
        let value_bytes = value_bytes(text).ok_or_else(|| ProtocolError::not_a_reply(NAME, text))?;
        offset += value_bytes + 2;
        hits += 1;
        if offset > bytes.len() {
            return Ok(None);
        }
    }
}

/// The length in `VA <bytes> <flags>*`.
#[inline]
fn value_bytes(head: &[u8]) -> Option<usize> {
    let length = head.strip_prefix(b"VA ")?.split(|&byte| byte == b' ').next()?;
    decimal::parse_length(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(request: Request<'_>) -> String {
        let mut out = Vec::new();
        MemcacheMeta.encode(request, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn requests_are_those_of_the_protocol() {
        assert_eq!(encoded(Request::Get { key: b"k1" }), "mg k1 v\r\n");
        assert_eq!(encoded(Request::MultiGet { keys: b"k1k2", key_bytes: 2 }), "mg k1 v q\r\nmg k2 v q\r\nmn\r\n");
        let set = |ttl_ms, client_flags| encoded(Request::Set { key: b"k1", value: b"abc", ttl_ms, client_flags });
        assert_eq!(set(0, 0), "ms k1 3\r\nabc\r\n");
        assert_eq!(set(9000, 0), "ms k1 3 T9\r\nabc\r\n");
        assert_eq!(set(9000, 7), "ms k1 3 T9 F7\r\nabc\r\n");
        assert_eq!(encoded(Request::Delete { key: b"k1" }), "md k1\r\n");
        assert_eq!(encoded(Request::Increment { key: b"k1" }), "ma k1 v N0 J1\r\n");
    }

    #[test]
    fn replies_are_read() {
        for (op, text, frame_bytes, outcome) in [
            (Op::Get, "VA 3\r\n", 11, Outcome::Hit),
            (Op::Get, "EN\r\n", 4, Outcome::Miss),
            (Op::Set, "HD\r\n", 4, Outcome::Stored),
            (Op::Delete, "HD\r\n", 4, Outcome::Deleted),
            (Op::Delete, "NF\r\n", 4, Outcome::Miss),
            (Op::Increment, "VA 2\r\n42\r\n", 10, Outcome::Counted(42)),
        ] {
            let reply = MemcacheMeta.decode(text.as_bytes(), op).expect("valid").expect("known");
            assert_eq!((reply.frame_bytes, reply.outcome), (frame_bytes, outcome), "{text}");
            assert_eq!(MemcacheMeta.decode(&text.as_bytes()[..text.len() - 1], op), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_multi_get_ends_with_mn() {
        let whole = b"VA 1\r\nx\r\nVA 4\r\nMN\r\n\r\nMN\r\n";
        for end in 0..whole.len() {
            assert_eq!(MemcacheMeta.decode(&whole[..end], Op::MultiGet), Ok(None), "{end}");
        }
        let reply = MemcacheMeta.decode(whole, Op::MultiGet).expect("valid").expect("whole");
        assert_eq!((reply.frame_bytes, reply.outcome), (whole.len(), Outcome::Many { hits: 2 }));
    }
}
