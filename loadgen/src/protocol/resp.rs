//! RESP 2, the protocol of Redis, Valkey, KeyDB, Dragonfly and others.
//!
//! ```text
//! *2\r\n$3\r\nGET\r\n$<n>\r\n<key>\r\n   → $<n>\r\n<data>\r\n | $-1\r\n
//! SET key value [PX ms]                 → +OK\r\n
//! DEL key · INCRBY key 1                → :<number>\r\n
//! MGET key…                             → *<n>\r\n, then a bulk string or null each
//! ```

use super::{Outcome, ProtocolError, Refusal, Reply, Request, decimal, line};
use crate::work::Op;

const NAME: &str = "resp";

/// RESP 2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resp;

impl Resp {
    #[inline]
    pub(super) fn encode(self, request: Request<'_>, out: &mut Vec<u8>) {
        match request {
            Request::Get { key } => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                bulk(key, out);
            }
            Request::MultiGet { keys, key_bytes } => {
                out.push(b'*');
                decimal::push((keys.len() / key_bytes + 1) as u64, out);
                out.extend_from_slice(b"\r\n$4\r\nMGET\r\n");
                for key in keys.chunks_exact(key_bytes) {
                    bulk(key, out);
                }
            }
            Request::Set { key, value, ttl_ms: 0, .. } => {
                out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
                bulk(key, out);
                bulk(value, out);
            }
            Request::Set { key, value, ttl_ms, .. } => {
                out.extend_from_slice(b"*5\r\n$3\r\nSET\r\n");
                bulk(key, out);
                bulk(value, out);
                out.extend_from_slice(b"$2\r\nPX\r\n$");
                decimal::push(u64::from(ttl_ms.ilog10()) + 1, out);
                out.extend_from_slice(b"\r\n");
                decimal::push(ttl_ms, out);
                out.extend_from_slice(b"\r\n");
            }
            Request::Delete { key } => {
                out.extend_from_slice(b"*2\r\n$3\r\nDEL\r\n");
                bulk(key, out);
            }
            Request::Increment { key } => {
                out.extend_from_slice(b"*3\r\n$6\r\nINCRBY\r\n");
                bulk(key, out);
                out.extend_from_slice(b"$1\r\n1\r\n");
            }
        }
    }

    #[inline]
    pub(super) fn decode(self, bytes: &[u8], op: Op) -> Result<Option<Reply>, ProtocolError> {
        if op == Op::MultiGet && bytes.first() == Some(&b'*') {
            return decode_array(bytes);
        }
        let Some(text) = line(NAME, bytes)? else { return Ok(None) };
        let head_bytes = text.len() + 2;
        let wrong = || ProtocolError::not_a_reply(NAME, bytes);
        let outcome = match (op, text.first()) {
            (Op::Get, Some(b'$')) if text == b"$-1" => Outcome::Miss,
            (Op::Get, Some(b'$')) => {
                let value_bytes = decimal::parse_length(&text[1..]).ok_or_else(wrong)?;
                let value = head_bytes..head_bytes + value_bytes;
                return Ok(Some(Reply { slot: 0, frame_bytes: value.end + 2, value, outcome: Outcome::Hit }));
            }
            (Op::Set, Some(b'+')) => Outcome::Stored,
            (Op::Delete, _) if text == b":0" => Outcome::Miss,
            (Op::Delete, Some(b':')) => Outcome::Deleted,
            (Op::Increment, Some(b':')) => Outcome::Counted(decimal::parse_signed(&text[1..]).ok_or_else(wrong)?),
            (_, Some(b'-')) => {
                let refusal = if text.starts_with(b"-OOM") { Refusal::NoSpace } else { Refusal::Other };
                let value = 1..text.len();
                return Ok(Some(Reply { slot: 0, frame_bytes: head_bytes, value, outcome: Outcome::Refused(refusal) }));
            }
            _ => return Err(wrong()),
        };
        Ok(Some(Reply::bare(head_bytes, outcome)))
    }
}

/// Walks the values of an MGET; `None` until the last has arrived.
fn decode_array(bytes: &[u8]) -> Result<Option<Reply>, ProtocolError> {
    let wrong = || ProtocolError::not_a_reply(NAME, bytes);
    let Some(head) = line(NAME, bytes)? else { return Ok(None) };
    let count = decimal::parse(&head[1..]).ok_or_else(wrong)?;
    let (mut offset, mut hits) = (head.len() + 2, 0);
    for _ in 0..count {
        let Some(text) = line(NAME, bytes.get(offset..).unwrap_or_default())? else { return Ok(None) };
        offset += text.len() + 2;
        if text != b"$-1" {
            let length = text.strip_prefix(b"$").and_then(decimal::parse_length).ok_or_else(wrong)?;
            offset += length + 2;
            hits += 1;
        }
    }
    Ok((offset <= bytes.len()).then(|| Reply::bare(offset, Outcome::Many { hits })))
}

#[inline]
fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'$');
    decimal::push(bytes.len() as u64, out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(request: Request<'_>) -> String {
        let mut out = Vec::new();
        Resp.encode(request, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn requests_are_those_of_the_protocol() {
        assert_eq!(encoded(Request::Get { key: b"k1" }), "*2\r\n$3\r\nGET\r\n$2\r\nk1\r\n");
        assert_eq!(
            encoded(Request::MultiGet { keys: b"k1k2", key_bytes: 2 }),
            "*3\r\n$4\r\nMGET\r\n$2\r\nk1\r\n$2\r\nk2\r\n"
        );
        assert_eq!(
            encoded(Request::Set { key: b"k1", value: b"abc", ttl_ms: 0, client_flags: 0 }),
            "*3\r\n$3\r\nSET\r\n$2\r\nk1\r\n$3\r\nabc\r\n"
        );
        assert_eq!(
            encoded(Request::Set { key: b"k1", value: b"abc", ttl_ms: 1500, client_flags: 7 }),
            "*5\r\n$3\r\nSET\r\n$2\r\nk1\r\n$3\r\nabc\r\n$2\r\nPX\r\n$4\r\n1500\r\n"
        );
        assert_eq!(encoded(Request::Increment { key: b"k1" }), "*3\r\n$6\r\nINCRBY\r\n$2\r\nk1\r\n$1\r\n1\r\n");
    }

    #[test]
    fn replies_are_read() {
        for (op, text, frame_bytes, outcome) in [
            (Op::Get, "$3\r\n", 9, Outcome::Hit),
            (Op::Get, "$-1\r\n", 5, Outcome::Miss),
            (Op::Set, "+OK\r\n", 5, Outcome::Stored),
            (Op::Delete, ":1\r\n", 4, Outcome::Deleted),
            (Op::Delete, ":0\r\n", 4, Outcome::Miss),
            (Op::Increment, ":-7\r\n", 5, Outcome::Counted(-7)),
            (Op::Set, "-OOM command not allowed\r\n", 26, Outcome::Refused(Refusal::NoSpace)),
            (Op::MultiGet, "-ERR no\r\n", 9, Outcome::Refused(Refusal::Other)),
        ] {
            let reply = Resp.decode(text.as_bytes(), op).expect("valid").expect("known");
            assert_eq!((reply.frame_bytes, reply.outcome), (frame_bytes, outcome), "{text}");
            assert_eq!(Resp.decode(&text.as_bytes()[..text.len() - 1], op), Ok(None), "{text}");
        }
    }

    #[test]
    fn an_array_counts_its_hits_and_waits_for_its_end() {
        let whole = b"*3\r\n$1\r\nx\r\n$-1\r\n$0\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(Resp.decode(&whole[..end], Op::MultiGet), Ok(None), "{end}");
        }
        let reply = Resp.decode(whole, Op::MultiGet).expect("valid").expect("whole");
        assert_eq!((reply.frame_bytes, reply.outcome), (whole.len(), Outcome::Many { hits: 2 }));
    }

    #[test]
    fn another_protocol_is_noticed() {
        assert!(Resp.decode(b"END\r\n", Op::Get).is_err());
        assert!(Resp.decode(b"$x\r\n", Op::Get).is_err());
    }
}
