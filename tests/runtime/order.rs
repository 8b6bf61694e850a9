//! On one connection, requests for one key take effect in sending order, whatever is between: hops, values received into
//! the arena, stalls at every limit, multi operations and flushes.
//!
//! A seeded client pipelines random operations on few keys and reads replies only now and then. It is the only writer, so
//! a model says exactly what each reply must be; replies are matched by id.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use quoit_wire::{
    HelloParameters, IncrementParameters, Item, Items, Keys, MultiResult, Reply, RequestBody, RequestOptions,
    SetCondition, SetParameters, Status, Version,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::running::{Running, seed};
use crate::wire_client::{Answer, WireClient};

/// Largest value the model lets a key grow to.
const VALUE_BYTES_MAX: usize = 300 << 10;
/// An item never lives this long, and never dies of it.
const LONG_MS: u64 = 3_600_000;

/// What the model knows of one key: the value, the client flags, and which request wrote it last.
#[derive(Clone)]
struct Entry {
    value: Vec<u8>,
    client_flags: u32,
    written_by: u32,
}

/// What one key's part of a reply must be.
#[derive(Clone)]
struct Expected {
    status: Status,
    /// Of a hit, with the client flags; or a counter's.
    value: Option<(Vec<u8>, u32)>,
    /// The index of the key.
    key: usize,
    /// Which version the reply carries.
    version: Carried,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Carried {
    None,
    /// A new one.
    Own,
    /// That of the write which this request made.
    Of(u32),
}

impl Expected {
    fn ended(key: usize, status: Status) -> Self {
        Self { status, value: None, key, version: Carried::None }
    }
}

/// The parts a reply has: one, or one per key of a multi operation.
struct Pending {
    parts: Vec<Expected>,
    is_multi: bool,
}

struct Model {
    keys: Vec<Vec<u8>>,
    entries: Vec<Option<Entry>>,
    random: StdRng,
    has_flush: bool,
    /// Largest value of one request. With several connections it is small, so that no write is refused for want of
    /// buffers: whether one is, no model can know.
    large_bytes_max: usize,
}

impl Model {
    /// A random request, applied to the model, and what its reply must be.
    fn next(&mut self, id: u32, frame: &mut Vec<u8>) -> Pending {
        let key = self.random.random_range(0..self.keys.len());
        match self.random.random_range(0..100) {
            0..25 => self.one(id, frame, key, Self::get),
            25..50 => self.one(id, frame, key, Self::set),
            50..56 => self.one(id, frame, key, Self::delete),
            56..60 => self.one(id, frame, key, Self::touch),
            60..64 => self.one(id, frame, key, Self::get_and_touch),
            64..74 => self.one(id, frame, key, Self::increment),
            74..84 => self.one(id, frame, key, Self::extend),
            84..90 => self.multi_get(id, frame),
            90..97 => self.multi_set(id, frame),
            97 if self.has_flush => {
                RequestBody::Flush.encode(id, RequestOptions::default(), frame);
                self.entries.fill(None);
                Pending { parts: vec![Expected::ended(0, Status::Ok)], is_multi: false }
            }
            _ => {
                RequestBody::Ping { payload: b"ping" }.encode(id, RequestOptions::default(), frame);
                let value = Some((b"ping".to_vec(), 0));
                Pending { parts: vec![Expected { value, ..Expected::ended(0, Status::Ok) }], is_multi: false }
            }
        }
    }

    fn one(
        &mut self,
        id: u32,
        frame: &mut Vec<u8>,
        key: usize,
        operation: fn(&mut Self, u32, &mut Vec<u8>, usize) -> Expected,
    ) -> Pending {
        Pending { parts: vec![operation(self, id, frame, key)], is_multi: false }
    }

    fn get(&mut self, id: u32, frame: &mut Vec<u8>, key: usize) -> Expected {
        RequestBody::Get { key: &self.keys[key] }.encode(id, RequestOptions::default(), frame);
        self.hit(key)
    }

    fn hit(&self, key: usize) -> Expected {
        match &self.entries[key] {
            Some(entry) => Expected {
                status: Status::Ok,
                value: Some((entry.value.clone(), entry.client_flags)),
                key,
                version: Carried::Of(entry.written_by),
            },
            None => Expected::ended(key, Status::Miss),
        }
    }

    fn set(&mut self, id: u32, frame: &mut Vec<u8>, key: usize) -> Expected {
        let condition = match self.random.random_range(0..10) {
            0 | 1 => SetCondition::IfAbsent,
            2 | 3 => SetCondition::IfPresent,
            // No item ever has this version.
            4 => SetCondition::IfVersion,
            _ => SetCondition::Always,
        };
        let value = self.value();
        let parameters = SetParameters { client_flags: id, if_version: 1, ttl_ms: LONG_MS, ..Default::default() };
        let body = RequestBody::Set { key: &self.keys[key], parameters, condition, value: &value };
        body.encode(id, RequestOptions::default(), frame);
        let current = self.entries[key].as_ref().map(|entry| entry.written_by);
        let holds = match condition {
            SetCondition::Always => true,
            SetCondition::IfAbsent => current.is_none(),
            SetCondition::IfPresent => current.is_some(),
            SetCondition::IfVersion => false,
        };
        if !holds {
            return Expected {
                version: current.map_or(Carried::None, Carried::Of),
                ..Expected::ended(key, Status::ConditionFailed)
            };
        }
        self.write(id, key, value, id)
    }

    fn write(&mut self, id: u32, key: usize, value: Vec<u8>, client_flags: u32) -> Expected {
        self.entries[key] = Some(Entry { value, client_flags, written_by: id });
        Expected { version: Carried::Own, ..Expected::ended(key, Status::Ok) }
    }

    /// Most are small; some are received into the arena; some are numbers.
    fn value(&mut self) -> Vec<u8> {
        let bytes = match self.random.random_range(0..20) {
            0..4 => return self.random.random_range(-1000..1000i64).to_string().into_bytes(),
            4..15 => self.random.random_range(0..500),
            15..18 => self.random.random_range(500..30_000),
            _ => self.random.random_range(32 << 10..self.large_bytes_max),
        };
        let seed: u8 = self.random.random();
        (0..bytes).map(|at| seed.wrapping_add((at / 7) as u8)).collect()
    }

    fn delete(&mut self, id: u32, frame: &mut Vec<u8>, key: usize) -> Expected {
        RequestBody::Delete { key: &self.keys[key] }.encode(id, RequestOptions::default(), frame);
        match self.entries[key].take() {
            Some(_) => Expected { version: Carried::Own, ..Expected::ended(key, Status::Ok) },
            None => Expected::ended(key, Status::Miss),
        }
    }

    fn touch(&mut self, id: u32, frame: &mut Vec<u8>, key: usize) -> Expected {
        RequestBody::Touch { key: &self.keys[key], ttl_ms: LONG_MS }.encode(id, RequestOptions::default(), frame);
        match &mut self.entries[key] {
            Some(entry) => {
                entry.written_by = id;
                Expected { version: Carried::Own, ..Expected::ended(key, Status::Ok) }
            }
            None => Expected::ended(key, Status::Miss),
        }
    }

    fn get_and_touch(&mut self, id: u32, frame: &mut Vec<u8>, key: usize) -> Expected {
        RequestBody::GetAndTouch { key: &self.keys[key], ttl_ms: LONG_MS }.encode(id, RequestOptions::default(), frame);
        if let Some(entry) = &mut self.entries[key] {
            entry.written_by = id;
        }
        let hit = self.hit(key);
        if hit.status == Status::Ok { Expected { version: Carried::Own, ..hit } } else { hit }
    }

    fn increment(&mut self, id: u32, frame: &mut Vec<u8>, key: usize) -> Expected {
        let create = self.random.random_range(0..2);
        let parameters =
            IncrementParameters { delta: self.random.random_range(-50..50), initial: 7, ttl_ms: LONG_MS, create };
        let body = RequestBody::Increment { key: &self.keys[key], parameters };
        body.encode(id, RequestOptions::default(), frame);
        let number_of = |value: &[u8]| std::str::from_utf8(value).ok().filter(|text| text.len() <= 20)?.parse().ok();
        let (number, client_flags) = match &self.entries[key] {
            None if create == 1 => (7, 0),
            None => return Expected::ended(key, Status::Miss),
            Some(entry) => match number_of(&entry.value).map(|number: i64| number.checked_add(parameters.delta)) {
                Some(Some(number)) => (number, entry.client_flags),
                Some(None) => return Expected::ended(key, Status::CounterOverflow),
                None => return Expected::ended(key, Status::NotANumber),
            },
        };
        let written = self.write(id, key, number.to_string().into_bytes(), client_flags);
        Expected { value: Some((number.to_le_bytes().to_vec(), 0)), ..written }
    }

    fn extend(&mut self, id: u32, frame: &mut Vec<u8>, key: usize) -> Expected {
        let old = self.entries[key].as_ref().map(|entry| (entry.value.clone(), entry.client_flags));
        let mut bytes = self.value();
        if old.as_ref().is_some_and(|(value, _)| value.len() + bytes.len() > VALUE_BYTES_MAX) {
            bytes.truncate(1);
        }
        let is_append = self.random.random_range(0..2) == 0;
        let (key_bytes, value) = (&self.keys[key], &bytes[..]);
        let body = if is_append {
            RequestBody::Append { key: key_bytes, value }
        } else {
            RequestBody::Prepend { key: key_bytes, value }
        };
        body.encode(id, RequestOptions::default(), frame);
        match old {
            None => Expected::ended(key, Status::Miss),
            Some((old, client_flags)) => {
                let value = if is_append { [old, bytes].concat() } else { [bytes, old].concat() };
                self.write(id, key, value, client_flags)
            }
        }
    }

    /// Random keys, each at most once: within one frame the order of equal keys is nobody's promise.
    fn some_keys(&mut self) -> Vec<usize> {
        (0..self.keys.len()).filter(|_| self.random.random_range(0..3) > 0).collect()
    }

    fn multi_get(&mut self, id: u32, frame: &mut Vec<u8>) -> Pending {
        let keys = self.some_keys();
        let mut body = Vec::new();
        keys.iter().for_each(|key| Keys::push(&self.keys[*key], &mut body));
        RequestBody::MultiGet(Keys::parse(keys.len(), &body).expect("keys")).encode(
            id,
            RequestOptions::default(),
            frame,
        );
        Pending { parts: keys.iter().map(|key| self.hit(*key)).collect(), is_multi: true }
    }

    fn multi_set(&mut self, id: u32, frame: &mut Vec<u8>) -> Pending {
        let keys = self.some_keys();
        let values: Vec<_> = keys.iter().map(|_| self.value()).collect();
        let mut body = Vec::new();
        for (key, value) in keys.iter().zip(&values) {
            Items::push(Item { key: &self.keys[*key], value, ttl_ms: LONG_MS, client_flags: id }, &mut body);
        }
        RequestBody::MultiSet(Items::parse(keys.len(), &body).expect("items")).encode(
            id,
            RequestOptions::default(),
            frame,
        );
        let parts = keys.iter().zip(values).map(|(key, value)| self.write(id, *key, value, id)).collect();
        Pending { parts, is_multi: true }
    }
}

/// Drives one connection: sends in bursts, is deaf in between, and checks every reply.
struct Driver {
    client: WireClient,
    model: Model,
    pending: HashMap<u32, Pending>,
    /// The version that each write made of a key.
    versions: HashMap<(u32, usize), Version>,
    /// Versions seen: by which request, of which key, made by which request. Looked at when all replies are in.
    seen: Vec<(u32, usize, u32, Version)>,
    received: Vec<u8>,
    /// Bytes of `received` that are decoded.
    decoded: usize,
    /// Reads that were refused at a limit.
    refused: usize,
}

impl Driver {
    fn new(client: WireClient, model: Model) -> Self {
        client.stream.set_write_timeout(Some(Duration::from_millis(20))).expect("a socket option");
        Self {
            client,
            model,
            pending: HashMap::new(),
            versions: HashMap::new(),
            seen: Vec::new(),
            received: Vec::new(),
            decoded: 0,
            refused: 0,
        }
    }

    fn run(mut self, requests: u32) {
        let mut sent = 0;
        let mut writes: Vec<Vec<u32>> = vec![Vec::new(); self.model.keys.len()];
        while sent < requests || !self.pending.is_empty() {
            let burst = self.model.random.random_range(1..1500).min(requests - sent);
            let mut frames = Vec::new();
            for _ in 0..burst {
                sent += 1;
                let pending = self.model.next(sent, &mut frames);
                for part in pending.parts.iter().filter(|part| part.version == Carried::Own) {
                    writes[part.key].push(sent);
                }
                self.pending.insert(sent, pending);
            }
            self.send(&frames);
            // Read all, or leave so much lying that the node has to wait for this reader.
            let leave = if sent < requests { self.model.random.random_range(0..1500) } else { 0 };
            while self.pending.len() > leave {
                self.receive();
            }
        }
        for (id, key, by, version) in &self.seen {
            assert_eq!(self.versions.get(&(*by, *key)), Some(version), "request {id} saw key {key} as {by} wrote it");
        }
        for (key, writes) in writes.iter().enumerate() {
            let versions: Vec<_> = writes.iter().map(|id| self.versions[&(*id, key)]).collect();
            assert!(versions.is_sorted_by(|earlier, later| earlier < later), "the versions of key {key} rise");
        }
        assert!(self.refused < self.seen.len() / 2, "{} reads were refused: this proves little", self.refused);
    }

    /// Sends everything; reads what has come only while the node has stopped reading.
    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.client.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    self.client.stream.set_nonblocking(true).expect("a socket option");
                    while self.read() {}
                    self.client.stream.set_nonblocking(false).expect("a socket option");
                    while let Some(answer) = self.decode() {
                        self.answered(answer);
                    }
                }
                Err(error) => panic!("the node closed the connection: {error}"),
            }
        }
    }

    fn receive(&mut self) {
        loop {
            match self.decode() {
                Some(answer) => return self.answered(answer),
                None => assert!(self.read(), "no reply, and {} to come", self.pending.len()),
            }
        }
    }

    fn decode(&mut self) -> Option<Answer> {
        let (reply, bytes) = Reply::decode(&self.received[self.decoded..]).expect("a reply of this protocol")?;
        let answer = Answer {
            id: reply.id,
            status: reply.status,
            version: reply.version,
            client_flags: reply.client_flags,
            is_stale: reply.is_stale,
            value: reply.value.to_vec(),
        };
        self.decoded += bytes;
        Some(answer)
    }

    /// Whether something has come.
    fn read(&mut self) -> bool {
        self.received.drain(..std::mem::take(&mut self.decoded));
        let start = self.received.len();
        self.received.resize(start + (256 << 10), 0);
        let result = self.client.stream.read(&mut self.received[start..]);
        self.received.truncate(start + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => panic!("the node closed the connection with {} replies to come", self.pending.len()),
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("the connection broke: {error}"),
        }
    }

    fn answered(&mut self, answer: Answer) {
        let Answer { id, status, version, client_flags, value, .. } = answer;
        let pending = self.pending.remove(&id).expect("a reply to a request that waits for one");
        if !pending.is_multi {
            self.check(id, &pending.parts[0], status, version, client_flags, &value);
            return;
        }
        assert_eq!(status, Status::Ok, "request {id}");
        let mut rest = &value[..];
        for part in &pending.parts {
            let (result, after) = MultiResult::take(rest).expect("a result for each key");
            rest = after;
            self.check(id, part, result.status, result.version, result.client_flags, result.value);
        }
        assert!(rest.is_empty(), "request {id}");
    }

    fn check(&mut self, id: u32, expected: &Expected, status: Status, version: Version, flags: u32, value: &[u8]) {
        let is_read = matches!(expected.version, Carried::Of(_)) && expected.status == Status::Ok;
        if is_read && matches!(status, Status::Overloaded | Status::TooLarge) {
            self.refused += 1;
            return;
        }
        assert_ne!(status, Status::Overloaded, "request {id}: a write was refused");
        assert_eq!(status, expected.status, "request {id}");
        match &expected.value {
            Some((bytes, client_flags)) => {
                assert!(value == bytes, "request {id}: {} bytes; {} were to come", value.len(), bytes.len());
                assert_eq!(flags, *client_flags, "request {id}");
            }
            None => assert!(value.is_empty(), "request {id} has a value"),
        }
        match expected.version {
            Carried::None => {}
            Carried::Own => drop(self.versions.insert((id, expected.key), version)),
            Carried::Of(by) => self.seen.push((id, expected.key, by, version)),
        }
    }
}

fn model(keys: Vec<Vec<u8>>, seed: u64) -> Model {
    let entries = vec![None; keys.len()];
    Model { keys, entries, random: StdRng::seed_from_u64(seed), has_flush: true, large_bytes_max: 200 << 10 }
}

#[test]
fn requests_for_one_key_take_effect_in_sending_order_over_hops_and_stalls() {
    let node = Running::with(3, |options| options.memory_bytes = 3 * (192 << 20));
    let keys = (0..3).flat_map(|core| (0..2).map(move |number| (core, number)));
    let keys = keys.map(|(core, number)| node.key(core, number)).collect();
    let client = WireClient::connect(node.address(), HelloParameters::ANY_CORE);
    Driver::new(client, model(keys, seed())).run(20_000);
    for reason in ["output", "credit"] {
        assert!(node.sum_of("connection_stalls_total", reason) > 0, "no stall for {reason}: this proves little");
    }
    assert!(node.sum("requests_forwarded_total") > 0 && node.sum("gathers") == 0);
}

#[test]
fn requests_for_one_key_take_effect_in_sending_order_on_its_own_core() {
    let node = Running::with(1, |options| options.memory_bytes = 192 << 20);
    let keys = (0..5).map(|number| node.key(0, number)).collect();
    let client = WireClient::connect(node.address(), HelloParameters::ANY_CORE);
    Driver::new(client, model(keys, seed())).run(20_000);
    assert!(node.sum_of("connection_stalls_total", "output") > 0, "no stall: this proves little");
}

#[test]
fn connections_that_share_queues_and_credits_keep_their_own_orders() {
    let node = Running::with(4, |options| options.memory_bytes = 4 * (192 << 20));
    let seed = seed();
    std::thread::scope(|scope| {
        for writer in 0..5usize {
            let keys = (0..4).map(|core| node.key(core, writer)).collect();
            let model = model(keys, seed.wrapping_add(writer as u64));
            let model = Model { has_flush: false, large_bytes_max: 40 << 10, ..model };
            let client = WireClient::connect(node.address(), writer as u16 % 4);
            scope.spawn(move || Driver::new(client, model).run(5000));
        }
    });
}
