//! The specification's byte vectors and tables, held against this crate.
//!
//! `protocol/README.md` is what somebody without Rust writes a client from. Here every vector in it is encoded from values
//! and decoded back to them, compared with the files in `golden/`, and no table of codes or limits in it may differ
//! from the code. A message is added in three places (the page, a file, `messages`), and each misses the other two.

#![expect(clippy::unwrap_used, reason = "what can't be read fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use quoit_wire::changes::TopologyChanges;
use quoit_wire::stats::{CoreStats, Stats};
use quoit_wire::topology::{self, Node, Placement, Seat, Topology};
use quoit_wire::*;

const KEY: &[u8] = b"k:0123456789abcd";
const VERSION: Version = Version::new(0x0a_0b0c, 5);
const SESSION: u64 = 0x1122_3344_5566_7788;

/// One message of the specification, as values.
enum Message {
    Request(RequestBody<'static>, RequestOptions),
    Reply(Reply<'static>),
}

fn request(body: RequestBody<'static>) -> Message {
    Message::Request(body, RequestOptions { epoch: 7, ..RequestOptions::default() })
}

fn request_with(body: RequestBody<'static>, flags: RequestFlags, number: u32) -> Message {
    let retry = Some(RetryToken { session: SESSION, number });
    Message::Request(body, RequestOptions { epoch: 7, flags, retry, trace: None })
}

/// A reply that changed or hit an item: the version's sequence is `later` above the first one's.
fn ok(later: u64, client_flags: u32, value: &'static [u8]) -> Message {
    let version = Version::from_u64(VERSION.as_u64() + later);
    Message::Reply(Reply { version, client_flags, value, ..Reply::status(1, Status::Ok) })
}

fn plain(status: Status, value: &'static [u8]) -> Message {
    Message::Reply(Reply { value, ..Reply::status(1, status) })
}

fn with_epoch(reply: Reply<'static>, epoch: u64) -> Message {
    Message::Reply(Reply { version: Version::from_u64(epoch), ..reply })
}

fn set(parameters: SetParameters, condition: SetCondition, value: &'static [u8]) -> RequestBody<'static> {
    RequestBody::Set {
        key: KEY,
        parameters: SetParameters { condition: condition as u8, ..parameters },
        condition,
        value,
    }
}

/// Builds a body that lives as long as the test process, so that messages can borrow it.
fn leaked(build: impl FnOnce(&mut Vec<u8>)) -> &'static [u8] {
    let mut body = Vec::new();
    build(&mut body);
    body.leak()
}

fn small_topology() -> Topology {
    let node = Node {
        id: 0x1234,
        incarnation: 3,
        name: "one".to_owned(),
        address: "127.0.0.1:7400".to_owned(),
        zone: "east".to_owned(),
        cores: 2,
        weight: 1,
    };
    let vnodes = (0..2)
        .map(|core| Placement { primary: Seat { node: 0, core }, replicas: [Seat::NOWHERE; 3], term: 0x0a_0b0c })
        .collect();
    Topology { epoch: 7, vnode_bits: 1, seed: 0x5eed, cluster: String::new(), nodes: vec![node], vnodes }
}

fn small_changes() -> TopologyChanges {
    let to = small_topology();
    TopologyChanges::new(6, &to, to.checksum(), false, [1].into_iter())
}

fn small_stats() -> Stats {
    let values = vec![("hits_total".to_owned(), 5), ("items".to_owned(), 3)];
    let cores = vec![CoreStats { core: 0, values }];
    Stats { server_version: "0.1.0".to_owned(), node: 0x1234, uptime_ms: 90_000, cores }
}

fn hello() -> (Message, Message) {
    let parameters = HelloParameters {
        magic: HelloParameters::MAGIC,
        version_min: 1,
        version_max: 1,
        features: HelloParameters::FEATURES,
        core: 2,
        security: 0,
    };
    let request = Message::Request(RequestBody::Hello { parameters, credentials: &[] }, RequestOptions::default());
    let reply = leaked(|body| {
        HelloReply {
            features: HelloParameters::FEATURES,
            node: 0x1234,
            version: 1,
            core: 2,
            cores: 4,
            inflight_max: 1024,
            value_bytes_max: 16 << 20,
            frame_bytes_max: (16 << 20) + 65_535 + 128,
            epoch: 7,
        }
        .put(body);
    });
    (request, plain(Status::Ok, reply))
}

fn multi_messages() -> Vec<(&'static str, Message)> {
    let keys = leaked(|body| [&b"a"[..], b"bc", b"def"].iter().for_each(|key| Keys::push(key, body)));
    let items = leaked(|body| {
        Items::push(Item { key: b"a", value: b"one", ttl_ms: 0, client_flags: 0 }, body);
        Items::push(Item { key: b"bc", value: b"two", ttl_ms: 60_000, client_flags: 42 }, body);
    });
    let miss = MultiResult {
        status: Status::Miss,
        version: Version::NONE,
        client_flags: 0,
        retry_after_ms: 0,
        is_stale: false,
        value: &[],
    };
    let get_results = leaked(|body| {
        MultiResult { status: Status::Ok, version: VERSION, client_flags: 42, value: b"value", ..miss }.push(body);
        miss.push(body);
        MultiResult { status: Status::Moved, version: Version::from_u64(8), ..miss }.push(body);
    });
    let set_results = leaked(|body| {
        MultiResult { status: Status::Ok, version: VERSION, ..miss }.push(body);
        MultiResult { status: Status::Overloaded, retry_after_ms: 20, ..miss }.push(body);
    });
    vec![
        ("multi-get-request", request(RequestBody::MultiGet(Keys::parse(3, keys).unwrap()))),
        ("multi-get-reply", plain(Status::Ok, get_results)),
        ("multi-set-request", request(RequestBody::MultiSet(Items::parse(2, items).unwrap()))),
        ("multi-set-reply", plain(Status::Ok, set_results)),
    ]
}

fn write_messages() -> Vec<(&'static str, Message)> {
    let set_minute = SetParameters { ttl_ms: 60_000, client_flags: 42, ..SetParameters::default() };
    let set_version = SetParameters { if_version: VERSION.as_u64(), ..SetParameters::default() };
    let set_idle = SetParameters { ttl_ms: 30_000, options: SetParameters::IDLE_EXPIRY, ..SetParameters::default() };
    let decrement = IncrementParameters { delta: -3, initial: 100, ttl_ms: 0, create: 1 };
    let increment = IncrementParameters { delta: 1, initial: 0, ttl_ms: 0, create: 0 };
    let write_one = RequestFlags::default().with_write_mode(WriteMode::One);
    let counter = b"counter";
    vec![
        ("set-request", request(set(set_minute, SetCondition::Always, b"value"))),
        ("set-request-if-version", request_with(set(set_version, SetCondition::IfVersion, b"newer"), write_one, 9)),
        ("set-request-idle", request(set(set_idle, SetCondition::IfAbsent, b"value"))),
        ("set-reply", ok(0, 0, &[])),
        (
            "set-reply-condition-failed",
            Message::Reply(Reply { version: VERSION, ..Reply::status(1, Status::ConditionFailed) }),
        ),
        ("delete-request", request(RequestBody::Delete { key: KEY })),
        ("delete-reply", ok(1, 0, &[])),
        ("delete-reply-miss", plain(Status::Miss, &[])),
        ("touch-request", request(RequestBody::Touch { key: KEY, ttl_ms: 1500 })),
        ("touch-reply", ok(2, 0, &[])),
        ("get-and-touch-request", request(RequestBody::GetAndTouch { key: KEY, ttl_ms: 1500 })),
        ("get-and-touch-reply-hit", ok(3, 42, b"value")),
        ("increment-request", request(RequestBody::Increment { key: counter, parameters: decrement })),
        (
            "increment-request-repeat",
            request_with(RequestBody::Increment { key: counter, parameters: increment }, RequestFlags::REPEAT, 10),
        ),
        ("increment-reply", ok(4, 0, leaked(|body| body.extend_from_slice(&97_i64.to_le_bytes())))),
        ("increment-reply-outcome-unknown", plain(Status::OutcomeUnknown, &[])),
        ("append-request", request(RequestBody::Append { key: KEY, value: b"tail" })),
        ("append-reply", ok(5, 0, &[])),
        ("prepend-request", request(RequestBody::Prepend { key: KEY, value: b"head" })),
        ("prepend-reply", ok(6, 0, &[])),
        ("flush-request", request(RequestBody::Flush)),
        ("flush-reply", plain(Status::Ok, &[])),
    ]
}

/// Every message of the specification by the name of its vector.
fn messages() -> BTreeMap<&'static str, Message> {
    let trace = TraceContext {
        trace_id: std::array::from_fn(|index| 0x10 + index as u8),
        span_id: std::array::from_fn(|index| 0x20 + index as u8),
        trace_flags: 1,
    };
    let traced = RequestOptions { epoch: 7, trace: Some(trace), ..RequestOptions::default() };
    let (hello_request, hello_reply) = hello();
    let mut all = vec![
        ("hello-request", hello_request),
        ("hello-reply", hello_reply),
        ("hello-reply-unsupported", plain(Status::Unsupported, b"versions 1 to 1")),
        ("ping-request", request(RequestBody::Ping { payload: b"are you there" })),
        ("ping-reply", plain(Status::Ok, b"are you there")),
        ("get-request", request(RequestBody::Get { key: KEY })),
        ("get-request-traced", Message::Request(RequestBody::Get { key: KEY }, traced)),
        ("get-reply-hit", ok(0, 42, b"value")),
        (
            "get-request-any-copy",
            Message::Request(
                RequestBody::Get { key: KEY },
                RequestOptions { epoch: 7, flags: RequestFlags::ANY_COPY, ..RequestOptions::default() },
            ),
        ),
        (
            "get-reply-stale",
            Message::Reply(Reply { version: VERSION, is_stale: true, value: b"value", ..Reply::status(1, Status::Ok) }),
        ),
        ("get-reply-miss", plain(Status::Miss, &[])),
        ("stats-request", request(RequestBody::Stats)),
        ("stats-reply", plain(Status::Ok, small_stats().to_bytes().leak())),
        ("topology-request", request(RequestBody::Topology { known_epoch: 7 })),
        (
            "topology-reply",
            with_epoch(Reply { value: small_topology().to_bytes().leak(), ..Reply::status(1, Status::Ok) }, 7),
        ),
        ("topology-reply-unchanged", with_epoch(Reply::status(1, Status::Ok), 7)),
        ("topology-changes-request", request(RequestBody::TopologyChanges { known_epoch: 6 })),
        (
            "topology-changes-reply",
            with_epoch(Reply { value: small_changes().to_bytes().leak(), ..Reply::status(1, Status::Ok) }, 7),
        ),
        ("topology-changes-reply-miss", with_epoch(Reply::status(1, Status::Miss), 7)),
        ("topology-changed", with_epoch(Reply::status(0, Status::TopologyChanged), 8)),
        ("moved-reply", with_epoch(Reply::status(1, Status::Moved), 8)),
        ("overloaded-reply", Message::Reply(Reply { retry_after_ms: 20, ..Reply::status(1, Status::Overloaded) })),
        ("malformed-reply", plain(Status::Malformed, b"a get has no value")),
        ("too-large-reply", plain(Status::TooLarge, &[])),
    ];
    all.extend(write_messages());
    all.extend(multi_messages());
    all.into_iter().collect()
}

fn crate_path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn specification() -> String {
    fs::read_to_string(crate_path("../README.md")).unwrap()
}

/// The bytes written in hex in `text`; what follows a `;` is for people.
fn from_hex(text: &str) -> Vec<u8> {
    let pairs = text.lines().flat_map(|line| line.split(';').next().unwrap_or_default().split_whitespace());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_else(|error| panic!("{pair:?}: {error}"))).collect()
}

/// The files in `golden/`: name and bytes.
fn golden_files() -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(crate_path("tests/golden")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, from_hex(&fs::read_to_string(&path).unwrap()))
        })
        .collect()
}

/// The specification's fenced blocks that open with "```hex name": name and bytes.
fn specified_vectors() -> BTreeMap<String, Vec<u8>> {
    let text = specification();
    let mut vectors = BTreeMap::new();
    for block in text.split("```hex ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let (hex, _) = rest.split_once("```").expect("a fence that is closed");
        assert!(vectors.insert(name.trim().to_owned(), from_hex(hex)).is_none(), "{name} stands twice in the page");
    }
    vectors
}

#[test]
fn every_vector_of_the_specification_is_what_the_crate_encodes() {
    for (name, message) in messages() {
        let vector = &golden_files()[name];
        let mut encoded = Vec::new();
        match message {
            Message::Request(body, options) => body.encode(1, options, &mut encoded),
            Message::Reply(reply) => reply.encode(&mut encoded),
        }
        assert_eq!(&encoded, vector, "{name}: encoded\n{encoded:02x?}, the vector is\n{vector:02x?}");
    }
}

#[test]
fn every_vector_of_the_specification_decodes_to_its_message() {
    for (name, message) in messages() {
        let vector = &golden_files()[name];
        match message {
            Message::Request(body, options) => {
                let head = request_head(vector, limits::VALUE_BYTES_MAX).unwrap().expect("a whole head");
                let request = Request::decode(head, vector).unwrap();
                assert_eq!((request.head.id, head.frame_bytes), (1, vector.len()), "{name}");
                assert_eq!(
                    (request.body, request.trace, request.retry),
                    (body, options.trace, options.retry),
                    "{name}"
                );
                assert_eq!(head.epoch, options.epoch, "{name}");
                assert_eq!(head.flags.write_mode(), options.flags.write_mode(), "{name}");
                assert_eq!(head.flags.has(RequestFlags::REPEAT), options.flags.has(RequestFlags::REPEAT), "{name}");
            }
            Message::Reply(reply) => {
                assert_eq!(Reply::decode(vector).unwrap(), Some((reply, vector.len())), "{name}");
            }
        }
    }
}

#[test]
fn bodies_in_the_vectors_decode_to_their_values() {
    let body = |name: &str| golden_files()[name][ReplyHeader::FRAME_BYTES..].to_vec();
    assert_eq!(Topology::from_bytes(&body("topology-reply")), Ok(small_topology()));
    assert_eq!(TopologyChanges::from_bytes(&body("topology-changes-reply")), Ok(small_changes()));
    assert_eq!(Stats::from_bytes(&body("stats-reply")), Some(small_stats()));
    let (reply, rest) = HelloReply::take(&body("hello-reply")).map(|(reply, rest)| (reply, rest.len())).unwrap();
    assert_eq!((reply.node, reply.core, rest), (0x1234, 2, 0));
    let results = body("multi-get-reply");
    let (hit, rest) = MultiResult::take(&results).unwrap();
    let (miss, rest) = MultiResult::take(rest).unwrap();
    let (moved, rest) = MultiResult::take(rest).unwrap();
    assert_eq!((hit.status, hit.value, miss.status), (Status::Ok, &b"value"[..], Status::Miss));
    assert_eq!((moved.status, moved.version.as_u64(), rest), (Status::Moved, 8, &[][..]));
}

#[test]
fn the_page_the_files_and_the_code_have_the_same_vectors() {
    let (specified, files) = (specified_vectors(), golden_files());
    let names = |map: &BTreeMap<String, Vec<u8>>| map.keys().cloned().collect::<BTreeSet<_>>();
    let coded = messages().into_keys().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(names(&specified), names(&files));
    assert_eq!(names(&files), coded);
    for (name, bytes) in &specified {
        assert_eq!(bytes, &files[name], "{name}: the page says {bytes:02x?}, the file {:02x?}", files[name]);
    }
}

#[test]
fn every_operation_has_a_request_and_a_reply_among_the_vectors() {
    let names = golden_files().into_keys().collect::<Vec<_>>();
    for operation in Operation::ALL {
        let stem = operation.name().replace('_', "-");
        let code = operation.code();
        let has = |kind: &str| names.iter().any(|name| name.starts_with(&format!("{stem}-{kind}")));
        assert!(has("request") && has("reply"), "{stem} (operation {code}) lacks a vector");
        assert_eq!(golden_files()[&format!("{stem}-request")][12], code, "{stem}");
    }
}

/// The cells of the specification's table rows whose first cell is `first`.
fn rows<'a>(text: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter(|cells| cells[0] == first).collect()
}

#[test]
fn the_tables_of_codes_are_those_of_the_code() {
    let text = specification();
    for operation in Operation::ALL {
        let name = format!("`{}`", operation.name());
        let rows = rows(&text, &operation.code().to_string());
        assert!(rows.iter().any(|cells| cells[1] == name), "no row for operation {} {name}", operation.code());
    }
    for status in Status::ALL {
        let name = format!("`{}`", status.name());
        let rows = rows(&text, &status.code().to_string());
        assert!(rows.iter().any(|cells| cells[1] == name), "no row for status {} {name}", status.code());
    }
}

#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let text = specification();
    for (name, value) in [
        ("`KEY_BYTES_MAX`", limits::KEY_BYTES_MAX),
        ("`VALUE_BYTES_MAX`", limits::VALUE_BYTES_MAX),
        ("`MULTI_KEYS_MAX`", limits::MULTI_KEYS_MAX),
        ("`MULTI_REPLY_BYTES_MAX`", limits::MULTI_REPLY_BYTES_MAX),
        ("`MULTI_FRAME_BYTES_MAX`", limits::MULTI_FRAME_BYTES_MAX),
        ("`HELLO_FRAME_BYTES_MAX`", limits::HELLO_FRAME_BYTES_MAX),
        ("`PING_BYTES_MAX`", limits::PING_BYTES_MAX),
        ("`BODY_BYTES_MAX`", limits::BODY_BYTES_MAX),
        ("`FRAME_BYTES_PLAUSIBLE`", limits::FRAME_BYTES_PLAUSIBLE),
        ("`REPLICAS_MAX`", topology::REPLICAS_MAX),
        ("`NODES_MAX`", topology::NODES_MAX),
        ("`CORES_MAX`", topology::CORES_MAX),
    ] {
        let rows = rows(&text, name);
        assert_eq!(rows.len(), 1, "one row for {name}");
        assert_eq!(rows[0][1].replace(',', ""), value.to_string(), "{name}");
    }
}

#[test]
fn the_table_of_key_hashes_is_what_the_crate_computes() {
    let text = specification();
    let hex = |cell: &str| u64::from_str_radix(cell.trim_matches('`').trim_start_matches("0x"), 16).unwrap();
    // One key for each way in which xxh3 treats lengths.
    for (cell, key) in [
        ("`\"a\"`", "a".to_owned()),
        ("`\"counter\"`", "counter".to_owned()),
        ("`\"k:0123456789abcd\"`", "k:0123456789abcd".to_owned()),
        ("`\"x\" × 100`", "x".repeat(100)),
        ("`\"x\" × 200`", "x".repeat(200)),
        ("`\"x\" × 1000`", "x".repeat(1000)),
    ] {
        let rows = rows(&text, cell);
        assert_eq!(rows.len(), 2, "two seeds for {cell}");
        for cells in rows {
            let (seed, hash) = (hex(cells[1]), hex(cells[2]));
            assert_eq!(topology::key_hash(seed, key.as_bytes()), hash, "{cell} with seed {seed:#x}");
            assert_eq!(topology::vnode_of(hash, 12).to_string(), cells[3], "{cell}");
        }
    }
}
