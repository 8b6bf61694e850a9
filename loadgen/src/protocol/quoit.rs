//! Quoit's own protocol, by the crate that server and client use (protocol/README.md is the specification).
//!
//! A request's id is its slot and one: replies may come in any order. No request carries a retry token: a lost reply is
//! an error here, not something to repeat.

use quoit_wire::limits::BODY_BYTES_MAX;
use quoit_wire::{
    IncrementParameters, Keys, MultiResult, ReplyHeader, RequestBody, RequestFlags, RequestOptions, SetCondition,
    SetParameters, Status, WriteMode,
};

use super::{Outcome, ProtocolError, Refusal, Reply, Request};
use crate::engine::InFlight;
use crate::work::Op;

const NAME: &str = "quoit";

/// The native protocol.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quoit {
    /// The epoch of the topology that requests were routed by.
    epoch: u32,
    /// What writes say of the copies they wait for.
    write_flags: RequestFlags,
    /// The entries of a multi-get under construction.
    entries: Vec<u8>,
}

impl Quoit {
    /// For requests routed by the topology of this `epoch`, and writes of this mode.
    pub(crate) fn new(epoch: u32, mode: WriteMode) -> Self {
        Self { epoch, write_flags: RequestFlags::default().with_write_mode(mode), entries: Vec::new() }
    }

    #[inline]
    pub(super) fn encode(&mut self, slot: u32, request: Request<'_>, out: &mut Vec<u8>) {
        let body = match request {
            Request::Get { key } => RequestBody::Get { key },
            Request::Set { key, value, ttl_ms, client_flags } => RequestBody::Set {
                key,
                parameters: SetParameters { ttl_ms, client_flags, ..SetParameters::default() },
                condition: SetCondition::Always,
                value,
            },
            Request::Delete { key } => RequestBody::Delete { key },
            Request::Increment { key } => RequestBody::Increment {
                key,
                parameters: IncrementParameters { delta: 1, initial: 1, ttl_ms: 0, create: 1 },
            },
            Request::MultiGet { keys, key_bytes } => {
                self.entries.clear();
                keys.chunks_exact(key_bytes).for_each(|key| Keys::push(key, &mut self.entries));
                match Keys::parse(keys.len() / key_bytes, &self.entries) {
                    Some(keys) => RequestBody::MultiGet(keys),
                    None => unreachable!("the entries were just written"),
                }
            }
        };
        let flags = if body.operation().is_write() { self.write_flags } else { RequestFlags::default() };
        body.encode(slot + 1, RequestOptions { epoch: self.epoch, flags, ..RequestOptions::default() }, out);
    }

    #[inline]
    pub(super) fn decode(&self, bytes: &[u8], in_flight: &InFlight) -> Result<Option<Reply>, ProtocolError> {
        let wrong = || ProtocolError::not_a_reply(NAME, bytes);
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let frame_bytes = u32::from_le_bytes(*length) as usize + 4;
        if !(ReplyHeader::FRAME_BYTES..=ReplyHeader::FRAME_BYTES + BODY_BYTES_MAX).contains(&frame_bytes) {
            return Err(wrong());
        }
        let Some((header, value)) = ReplyHeader::take(rest) else { return Ok(None) };
        let status = Status::from_code(header.status).ok_or_else(wrong)?;
        // We have announced no feature, so the server has no news for us: id 0 answers nobody either.
        let slot = header.id.wrapping_sub(1);
        let op = in_flight.at(slot).ok_or(ProtocolError::Unasked(header.id))?.ask.op;
        let value_range = ReplyHeader::FRAME_BYTES..frame_bytes;
        let outcome = match (op, status) {
            (Op::Get, Status::Ok) => Outcome::Hit,
            (Op::Get | Op::Delete | Op::Increment, Status::Miss) => Outcome::Miss,
            (Op::Set, Status::Ok) => Outcome::Stored,
            (Op::Delete, Status::Ok) => Outcome::Deleted,
            (Op::Increment, Status::Ok) => {
                if bytes.len() < frame_bytes {
                    return Ok(None);
                }
                let number = value.first_chunk::<8>().ok_or_else(wrong)?;
                Outcome::Counted(i64::from_le_bytes(*number))
            }
            (Op::MultiGet, Status::Ok) => {
                let Some(results) = value.get(..value_range.len()) else { return Ok(None) };
                Outcome::Many { hits: count_hits(results).ok_or_else(wrong)? }
            }
            (_, Status::TooLarge) => Outcome::Refused(Refusal::TooLarge),
            (_, Status::NoSpace) => Outcome::Refused(Refusal::NoSpace),
            (_, Status::Overloaded) => Outcome::Refused(Refusal::Overloaded),
            (_, Status::Moved) => Outcome::Refused(Refusal::Moved),
            (_, status) if status.is_error() => Outcome::Refused(Refusal::Other),
            _ => return Err(wrong()),
        };
        Ok(Some(Reply { slot, frame_bytes, value: value_range, outcome }))
    }
}

/// How many of a multi-get's results are hits; `None` when they don't hold together.
fn count_hits(mut results: &[u8]) -> Option<u32> {
    let mut hits = 0;
    while !results.is_empty() {
        let (result, rest) = MultiResult::take(results)?;
        hits += u32::from(result.status == Status::Ok);
        results = rest;
    }
    Some(hits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quoit_wire::{Request as WireRequest, Version, request_head};

    use super::*;
    use crate::engine::Waiting;
    use crate::work::Ask;

    fn in_flight(ops: &[Op]) -> InFlight {
        let mut in_flight = InFlight::new(ops.len(), false);
        for &op in ops {
            in_flight.enter(Waiting { ask: Ask::of(op, 7), intended_ns: 0 }).expect("room");
        }
        in_flight
    }

    fn encoded(request: Request<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        Quoit::new(3, WriteMode::ClusterDefault).encode(4, request, &mut out);
        out
    }

    fn reply(id: u32, status: Status, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        quoit_wire::Reply { value, ..quoit_wire::Reply::status(id, status) }.encode(&mut out);
        out
    }

    #[test]
    fn a_get_of_sixteen_bytes_is_this_frame() {
        let frame = encoded(Request::Get { key: b"0123456789abcdef" });
        assert_eq!(frame, b"\x1c\0\0\0\x05\0\0\0\x03\0\0\0\x03\0\x10\x000123456789abcdef");
    }

    #[test]
    fn a_server_reads_what_was_asked() {
        let frame = encoded(Request::Set { key: b"k", value: b"abc", ttl_ms: 250, client_flags: 9 });
        let head = request_head(&frame, 1 << 20).expect("right").expect("whole");
        let body = WireRequest::decode(head, &frame).expect("right").body;
        assert!(matches!(body, RequestBody::Set { key: b"k", value: b"abc", parameters, .. }
                if parameters.ttl_ms == 250 && parameters.client_flags == 9));
        let frame = encoded(Request::MultiGet { keys: b"aabbcc", key_bytes: 2 });
        let head = request_head(&frame, 1 << 20).expect("right").expect("whole");
        let RequestBody::MultiGet(keys) = WireRequest::decode(head, &frame).expect("right").body else {
            panic!("{head:?}")
        };
        assert_eq!(keys.iter().collect::<Vec<_>>(), [b"aa", b"bb", b"cc"]);
    }

    #[test]
    fn a_reply_finds_its_request_by_id_and_its_length_by_its_head() {
        let waiting = in_flight(&[Op::Get, Op::Set]);
        // Slots are handed out in order: id 2 is the set.
        let stored = reply(2, Status::Ok, b"");
        let decoded = Quoit::default().decode(&stored, &waiting).expect("right").expect("whole");
        assert_eq!((decoded.slot, decoded.outcome), (1, Outcome::Stored));
        let hit = reply(1, Status::Ok, &[7; 1000]);
        let decoded =
            Quoit::default().decode(&hit[..ReplyHeader::FRAME_BYTES], &waiting).expect("right").expect("known");
        assert_eq!((decoded.frame_bytes, decoded.value.len(), decoded.outcome), (hit.len(), 1000, Outcome::Hit));
        assert_eq!(Quoit::default().decode(&hit[..ReplyHeader::FRAME_BYTES - 1], &waiting), Ok(None));
    }

    #[test]
    fn outcomes_and_refusals_are_told_apart() {
        for (op, status, value, outcome) in [
            (Op::Get, Status::Miss, &b""[..], Outcome::Miss),
            (Op::Delete, Status::Ok, b"", Outcome::Deleted),
            (Op::Increment, Status::Ok, &(-5i64).to_le_bytes(), Outcome::Counted(-5)),
            (Op::Set, Status::TooLarge, b"why", Outcome::Refused(Refusal::TooLarge)),
            (Op::Set, Status::NoSpace, b"", Outcome::Refused(Refusal::NoSpace)),
            (Op::Get, Status::Overloaded, b"", Outcome::Refused(Refusal::Overloaded)),
            (Op::Get, Status::ShuttingDown, b"", Outcome::Refused(Refusal::Other)),
        ] {
            let decoded = Quoit::default().decode(&reply(1, status, value), &in_flight(&[op])).expect("right");
            assert_eq!(decoded.map(|reply| reply.outcome), Some(outcome), "{op:?} {status:?}");
        }
    }

    #[test]
    fn a_multi_get_counts_its_hits() {
        let mut results = Vec::new();
        for (status, value) in [(Status::Ok, &b"xyz"[..]), (Status::Miss, b""), (Status::Ok, b"")] {
            MultiResult { status, version: Version::NONE, client_flags: 0, retry_after_ms: 0, is_stale: false, value }
                .push(&mut results);
        }
        let frame = reply(1, Status::Ok, &results);
        let waiting = in_flight(&[Op::MultiGet]);
        assert_eq!(Quoit::default().decode(&frame[..frame.len() - 1], &waiting), Ok(None));
        let decoded = Quoit::default().decode(&frame, &waiting).expect("right").expect("whole");
        assert_eq!(decoded.outcome, Outcome::Many { hits: 2 });
    }

    #[test]
    fn a_reply_to_nobody_is_noticed() {
        for id in [0, 2, u32::MAX] {
            let decoded = Quoit::default().decode(&reply(id, Status::Ok, b""), &in_flight(&[Op::Get]));
            assert_eq!(decoded, Err(ProtocolError::Unasked(id)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for op in [Op::Get, Op::Increment, Op::MultiGet] {
                let _ = Quoit::default().decode(&bytes, &in_flight(&[op]));
            }
        }

        #[test]
        fn a_mutated_reply_is_answered_without_a_panic(at in 0usize..60, byte: u8) {
            let mut results = Vec::new();
            let hit = MultiResult {
                status: Status::Ok, version: Version::NONE, client_flags: 0, retry_after_ms: 0, is_stale: false, value: b"0123456789",
            };
            hit.push(&mut results);
            let mut frame = reply(1, Status::Ok, &results);
            let at = at % frame.len();
            frame[at] = byte;
            for op in [Op::Get, Op::Increment, Op::MultiGet] {
                let _ = Quoit::default().decode(&frame, &in_flight(&[op]));
            }
        }
    }
}
