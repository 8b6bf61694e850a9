//! Messages between nodes: the vectors of `protocol/PEERS.md`, and bytes from a peer gone wrong.
//!
//! Nothing may panic or read past a frame; what is encoded comes back exactly, and a cut frame is waited for. Each run
//! draws a new seed and prints it; `QUOIT_SEED=<seed>` runs it again.

#![expect(clippy::unwrap_used, reason = "what can't be read fails its test")]

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};
use quoit_wire::limits::PEER_ENTRIES_MAX;
use quoit_wire::peer::*;
use quoit_wire::{RetryToken, Status, Version};

/// Cases of each property: about a second.
const CASES: u32 = 10_000;
const KEY: &[u8] = b"k:0123456789abcd";
const RESULT: KeptResult = KeptResult {
    token: RetryToken { session: 0x1122_3344_5566_7788, number: 9 },
    status: Status::Ok,
    version: Version::new(0x0a_0b0c, 5),
    counter: Some(97),
};

#[expect(clippy::print_stdout, reason = "the seed of a failing run must be seen")]
fn check<S: Strategy>(strategy: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let seed = match std::env::var("QUOIT_SEED") {
        Ok(text) => text.parse().expect("QUOIT_SEED is a number"),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    println!("QUOIT_SEED={seed}");
    let config =
        Config { cases: CASES, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&strategy, property);
    outcome.unwrap_or_else(|error| panic!("QUOIT_SEED={seed}: {error}"));
}

fn records() -> [Record<'static>; 5] {
    let put = Put { key: KEY, value: b"97", client_flags: 42, ttl_ms: 60_000, idle_ms: 0 };
    [
        Record { change: Change::Put(put), result: Some(RESULT) },
        Record { change: Change::Delete { key: KEY }, result: None },
        Record { change: Change::Evict { key: KEY }, result: None },
        Record { change: Change::Refresh { key: KEY, ttl_ms: 1500 }, result: None },
        Record { change: Change::Clear, result: None },
    ]
}

fn encoded(records: &[Record<'_>]) -> Vec<Vec<u8>> {
    let encode = |record: &Record<'_>| {
        let mut bytes = Vec::new();
        record.push(&mut bytes);
        bytes
    };
    records.iter().map(encode).collect()
}

/// Every message, by the name of its vector.
fn messages() -> BTreeMap<&'static str, Vec<u8>> {
    let mut messages = BTreeMap::new();
    let mut add = |name, push: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        push(&mut bytes);
        messages.insert(name, bytes);
    };
    add("peer-hello", &|out| {
        let hello = PeerHello {
            magic: PeerHello::MAGIC,
            version: PeerHello::VERSION,
            core: 1,
            to_core: 2,
            cluster: std::array::from_fn(|index| index as u8),
            node: 0x1234,
            incarnation: 3,
            to_node: 0x5678,
            to_incarnation: 4,
        };
        PeerMessage::push_hello(&hello, out);
    });
    add("heartbeat", &|out| {
        let entry = HeartbeatEntry { vnode: 7, term: 0x0a_0b0c, sequence: 5, settled: 4 };
        PeerMessage::push_heartbeat(1000, &[entry], out);
    });
    add("acks", &|out| {
        let marks = AckEntry::BEGUN | AckEntry::PROMISE;
        let cursor = AckEntry::CURSOR_END;
        let entry = AckEntry { vnode: 7, marks, term: 0x0a_0b0c, last_term: 0x0a_0b0c, applied: 5, cursor };
        PeerMessage::push_acks(AckHead { stamp: 1000, epoch: 77, entries: 0 }, [entry].into_iter(), out);
    });
    add("begin", &|out| {
        let head = BeginHead { vnode: 7, wipes: 1, term: 0x0a_0b0c, base: 4, terms: 0, results: 0 };
        let terms = [TermEntry { term: 9, first_sequence: 1 }, TermEntry { term: 0x0a_0b0c, first_sequence: 4 }];
        PeerMessage::push_begin(head, &terms, &[RESULT], out);
    });
    add("appends", &|out| {
        let head = AppendHead { vnode: 7, term: 0x0a_0b0c, first_sequence: 5, settled: 4, ..AppendHead::default() };
        let mut frame = AppendsFrame::begin(1000, out);
        assert_eq!(frame.push(head, encoded(&records()).iter().map(|record| &record[..]), 1000, out), 5);
        let head = AppendHead { vnode: 9, term: 3, first_sequence: 70, settled: 69, ..AppendHead::default() };
        assert_eq!(frame.push(head, encoded(&records()[1..2]).iter().map(|record| &record[..]), 1000, out), 1);
        frame.end(out);
    });
    add("slice", &|out| {
        let mut items = Vec::new();
        let put = Put { key: KEY, ttl_ms: 30_000, idle_ms: 30_000, ..Put::default() };
        SliceItem::push(3, &put, 5, [&b"val"[..], b"ue"].into_iter(), &mut items);
        let head =
            SliceHead { vnode: 7, term: 0x0a_0b0c, at_sequence: 5, from: 0, next: AckEntry::CURSOR_END, items: 1 };
        PeerMessage::push_slice(head, &items, out);
    });
    add("handover", &|out| {
        PeerMessage::push_handover(Handover { vnode: 7, term: 0x0a_0b0c, next_term: 0x0a_0b0d, sequence: 5 }, out);
    });
    add("control", &|out| PeerMessage::push_control(b"orders", out));
    messages
}

/// What is written in hex behind "```hex name" in the page.
fn specified() -> BTreeMap<String, Vec<u8>> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../PEERS.md")).unwrap();
    let blocks = page.split("```hex ").skip(1).map(|block| {
        let (name, rest) = block.split_once('\n').unwrap();
        let hex = rest.split("```").next().unwrap();
        let pairs = hex.lines().flat_map(|line| line.split(';').next().unwrap().split_whitespace());
        (name.trim().to_owned(), pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect())
    });
    blocks.collect()
}

#[test]
fn the_page_has_every_message_as_the_crate_encodes_it() {
    let specified = specified();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
    for (name, bytes) in messages() {
        assert_eq!(specified.get(name), Some(&bytes), "{name} is\n{}", hex(&bytes));
    }
    assert_eq!(specified.len(), messages().len());
}

#[test]
fn every_message_comes_back_as_it_was_encoded_and_a_cut_one_is_waited_for() {
    for (name, bytes) in messages() {
        let (message, length) = PeerMessage::decode(&bytes).unwrap().expect("whole");
        assert_eq!(length, bytes.len(), "{name}");
        for cut in 0..bytes.len() {
            assert_eq!(PeerMessage::decode(&bytes[..cut]), Ok(None), "{name} cut at {cut}");
        }
        match message {
            PeerMessage::Appends { stamp, appends } => {
                let appends: Vec<Append<'_>> = appends.iter().collect();
                let [first, second] = &appends[..] else { panic!("{appends:?}") };
                assert_eq!((stamp, first.head.first_sequence, first.records.len()), (1000, 5, 5));
                assert!(first.records.records().eq(records()));
                assert_eq!((second.head.vnode, second.head.settled), (9, 69));
                assert!(second.records.records().eq(records()[1..2].iter().copied()));
            }
            PeerMessage::Slice { head, items } => {
                let item = items.items().next().unwrap();
                assert_eq!((head.next, item.sequence, item.put.value), (AckEntry::CURSOR_END, 3, &b"value"[..]));
            }
            PeerMessage::Begin { head, terms, results } => {
                assert_eq!((head.base, terms.len(), terms.iter().last().unwrap().term), (4, 2, 0x0a_0b0c));
                assert_eq!(KeptResult::take(results.as_bytes()), Some((RESULT, &[][..])));
            }
            PeerMessage::Acks { head, entries } => {
                assert_eq!((head.stamp, head.epoch, entries.iter().next().unwrap().applied), (1000, 77, 5));
            }
            PeerMessage::Heartbeat { entries, .. } => assert_eq!(entries.iter().next().unwrap().settled, 4),
            PeerMessage::Hello(hello) => assert_eq!((hello.node, hello.to_core), (0x1234, 2)),
            PeerMessage::Handover(handover) => assert_eq!(handover.next_term, 0x0a_0b0d),
            PeerMessage::Control(bytes) => assert_eq!(bytes, b"orders"),
        }
    }
}

/// What must hold of any message that a decoder lets through: it can be walked to its end, inside its frame.
fn holds_together(bytes: &[u8]) -> TestCaseResult {
    let Ok(Some((message, length))) = PeerMessage::decode(bytes) else { return Ok(()) };
    prop_assert!(length <= bytes.len());
    let frame = bytes[..length].as_ptr_range();
    let inside =
        |piece: &[u8]| piece.is_empty() || (frame.contains(&piece.as_ptr()) && piece.as_ptr_range().end <= frame.end);
    match message {
        PeerMessage::Appends { appends, .. } => {
            prop_assert_eq!(appends.iter().count(), appends.len());
            let records = appends.iter().map(|append| append.records.len()).sum::<usize>();
            prop_assert!(records <= PEER_ENTRIES_MAX);
            for Append { head, records } in appends.iter() {
                prop_assert!(head.first_sequence.checked_add(records.len() as u64).is_some());
                run_holds_together(records, &inside)?;
            }
        }
        PeerMessage::Slice { head, items } => {
            prop_assert_eq!(items.items().count(), items.len());
            prop_assert!(head.from < head.next && head.next <= AckEntry::CURSOR_END);
            prop_assert!(items.items().all(|item| inside(item.put.key) && inside(item.put.value)));
        }
        PeerMessage::Begin { terms, results, head } => {
            prop_assert_eq!(terms.iter().last().map(|last| last.term), Some(head.term));
            prop_assert!(inside(results.as_bytes()));
        }
        PeerMessage::Heartbeat { entries, .. } => prop_assert_eq!(entries.iter().count(), entries.len()),
        PeerMessage::Acks { entries, .. } => prop_assert_eq!(entries.iter().count(), entries.len()),
        PeerMessage::Hello(_) | PeerMessage::Handover(_) => {}
        PeerMessage::Control(bytes) => prop_assert!(inside(bytes)),
    }
    Ok(())
}

fn run_holds_together(records: Run<'_>, inside: &impl Fn(&[u8]) -> bool) -> TestCaseResult {
    prop_assert_eq!(records.records().count(), records.len());
    for record in records.records() {
        prop_assert!(record.change.key().is_none_or(|key| !key.is_empty() && inside(key)));
        if let Change::Put(put) = record.change {
            prop_assert!(inside(put.value));
        }
    }
    let mut again = Vec::new();
    records.records().for_each(|record| record.push(&mut again));
    prop_assert_eq!(&again[..], records.as_bytes());
    Ok(())
}

#[test]
fn a_frame_of_appends_takes_what_fits_and_a_record_of_any_size_alone() {
    let key = [7; 16];
    let record = |value: &[u8]| {
        encoded(&[Record { change: Change::Put(Put { key: &key, value, ..Put::default() }), result: None }])
    };
    let (small, large) = (record(&[1; 40]), record(&[2; 100_000]));
    let mut out = b"something else is before it".to_vec();
    let start = out.len();
    let mut frame = AppendsFrame::begin(1, &mut out);
    let pushed = |frame: &mut AppendsFrame, out: &mut Vec<u8>, records: &[Vec<u8>]| {
        frame.push(AppendHead::default(), records.iter().map(|record| &record[..]), 1000, out)
    };
    assert_eq!(pushed(&mut frame, &mut out, &[small[0].clone(), large[0].clone()]), 1);
    assert_eq!(pushed(&mut frame, &mut out, &large), 0, "it is not alone");
    assert_eq!(pushed(&mut frame, &mut out, &vec![small[0].clone(); 40]), 10);
    assert_eq!(pushed(&mut frame, &mut out, &small), 0, "the frame is full");
    frame.end(&mut out);
    assert!((900..=1000).contains(&(out.len() - start)), "{}", out.len());
    let second = out.len();
    let mut frame = AppendsFrame::begin(1, &mut out);
    assert_eq!(pushed(&mut frame, &mut out, &[large[0].clone(), small[0].clone()]), 1);
    frame.end(&mut out);
    for (at, counts) in [(start, &[1, 10][..]), (second, &[1])] {
        let Ok(Some((PeerMessage::Appends { appends, .. }, _))) = PeerMessage::decode(&out[at..]) else { panic!() };
        assert!(appends.iter().map(|append| append.records.len()).eq(counts.iter().copied()));
    }
    // Of no more records than a frame may have: with empty values they would fit by their bytes.
    let mut frame = AppendsFrame::begin(1, &mut out);
    let many = vec![record(&[])[0].clone(); PEER_ENTRIES_MAX + 1];
    let count = frame.push(AppendHead::default(), many.iter().map(|record| &record[..]), 1 << 20, &mut out);
    assert_eq!(count, PEER_ENTRIES_MAX);
}

#[test]
fn mutated_messages_are_refused_or_hold_together() {
    let names: Vec<&str> = messages().into_keys().collect();
    let mutation = vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5);
    check((proptest::sample::select(names), mutation), |(name, mutations)| {
        let mut bytes = messages().remove(name).unwrap();
        for (place, byte) in mutations {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        holds_together(&bytes)
    });
}

#[test]
fn random_bytes_are_refused_or_hold_together() {
    check((1..200u32, 0..10u8, vec(any::<u8>(), 0..200)), |(length, kind, body)| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(body);
        holds_together(&bytes)
    });
}
