//! Bytes from outside: random, mutated and cut ones, into everything that decodes.
//!
//! Nothing may panic, read past a frame, or take a cut frame for another one; and what is encoded comes back exactly.
//! Each run draws a new seed and prints it; `QUOIT_SEED=<seed>` runs it again.

#![expect(clippy::unwrap_used, reason = "what can't be made fails its test")]

mod seeded;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use quoit_wire::changes::{ChangesError, TopologyChanges};
use quoit_wire::stats::{CoreStats, Stats};
use quoit_wire::topology::{Node, Seat, Topology, TopologyError};
use quoit_wire::*;

/// Cases of each property: some 3 s in all.
const CASES: u32 = 20_000;

fn check<S: Strategy>(strategy: S, property: impl Fn(S::Value) -> TestCaseResult) {
    seeded::check(CASES, strategy, property);
}

/// A request as owned values; `encode` makes its frame.
#[derive(Clone, Debug)]
struct Sample {
    operation: Operation,
    id: u32,
    epoch: u32,
    key: Vec<u8>,
    value: Vec<u8>,
    numbers: [u64; 3],
    /// Wishes for flags; those that the operation does not have are dropped.
    flags: u8,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

fn sample() -> impl Strategy<Value = Sample> {
    let entries = vec((vec(any::<u8>(), 1..20), vec(any::<u8>(), 0..20)), 0..6);
    let key = prop_oneof![8 => vec(any::<u8>(), 1..40), 1 => vec(any::<u8>(), 60_000..65_536)];
    let frame = (proptest::sample::select(Operation::ALL), 1..u32::MAX, any::<u32>(), key, vec(any::<u8>(), 0..200));
    (frame, any::<[u64; 3]>(), any::<u8>(), entries).prop_map(
        |((operation, id, epoch, key, value), numbers, flags, entries)| Sample {
            operation,
            id,
            epoch,
            key,
            value,
            numbers,
            flags,
            entries,
        },
    )
}

impl Sample {
    fn options(&self) -> RequestOptions {
        let allowed = RequestFlags::allowed(self.operation);
        let wishes = RequestFlags::from_bits(self.flags & 0x7d & allowed.bits()).unwrap_or_default();
        let has = |flag: RequestFlags| allowed.has(flag) && self.flags & flag.bits() != 0;
        let retry = has(RequestFlags::RETRY_TOKEN)
            .then_some(RetryToken { session: self.numbers[0], number: self.numbers[1] as u32 });
        let trace = has(RequestFlags::TRACE).then_some(TraceContext {
            trace_id: [self.flags; 16],
            span_id: self.numbers[2].to_le_bytes(),
            trace_flags: 1,
        });
        let flags =
            if retry.is_some() && has(RequestFlags::REPEAT) { wishes.with(RequestFlags::REPEAT) } else { wishes };
        RequestOptions { epoch: self.epoch, flags, trace, retry }
    }

    /// The request's body, borrowing multi entries from `entries`.
    fn body<'a>(&'a self, entries: &'a mut Vec<u8>) -> RequestBody<'a> {
        let (key, value, [first, second, third]) = (&self.key[..], &self.value[..], self.numbers);
        match self.operation {
            Operation::Hello => RequestBody::Hello {
                parameters: HelloParameters {
                    magic: HelloParameters::MAGIC,
                    version_min: (first as u16).min(second as u16),
                    version_max: (first as u16).max(second as u16),
                    features: third,
                    core: first as u16,
                    security: second as u16,
                },
                credentials: value,
            },
            Operation::Ping => RequestBody::Ping { payload: value },
            Operation::Get => RequestBody::Get { key },
            Operation::Set => {
                let condition = SetCondition::from_code((first % 4) as u8).unwrap();
                let if_version = if condition == SetCondition::IfVersion { third } else { 0 };
                let parameters = SetParameters {
                    ttl_ms: second,
                    if_version,
                    client_flags: first as u32,
                    condition: condition as u8,
                    options: (second % 2) as u8,
                };
                RequestBody::Set { key, parameters, condition, value }
            }
            Operation::Delete => RequestBody::Delete { key },
            Operation::Touch => RequestBody::Touch { key, ttl_ms: first },
            Operation::GetAndTouch => RequestBody::GetAndTouch { key, ttl_ms: first },
            Operation::Increment => {
                let create = (first % 2) as u8;
                let (delta, initial) = (second as i64, third as i64);
                RequestBody::Increment {
                    key,
                    parameters: IncrementParameters { delta, initial, ttl_ms: first, create },
                }
            }
            Operation::Append => RequestBody::Append { key, value },
            Operation::Prepend => RequestBody::Prepend { key, value },
            Operation::MultiGet => {
                self.entries.iter().for_each(|(key, _)| Keys::push(key, entries));
                RequestBody::MultiGet(Keys::parse(self.entries.len(), entries).unwrap())
            }
            Operation::MultiSet => {
                for (key, value) in &self.entries {
                    Items::push(Item { key, value, ttl_ms: first, client_flags: second as u32 }, entries);
                }
                RequestBody::MultiSet(Items::parse(self.entries.len(), entries).unwrap())
            }
            Operation::Flush => RequestBody::Flush,
            Operation::Stats => RequestBody::Stats,
            Operation::Topology => RequestBody::Topology { known_epoch: first as u32 },
            Operation::TopologyChanges => RequestBody::TopologyChanges { known_epoch: first as u32 },
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (mut entries, mut frame) = (Vec::new(), Vec::new());
        self.body(&mut entries).encode(self.id, self.options(), &mut frame);
        frame
    }
}

/// Decodes one request as a server does: the head, then the rest when it has arrived. `None` while bytes are missing.
fn decode(bytes: &[u8]) -> Result<Option<Request<'_>>, Refusal> {
    let Some(head) = request_head(bytes, 1 << 20)? else { return Ok(None) };
    if bytes.len() < head.frame_bytes { Ok(None) } else { Request::decode(head, bytes).map(Some) }
}

/// What must hold of any request that a decoder lets through.
fn holds_together(request: &Request<'_>, bytes: &[u8]) -> TestCaseResult {
    let frame = bytes[..request.head.frame_bytes].as_ptr_range();
    let inside = |piece: &[u8]| {
        let piece = piece.as_ptr_range();
        frame.start <= piece.start && piece.end <= frame.end
    };
    prop_assert!(request.body.key().is_none_or(|key| !key.is_empty() && inside(key)));
    match request.body {
        RequestBody::MultiGet(keys) => {
            prop_assert_eq!(keys.iter().count(), keys.len());
            prop_assert!(keys.iter().all(|key| !key.is_empty() && inside(key)));
        }
        RequestBody::MultiSet(items) => {
            prop_assert_eq!(items.iter().count(), items.len());
            prop_assert!(items.iter().all(|item| !item.key.is_empty() && inside(item.key) && inside(item.value)));
        }
        RequestBody::Set { value, .. } | RequestBody::Append { value, .. } | RequestBody::Prepend { value, .. } => {
            prop_assert!(inside(value));
        }
        _ => {}
    }
    // The one encoder makes the same frame of it again: there are no two ways to say a thing.
    let options = RequestOptions {
        epoch: request.head.epoch,
        flags: request.head.flags,
        trace: request.trace,
        retry: request.retry,
    };
    let mut again = Vec::new();
    request.body.encode(request.head.id, options, &mut again);
    prop_assert_eq!(&again[..], &bytes[..request.head.frame_bytes]);
    Ok(())
}

#[test]
fn a_request_comes_back_as_it_was_encoded() {
    check((sample(), vec(any::<u8>(), 0..40)), |(sample, following)| {
        let mut bytes = sample.encode();
        let frame_bytes = bytes.len();
        bytes.extend(following);
        let request = decode(&bytes).expect("is taken").expect("is whole");
        let (mut entries, options) = (Vec::new(), sample.options());
        prop_assert_eq!(request.body, sample.body(&mut entries));
        prop_assert_eq!((request.head.id, request.head.epoch), (sample.id, sample.epoch));
        prop_assert_eq!((request.trace, request.retry), (options.trace, options.retry));
        prop_assert_eq!(request.head.frame_bytes, frame_bytes);
        holds_together(&request, &bytes)
    });
}

#[test]
fn random_bytes_are_refused_or_hold_together() {
    // Lengths that fit more often than chance would have it, so that the bytes behind them are looked at.
    check((0..80u32, vec(any::<u8>(), 0..80)), |(length, mut bytes)| {
        if let Some(field) = bytes.first_chunk_mut::<4>() {
            *field = length.to_le_bytes();
        }
        match decode(&bytes) {
            Ok(Some(request)) => holds_together(&request, &bytes),
            Ok(None) | Err(_) => Ok(()),
        }
    });
}

#[test]
fn mutated_requests_are_refused_or_hold_together() {
    check((sample(), vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6)), |(sample, mutations)| {
        let mut bytes = sample.encode();
        for (place, byte) in mutations {
            // Two in three hit the header and the parameters, where the meaning is.
            let range = if byte % 3 == 0 { bytes.len() } else { bytes.len().min(64) };
            bytes[place.index(range)] = byte;
        }
        match decode(&bytes) {
            Ok(Some(request)) => holds_together(&request, &bytes),
            Ok(None) => Ok(()),
            Err(refusal) => {
                prop_assert!(refusal.frame_bytes.is_none() || refusal.id.is_some_and(|id| id != 0));
                prop_assert!(refusal.status.is_error());
                Ok(())
            }
        }
    });
}

#[test]
fn a_cut_request_is_waited_for_and_never_another_one() {
    check((sample(), any::<proptest::sample::Index>()), |(sample, cut)| {
        let bytes = sample.encode();
        let cut = &bytes[..cut.index(bytes.len())];
        let head = request_head(cut, 1 << 20).expect("a right head is never refused for what is missing");
        prop_assert_eq!(head.is_some(), cut.len() >= RequestHeader::FRAME_BYTES);
        let Some(head) = head else { return Ok(()) };
        prop_assert_eq!(Some(head), request_head(&bytes, 1 << 20).unwrap());
        prop_assert_eq!(decode(cut), Ok(None));
        // A large value may be received elsewhere: then the rest of the request is what it will be.
        let large = matches!(head.operation, Operation::Set | Operation::Append | Operation::Prepend);
        if large && cut.len() >= head.payload_offset() {
            let (early, whole) = (Request::decode(head, cut).unwrap(), decode(&bytes).unwrap().unwrap());
            prop_assert_eq!((early.head, early.trace, early.retry), (whole.head, whole.trace, whole.retry));
            prop_assert_eq!(early.body.key(), whole.body.key());
            prop_assert_eq!(head.payload_bytes(), sample.value.len());
        }
        Ok(())
    });
}

#[test]
#[should_panic(expected = "a frame is decoded when it is there")]
fn decoding_a_frame_that_is_not_there_is_a_programmer_error() {
    let mut bytes = Vec::new();
    RequestBody::Ping { payload: b"12345" }.encode(1, RequestOptions::default(), &mut bytes);
    let head = request_head(&bytes, 1 << 20).unwrap().unwrap();
    let _ = Request::decode(head, &bytes[..bytes.len() - 1]);
}

fn reply_parts() -> impl Strategy<Value = (u32, Status, u64, u32, u16, bool, Vec<u8>)> {
    let status = proptest::sample::select(Status::ALL);
    (any::<u32>(), status, any::<u64>(), any::<u32>(), any::<u16>(), any::<bool>(), vec(any::<u8>(), 0..100))
}

#[test]
fn a_reply_comes_back_as_it_was_encoded_and_a_cut_one_is_waited_for() {
    check((reply_parts(), any::<proptest::sample::Index>()), |(parts, cut)| {
        let (id, status, version, client_flags, retry_after_ms, is_stale, value) = parts;
        let version = Version::from_u64(version);
        let reply = Reply { id, status, version, client_flags, retry_after_ms, is_stale, value: &value };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        prop_assert_eq!(bytes.len(), 24 + value.len());
        prop_assert_eq!(Reply::decode(&bytes[..cut.index(bytes.len())]), Ok(None));
        let frame_bytes = bytes.len();
        bytes.extend([0xee; 9]);
        prop_assert_eq!(Reply::decode(&bytes), Ok(Some((reply, frame_bytes))));
        let mut head = Vec::new();
        reply.encode_head(value.len(), &mut head);
        prop_assert_eq!(&head[..], &bytes[..24]);
        Ok(())
    });
}

#[test]
fn random_and_mutated_replies_never_panic() {
    check((0..80u32, vec(any::<u8>(), 0..80)), |(length, mut bytes)| {
        if let Some(field) = bytes.first_chunk_mut::<4>() {
            *field = length.to_le_bytes();
        }
        if let Ok(Some((reply, frame_bytes))) = Reply::decode(&bytes) {
            prop_assert_eq!(reply.value, &bytes[24..frame_bytes]);
        }
        Ok(())
    });
}

#[test]
fn random_entries_are_refused_or_walk_to_their_end() {
    check((0..8usize, vec(0..24u8, 0..120)), |(count, bytes)| {
        if let Some(keys) = Keys::parse(count, &bytes) {
            prop_assert_eq!(keys.iter().map(|key| key.len() + KeyEntry::BYTES).sum::<usize>(), bytes.len());
        }
        if let Some(items) = Items::parse(count, &bytes) {
            let walked = items.iter().map(|item| item.key.len() + item.value.len() + ItemEntry::BYTES).sum::<usize>();
            prop_assert_eq!(walked, bytes.len());
        }
        let mut rest = &bytes[..];
        while let Some((result, after)) = MultiResult::take(rest) {
            prop_assert_eq!(rest.len() - after.len(), ResultEntry::BYTES + result.value.len());
            rest = after;
        }
        Ok(())
    });
}

#[test]
fn more_entries_than_a_frame_may_have_are_refused() {
    let mut body = Vec::new();
    (0..=limits::MULTI_KEYS_MAX).for_each(|_| Keys::push(b"k", &mut body));
    assert_eq!(Keys::parse(limits::MULTI_KEYS_MAX + 1, &body), None);
    let one_less = &body[..body.len() - 3];
    assert_eq!(Keys::parse(limits::MULTI_KEYS_MAX, one_less).unwrap().len(), limits::MULTI_KEYS_MAX);
}

fn topology(nodes: u16) -> Topology {
    let node = |id: u16| Node {
        id: u64::from(id),
        incarnation: 1,
        name: format!("the-node-number-{id}"),
        address: format!("node-{id}.example:7400"),
        zone: "a".to_owned(),
        cores: 3,
        weight: 1,
    };
    let mut topology = Topology::standalone(node(0), 4, 99, 5);
    topology.nodes = (0..nodes).map(node).collect();
    topology
}

fn stats() -> Stats {
    let values = (0..5).map(|index| (format!("a_counter_of_some_name_{index}"), index)).collect();
    let cores = vec![CoreStats { core: 0, values }, CoreStats { core: 1, values: Vec::new() }];
    Stats { server_version: "0.1.0-long-enough".to_owned(), node: 1, uptime_ms: 2, cores }
}

#[test]
fn structured_bodies_come_back_and_mutated_or_cut_ones_are_refused_or_hold_together() {
    let mutations = vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8);
    check((1..5u16, mutations, any::<proptest::sample::Index>()), |(nodes, mutations, cut)| {
        let (topology, stats) = (topology(nodes), stats());
        let (mut topology_bytes, mut stats_bytes) = (topology.to_bytes(), stats.to_bytes());
        prop_assert_eq!(Topology::from_bytes(&topology_bytes), Ok(topology));
        prop_assert_eq!(Stats::from_bytes(&stats_bytes), Some(stats));
        let _ = Topology::from_bytes(&topology_bytes[..cut.index(topology_bytes.len())]);
        let _ = Stats::from_bytes(&stats_bytes[..cut.index(stats_bytes.len())]);
        for (place, byte) in mutations {
            // The root and its pointers lie at the end; one in two goes there.
            for bytes in [&mut topology_bytes, &mut stats_bytes] {
                let start = if byte % 2 == 0 { 0 } else { bytes.len() - 40 };
                let index = start + place.index(bytes.len() - start);
                bytes[index] = byte;
            }
        }
        if let Ok(topology) = Topology::from_bytes(&topology_bytes) {
            prop_assert_eq!(topology.check(), Ok(()));
            let owner = topology.owner(b"any key");
            prop_assert!(owner.core < topology.nodes[usize::from(owner.node)].cores);
        }
        if let Some(stats) = Stats::from_bytes(&stats_bytes) {
            // A body can't claim more than it holds: no entry without its 16 bytes.
            let entries = stats.cores.iter().map(|core| core.values.len()).sum::<usize>();
            prop_assert!(entries * 16 <= stats_bytes.len());
        }
        Ok(())
    });
}

/// A topology, and one that comes after it: some vnodes lie elsewhere, and a node has come.
fn neighbours(moved: &[u16]) -> (Topology, Topology, TopologyChanges) {
    let (before, mut after) = (topology(2), topology(3));
    after.epoch += 1;
    moved.iter().for_each(|vnode| after.vnodes[usize::from(*vnode)].primary = Seat { node: 2, core: 1 });
    let changes = TopologyChanges::new(before.epoch, &after, after.checksum(), true, moved.iter().copied());
    (before, after, changes)
}

#[test]
fn changes_make_the_next_topology_and_mutated_or_cut_ones_make_it_or_none() {
    let mutations = vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4);
    let moved = proptest::collection::btree_set(0..16u16, 1..8);
    check((moved, mutations, any::<proptest::sample::Index>()), |(moved, mutations, cut)| {
        let (before, after, changes) = neighbours(&moved.into_iter().collect::<Vec<_>>());
        let mut bytes = changes.to_bytes();
        prop_assert_eq!(TopologyChanges::from_bytes(&bytes).unwrap().apply(&before), Ok(after.clone()));
        let _ = TopologyChanges::from_bytes(&bytes[..cut.index(bytes.len())]).map(|changes| changes.apply(&before));
        for (place, byte) in mutations {
            let start = if byte % 2 == 0 { 0 } else { bytes.len() - 40 };
            let index = start + place.index(bytes.len() - start);
            bytes[index] = byte;
        }
        if let Ok(next) = TopologyChanges::from_bytes(&bytes).and_then(|changes| changes.apply(&before)) {
            prop_assert_eq!(next.check(), Ok(()));
            // What nobody routes by may be anything.
            prop_assert_eq!((next.epoch, next.vnodes), (after.epoch, after.vnodes));
        }
        Ok(())
    });
}

#[test]
fn changes_that_do_not_fit_make_no_topology() {
    let refused = |change: fn(&mut TopologyChanges)| {
        let (before, _, mut changes) = neighbours(&[3, 5]);
        change(&mut changes);
        TopologyChanges::from_bytes(&changes.to_bytes()).unwrap().apply(&before)
    };
    assert!(refused(|_| {}).is_ok());
    assert!(matches!(refused(|changes| changes.from_epoch = 7), Err(ChangesError::Epoch { from: 7, to: 2, known: 1 })));
    assert!(matches!(refused(|changes| changes.epoch = 1), Err(ChangesError::Epoch { .. })));
    assert_eq!(refused(|changes| changes.vnodes[0].vnode = 16), Err(ChangesError::Vnode(16)));
    assert!(matches!(refused(|changes| changes.nodes.clear()), Err(ChangesError::Topology(_))));
    assert_eq!(refused(|changes| changes.vnodes.truncate(1)), Err(ChangesError::Checksum));
    assert_eq!(refused(|changes| changes.nodes[0].incarnation += 1), Err(ChangesError::Checksum));
}

#[test]
fn random_bytes_are_no_structured_body() {
    check(vec(any::<u8>(), 0..200), |bytes| {
        prop_assert!(Topology::from_bytes(&bytes).is_err());
        let changes = TopologyChanges::from_bytes(&bytes);
        prop_assert!(changes.and_then(|changes| changes.apply(&topology(2))).is_err());
        let _ = Stats::from_bytes(&bytes);
        Ok(())
    });
}

#[test]
fn a_topology_that_contradicts_itself_is_refused() {
    let refused = |change: fn(&mut Topology)| {
        let mut topology = topology(2);
        change(&mut topology);
        Topology::from_bytes(&topology.to_bytes())
    };
    let field = |result: Result<Topology, TopologyError>| matches!(result, Err(TopologyError::Field(_)));
    assert!(refused(|_| {}).is_ok());
    assert!(field(refused(|topology| topology.epoch = 0)));
    assert!(field(refused(|topology| topology.vnode_bits = 200)));
    assert!(field(refused(|topology| topology.vnodes.truncate(15))));
    assert!(field(refused(|topology| topology.nodes.clear())));
    assert!(field(refused(|topology| topology.nodes[1].cores = 0)));
    assert!(field(refused(|topology| topology.vnodes[3].primary.core = 3)));
    assert!(field(refused(|topology| topology.vnodes[3].primary.node = 2)));
    assert!(field(refused(|topology| topology.vnodes[3].replicas[0].node = 9)));
    assert!(field(refused(|topology| topology.vnodes[3].term = 1 << 24)));
}

#[test]
fn frames_are_as_small_as_promised() {
    let mut get = Vec::new();
    RequestBody::Get { key: b"0123456789abcdef" }.encode(1, RequestOptions::default(), &mut get);
    assert!(get.len() <= 40, "a get of a 16-byte key takes {} bytes", get.len());
    let value = [7; 64];
    let mut hit = Vec::new();
    Reply { value: &value, ..Reply::status(1, Status::Ok) }.encode(&mut hit);
    assert!(hit.len() - value.len() <= 24, "a hit takes {} bytes beside the value", hit.len() - value.len());
}

/// The refusal of a frame with these 16 bytes of head, and how far the stream goes on.
fn refusal_of(frame: &[u8]) -> (Option<u32>, Status, Option<usize>) {
    let refusal = decode(frame).expect_err("is refused");
    (refusal.id, refusal.status, refusal.frame_bytes)
}

/// A frame made by hand: header fields, and what follows them.
fn frame(id: u32, operation: u8, flags: u8, key_bytes: u16, rest: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&(12 + rest.len() as u32).to_le_bytes());
    RequestHeader { id, epoch: 0, operation, flags, key_bytes }.put(&mut frame);
    frame.extend_from_slice(rest);
    frame
}

#[test]
fn wrong_frames_are_refused_as_the_specification_says() {
    let get = Operation::Get.code();
    let skipped = |status, bytes: usize| (Some(7), status, Some(bytes));
    let closed = (None, Status::Malformed, None);
    assert_eq!(refusal_of(&frame(0, get, 0, 1, b"k")), closed);
    assert_eq!(refusal_of(&[11, 0, 0, 0]), closed);
    assert_eq!(refusal_of(&u32::MAX.to_le_bytes()), closed);
    assert_eq!(refusal_of(&frame(7, 99, 0, 0, b"")), skipped(Status::UnknownOperation, 16));
    assert_eq!(refusal_of(&frame(7, get, 0, 0, b"")), skipped(Status::Malformed, 16));
    assert_eq!(refusal_of(&frame(7, get, 0, 2, b"k")), skipped(Status::Malformed, 17));
    assert_eq!(refusal_of(&frame(7, get, 0, 1, b"kv")), skipped(Status::Malformed, 18));
    assert_eq!(refusal_of(&frame(7, Operation::Ping.code(), 0, 1, b"k")), skipped(Status::Malformed, 17));
    assert_eq!(refusal_of(&frame(7, get, 0b1000, 1, b"k")), skipped(Status::Unsupported, 17));
    assert_eq!(refusal_of(&frame(7, get, 0x80, 1, b"k")), skipped(Status::Malformed, 17));
    assert_eq!(refusal_of(&frame(7, Operation::Ping.code(), 0, 0, &[0; 1025])), skipped(Status::TooLarge, 1041));
    // Refused from its head alone, before the value is waited for.
    let large = frame(7, Operation::Append.code(), 0, 1, &vec![0; (1 << 20) + 2]);
    assert_eq!(refusal_of(&large[..16]), skipped(Status::TooLarge, large.len()));
}

#[test]
fn wrong_parameters_are_refused_as_the_specification_says() {
    let set = |parameters: SetParameters| {
        let mut rest = Vec::new();
        parameters.put(&mut rest);
        rest.push(b'k');
        refusal_of(&frame(7, Operation::Set.code(), 0, 1, &rest)).1
    };
    assert_eq!(set(SetParameters { condition: 4, ..SetParameters::default() }), Status::Unsupported);
    assert_eq!(set(SetParameters { options: 2, ..SetParameters::default() }), Status::Unsupported);
    assert_eq!(set(SetParameters { if_version: 1, ..SetParameters::default() }), Status::Malformed);
    let hello = |magic, version_min| {
        let mut rest = Vec::new();
        let version_max = HelloParameters::VERSION;
        HelloParameters { magic, version_min, version_max, ..HelloParameters::default() }.put(&mut rest);
        refusal_of(&frame(7, Operation::Hello.code(), 0, 0, &rest))
    };
    assert_eq!(hello(0x5454_4547, 1), (None, Status::Malformed, None));
    assert_eq!(hello(HelloParameters::MAGIC, 2), (None, Status::Malformed, None));
    let mut many = Vec::new();
    MultiGetParameters { keys: 1025 }.put(&mut many);
    assert_eq!(refusal_of(&frame(7, Operation::MultiGet.code(), 0, 0, &many)).1, Status::TooLarge);
    MultiGetParameters { keys: 1 }.put(&mut many);
    assert_eq!(refusal_of(&frame(7, Operation::MultiGet.code(), 0, 0, &many[2..])).1, Status::Malformed);
}
