//! Memcached's text protocol (doc/protocol.txt of memcached 1.6).
//!
//! ```text
//! get <key>…\r\n                                → (VALUE <key> <flags> <bytes>\r\n<data>\r\n)… END\r\n
//! set <key> <flags> <exptime> <bytes>\r\n<data>\r\n   → STORED\r\n
//! delete <key>\r\n                              → DELETED\r\n | NOT_FOUND\r\n
//! incr <key> 1\r\n                              → <number>\r\n | NOT_FOUND\r\n
//! ```

use super::{Outcome, ProtocolError, Refusal, Reply, Request, decimal, line};
use crate::work::Op;

const NAME: &str = "memcache";
/// Seconds beyond which memcached takes an expiry for a date.
const RELATIVE_EXPIRY_SECS_MAX: u64 = 60 * 60 * 24 * 30;

/// The text protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memcache;

impl Memcache {
    #[inline]
    pub(super) fn encode(self, request: Request<'_>, out: &mut Vec<u8>) {
        match request {
            Request::Get { key } => {
                out.extend_from_slice(b"get ");
                out.extend_from_slice(key);
            }
            Request::MultiGet { keys, key_bytes } => {
                out.extend_from_slice(b"get");
                for key in keys.chunks_exact(key_bytes) {
                    out.push(b' ');
                    out.extend_from_slice(key);
                }
            }
            Request::Set { key, value, ttl_ms, client_flags } => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(key);
                out.push(b' ');
                decimal::push(u64::from(client_flags), out);
                out.push(b' ');
                decimal::push(expiry_secs(ttl_ms), out);
                out.push(b' ');
                decimal::push(value.len() as u64, out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(value);
            }
            Request::Delete { key } => {
                out.extend_from_slice(b"delete ");
                out.extend_from_slice(key);
            }
            Request::Increment { key } => {
                out.extend_from_slice(b"incr ");
                out.extend_from_slice(key);
                out.extend_from_slice(b" 1");
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    #[inline]
    pub(super) fn decode(self, bytes: &[u8], op: Op) -> Result<Option<Reply>, ProtocolError> {
        match op {
            Op::MultiGet => return decode_many(bytes),
            Op::Get if bytes.starts_with(b"VALUE ") => {
                let Some(head) = line(NAME, bytes)? else { return Ok(None) };
                let value_bytes = value_bytes(head).ok_or_else(|| ProtocolError::not_a_reply(NAME, bytes))?;
                let start = head.len() + 2;
                let frame_bytes = start + value_bytes + b"\r\nEND\r\n".len();
                let value = start..start + value_bytes;
                return Ok(Some(Reply { slot: 0, frame_bytes, value, outcome: Outcome::Hit }));
            }
            _ => {}
        }
        let Some(text) = line(NAME, bytes)? else { return Ok(None) };
        let outcome = match (op, text) {
            (Op::Get, b"END") | (Op::Delete | Op::Increment, b"NOT_FOUND") => Outcome::Miss,
            (Op::Set, b"STORED") => Outcome::Stored,
            (Op::Delete, b"DELETED") => Outcome::Deleted,
            _ => match refusal(text) {
                Some(refusal) => {
                    let value = 0..text.len();
                    return Ok(Some(Reply {
                        slot: 0,
                        frame_bytes: text.len() + 2,
                        value,
                        outcome: Outcome::Refused(refusal),
                    }));
                }
                None if op == Op::Increment => match decimal::parse(text).and_then(|number| i64::try_from(number).ok())
                {
                    Some(number) => Outcome::Counted(number),
                    None => return Err(ProtocolError::not_a_reply(NAME, bytes)),
                },
                None => return Err(ProtocolError::not_a_reply(NAME, bytes)),
            },
        };
        Ok(Some(Reply::bare(text.len() + 2, outcome)))
    }
}

/// Walks the values of a get with many keys; `None` until its END has arrived.
fn decode_many(bytes: &[u8]) -> Result<Option<Reply>, ProtocolError> {
    let (mut offset, mut hits) = (0, 0);
    loop {
        let Some(text) = line(NAME, bytes.get(offset..).unwrap_or_default())? else { return Ok(None) };
        offset += text.len() + 2;
        if text == b"END" {
            return Ok(Some(Reply::bare(offset, Outcome::Many { hits })));
        }
        if let Some(refusal) = refusal(text) {
            return Ok(Some(Reply::bare(offset, Outcome::Refused(refusal))));
        }
        let value_bytes = value_bytes(text).ok_or_else(|| ProtocolError::not_a_reply(NAME, text))?;
        offset += value_bytes + 2;
        hits += 1;
        if offset > bytes.len() {
            return Ok(None);
        }
    }
}

/// The length at the end of `VALUE <key> <flags> <bytes>`.
#[inline]
fn value_bytes(head: &[u8]) -> Option<usize> {
    let mut words = head.strip_prefix(b"VALUE ")?.rsplit(|&byte| byte == b' ');
    decimal::parse_length(words.next()?)
}

/// What a line of error says.
pub(super) fn refusal(text: &[u8]) -> Option<Refusal> {
    let is_error = text.starts_with(b"SERVER_ERROR") || text.starts_with(b"CLIENT_ERROR") || text == b"ERROR";
    let has = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    match is_error {
        false => None,
        true if has(b"too large") => Some(Refusal::TooLarge),
        true if has(b"out of memory") => Some(Refusal::NoSpace),
        true => Some(Refusal::Other),
    }
}

/// Memcached counts in seconds, and zero is for ever: rounded up.
pub(super) fn expiry_secs(ttl_ms: u64) -> u64 {
    ttl_ms.div_ceil(1000).min(RELATIVE_EXPIRY_SECS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(request: Request<'_>) -> String {
        let mut out = Vec::new();
        Memcache.encode(request, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn requests_are_those_of_the_protocol() {
        assert_eq!(encoded(Request::Get { key: b"k1" }), "get k1\r\n");
        assert_eq!(encoded(Request::MultiGet { keys: b"k1k2", key_bytes: 2 }), "get k1 k2\r\n");
        let set = Request::Set { key: b"k1", value: b"abc", ttl_ms: 1500, client_flags: 7 };
        assert_eq!(encoded(set), "set k1 7 2 3\r\nabc\r\n");
        assert_eq!(encoded(Request::Delete { key: b"k1" }), "delete k1\r\n");
        assert_eq!(encoded(Request::Increment { key: b"k1" }), "incr k1 1\r\n");
    }

    #[test]
    fn a_hit_is_known_by_its_head() {
        let whole = b"VALUE k1 0 3\r\nabc\r\nEND\r\n";
        let reply = Memcache.decode(&whole[..14], Op::Get).expect("valid").expect("the head is there");
        assert_eq!((reply.frame_bytes, reply.value, reply.outcome), (whole.len(), 14..17, Outcome::Hit));
        assert_eq!(Memcache.decode(&whole[..13], Op::Get), Ok(None));
    }

    #[test]
    fn short_replies_are_read() {
        for (op, text, outcome) in [
            (Op::Get, "END\r\n", Outcome::Miss),
            (Op::Set, "STORED\r\n", Outcome::Stored),
            (Op::Delete, "DELETED\r\n", Outcome::Deleted),
            (Op::Delete, "NOT_FOUND\r\n", Outcome::Miss),
            (Op::Increment, "42\r\n", Outcome::Counted(42)),
            (Op::Set, "SERVER_ERROR object too large for cache\r\n", Outcome::Refused(Refusal::TooLarge)),
            (Op::Set, "SERVER_ERROR out of memory storing object\r\n", Outcome::Refused(Refusal::NoSpace)),
        ] {
            let reply = Memcache.decode(text.as_bytes(), op).expect("valid").expect("whole");
            assert_eq!((reply.frame_bytes, reply.outcome), (text.len(), outcome), "{text}");
            assert_eq!(Memcache.decode(&text.as_bytes()[..text.len() - 1], op), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_multi_get_counts_its_hits_and_waits_for_the_end() {
        let whole = b"VALUE a 0 1\r\nx\r\nVALUE c 0 2\r\nyz\r\nEND\r\n";
        for end in 0..whole.len() {
            assert_eq!(Memcache.decode(&whole[..end], Op::MultiGet), Ok(None), "{end}");
        }
        let reply = Memcache.decode(whole, Op::MultiGet).expect("valid").expect("whole");
        assert_eq!((reply.frame_bytes, reply.outcome), (whole.len(), Outcome::Many { hits: 2 }));
    }

    #[test]
    fn another_protocol_is_noticed() {
        assert!(Memcache.decode(b"+OK\r\n", Op::Set).is_err());
        assert!(Memcache.decode(&[0; LINE_TOO_LONG], Op::Get).is_err());
    }

    const LINE_TOO_LONG: usize = super::super::LINE_BYTES_MAX + 1;
}
