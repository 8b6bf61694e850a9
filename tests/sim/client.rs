//! Clients: each asks one thing at a time, and goes on as the native client does.
//!
//! It routes by a topology that it fetches from any node and again when it is told `Moved`; gives an attempt up after half a
//! second; asks again what was refused, and what is in doubt as a repeat under its first token (C13), until its deadline.

use quoit_wire::topology::{Seat, Topology, key_hash};
use quoit_wire::{
    IncrementParameters, Reply, RequestBody, RequestFlags, RequestOptions, RetryToken, SetCondition, SetParameters,
    Status, Version, WriteMode,
};
use rand::RngExt;
use rand::rngs::StdRng;

use super::history::{Ask, COUNTER_BASE, EVERY_KEY, FILLING, FILLING_WORDS, History, Operation, Outcome};

/// Keys of lists, then of lists that live for a while, then of counters.
const LISTS: usize = 8;
const MORTALS: usize = 4;
pub(super) const KEYS: usize = 16;
/// Keys that are hot together.
pub(super) const HOT_KEYS: usize = 3;

const ATTEMPT_US_MAX: u64 = 500_000;
const DEADLINE_US: u64 = 5_000_000;
/// Reads that any copy may answer.
const ANY_PERCENT: u32 = 10;
/// Asks that are flushes.
const FLUSHES_PER_MILLE: u32 = 2;
/// From an answer to the next ask.
const THINKING_US: std::ops::Range<u64> = 1_000..75_000;

pub(super) fn key_name(key: usize) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// What clients do now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) only_reads: bool,
    /// All asks are for the few keys from this one on.
    pub(super) hot: Option<usize>,
    /// Writes wait for one copy, and none depends on what was there.
    pub(super) is_plain: bool,
}

/// What a client asks of the core of the node with this id.
pub(super) struct Letter {
    pub(super) node: u64,
    pub(super) core: u16,
    pub(super) frame: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Client {
    number: usize,
    session: u64,
    writes: u32,
    topology: Option<Topology>,
    is_outdated: bool,
    asking: Option<Asking>,
    /// When it goes on by itself.
    pub(super) wake_us: u64,
    /// The last version it saw of each key, for conditions.
    seen: Vec<Version>,
}

#[derive(Debug)]
struct Asking {
    operation: usize,
    token: Option<RetryToken>,
    deadline_us: u64,
    /// The request that is not answered, by its id.
    attempt: Option<u32>,
    /// An attempt may have been carried out.
    is_in_doubt: bool,
    /// Of a flush, every core there is by the topology of this epoch.
    parts: Vec<Part>,
    parts_epoch: u32,
}

/// One core's part of a flush.
#[derive(Clone, Copy, Debug)]
struct Part {
    node: u64,
    core: u16,
    /// The request of it that was sent last.
    attempt: Option<u32>,
    is_done: bool,
}

impl Client {
    pub(super) fn new(number: usize, session: u64) -> Self {
        Self {
            number,
            session,
            writes: 0,
            topology: None,
            is_outdated: true,
            asking: None,
            wake_us: 0,
            seen: vec![Version::NONE; KEYS],
        }
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// There is a newer topology than the one it knows.
    pub(super) fn hear_news(&mut self) {
        self.is_outdated = true;
    }

    /// Its time has come: it asks, or asks again. `nodes` are ids to learn the topology from.
    pub(super) fn wake(
        &mut self,
        random: &mut StdRng,
        history: &mut History,
        now_us: u64,
        nodes: &[u64],
        load: Load,
    ) -> Vec<Letter> {
        if let Some(asking) = &mut self.asking {
            let has_waited = asking.parts.iter().any(|part| part.attempt.is_some() && !part.is_done);
            if asking.attempt.take().is_some() || has_waited {
                // Nobody answered: whether it was carried out is not known, and the topology may be old.
                (asking.is_in_doubt, self.is_outdated) = (true, true);
            }
            if now_us >= asking.deadline_us {
                let outcome = if asking.is_in_doubt { Outcome::Unknown } else { Outcome::Refused };
                self.end(random, history, now_us, outcome);
                return Vec::new();
            }
        } else {
            self.begin(random, history, now_us, load);
        }
        self.send(random, history, now_us, nodes)
    }

    fn begin(&mut self, random: &mut StdRng, history: &mut History, now_us: u64, load: Load) {
        let key = load.hot.map_or(0..KEYS, |first| first..first + HOT_KEYS);
        let is_flush = !load.only_reads && !load.is_plain && random.random_range(0..1000) < FLUSHES_PER_MILLE;
        let key = if is_flush { EVERY_KEY } else { random.random_range(key) };
        let ask = if is_flush {
            Ask::Flush
        } else if load.only_reads {
            Ask::Get
        } else {
            self.choose(random, key, load.is_plain)
        };
        let takes_any = ask == Ask::Get && random.random_range(0..100) < ANY_PERCENT;
        let ask = if takes_any { Ask::GetAny } else { ask };
        let mode = match random.random_range(0..10) {
            0 => WriteMode::Async,
            1..4 => WriteMode::All,
            _ => WriteMode::One,
        };
        let mode = if load.is_plain { WriteMode::One } else { mode };
        let needs_token = matches!(ask, Ask::SetIfAbsent | Ask::SetIfVersion(_) | Ask::Append | Ask::Increment);
        let token = needs_token.then(|| {
            self.writes += 1;
            RetryToken { session: self.session, number: self.writes }
        });
        let operation = history.operations.len();
        history.operations.push(Operation {
            client: self.number,
            key,
            ask,
            mode,
            invoked_us: now_us,
            finished_us: u64::MAX,
            outcome: Outcome::Pending,
        });
        let deadline_us = now_us + DEADLINE_US;
        self.asking = Some(Asking {
            operation,
            token,
            deadline_us,
            attempt: None,
            is_in_doubt: false,
            parts: Vec::new(),
            parts_epoch: 0,
        });
    }

    fn choose(&self, random: &mut StdRng, key: usize, is_plain: bool) -> Ask {
        let draw = random.random_range(0..100);
        if is_plain && key < LISTS + MORTALS {
            return match draw {
                0..20 => Ask::Get,
                20..70 => Ask::Set { ttl_ms: 0 },
                _ => Ask::Delete,
            };
        }
        if key >= LISTS + MORTALS {
            return if draw < 40 { Ask::Get } else { Ask::Increment };
        }
        let is_mortal = key >= LISTS;
        let ttl_ms = if is_mortal { random.random_range(300..4000) } else { 0 };
        match draw {
            0..45 => Ask::Get,
            45..57 => Ask::Set { ttl_ms },
            57..60 => Ask::SetLarge,
            60..75 => Ask::Append,
            75..85 => Ask::Delete,
            85..90 => Ask::SetIfAbsent,
            90..95 => Ask::SetIfVersion(self.seen[key]),
            _ if is_mortal => Ask::Touch { ttl_ms },
            _ => Ask::Append,
        }
    }

    fn send(&mut self, random: &mut StdRng, history: &mut History, now_us: u64, nodes: &[u64]) -> Vec<Letter> {
        let Some(asking) = &mut self.asking else { return Vec::new() };
        self.wake_us = now_us + ATTEMPT_US_MAX;
        let mut frame = Vec::new();
        let topology = match &self.topology {
            Some(topology) if !self.is_outdated => topology,
            known => {
                let node = nodes[random.random_range(0..nodes.len())];
                let known_epoch = known.as_ref().map_or(0, |known| known.epoch);
                RequestBody::Topology { known_epoch }.encode(u32::MAX, RequestOptions::default(), &mut frame);
                return vec![Letter { node, core: 0, frame }];
            }
        };
        if history.operations[asking.operation].ask == Ask::Flush {
            return asking.send_parts(history, topology);
        }
        let id = history.begin_attempt(asking.operation);
        let operation = &history.operations[asking.operation];
        asking.attempt = Some(id);
        let key = key_name(operation.key);
        let seat = match operation.ask {
            Ask::GetAny => {
                let seats: Vec<Seat> = topology.vnodes[topology.vnode(&key)].seats().collect();
                seats[random.random_range(0..seats.len())]
            }
            _ => topology.owner(&key),
        };
        let Some(node) = topology.nodes.get(usize::from(seat.node)) else {
            self.is_outdated = true;
            return Vec::new();
        };
        let mut flags = RequestFlags::default();
        if operation.ask == Ask::GetAny {
            flags = flags.with(RequestFlags::ANY_COPY);
        }
        if operation.ask.is_write() {
            flags = flags.with_write_mode(operation.mode);
        }
        if asking.is_in_doubt && asking.token.is_some() {
            flags = flags.with(RequestFlags::REPEAT);
        }
        let options = RequestOptions { epoch: topology.epoch, flags, trace: None, retry: asking.token };
        encode(asking.operation, operation.ask, &key, id, options, &mut frame);
        vec![Letter { node: node.id, core: seat.core, frame }]
    }

    /// A reply has come; whether it made the client ready to go on at once.
    pub(super) fn handle_reply(&mut self, random: &mut StdRng, history: &mut History, now_us: u64, bytes: &[u8]) {
        let (reply, _) = Reply::decode(bytes).expect("a reply").expect("a whole reply");
        if reply.id == u32::MAX {
            self.take_topology(now_us, &reply);
            return;
        }
        if self.asking.as_ref().is_some_and(|asking| asking.parts.iter().any(|part| part.attempt == Some(reply.id))) {
            return self.handle_part(random, history, now_us, &reply);
        }
        let Some(asking) = self.asking.as_mut().filter(|asking| asking.attempt == Some(reply.id)) else { return };
        match reply.status {
            Status::Moved => {
                asking.attempt = None;
                let known = self.topology.as_ref().map_or(0, |topology| topology.epoch);
                self.is_outdated |= reply.version.as_u64() > u64::from(known);
                self.wake_us = now_us + random.random_range(1_000..30_000);
            }
            Status::Overloaded | Status::NotEnoughCopies => {
                asking.attempt = None;
                let wait_us = u64::from(reply.retry_after_ms.max(5)) * 1000;
                self.wake_us = now_us + random.random_range(wait_us..3 * wait_us);
            }
            Status::OutcomeUnknown => self.end(random, history, now_us, Outcome::Unknown),
            // Nothing was changed by this attempt.
            Status::NoSpace if !asking.is_in_doubt => self.end(random, history, now_us, Outcome::Refused),
            Status::NoSpace => self.end(random, history, now_us, Outcome::Unknown),
            status => {
                let operation = &history.operations[asking.operation];
                if !reply.is_stale && (operation.ask.is_get() || reply.version != Version::NONE) {
                    self.seen[operation.key] = reply.version;
                }
                let (version, value) = (reply.version, reply.value.to_vec());
                self.end(
                    random,
                    history,
                    now_us,
                    Outcome::Answered { status, version, value, is_stale: reply.is_stale },
                );
            }
        }
    }

    /// A core has answered its part of a flush. What was refused, or may not be whole, is asked again.
    fn handle_part(&mut self, random: &mut StdRng, history: &mut History, now_us: u64, reply: &Reply<'_>) {
        let Some(asking) = &mut self.asking else { return };
        let Some(part) = asking.parts.iter_mut().find(|part| part.attempt == Some(reply.id)) else { return };
        part.attempt = None;
        match reply.status {
            Status::Ok => {
                part.is_done = true;
                history.note_flushed(asking.operation, reply.id, now_us);
                if asking.parts.iter().all(|part| part.is_done) {
                    let (status, version) = (Status::Ok, Version::NONE);
                    let outcome = Outcome::Answered { status, version, value: Vec::new(), is_stale: false };
                    self.end(random, history, now_us, outcome);
                }
            }
            Status::Moved => {
                // Another core's vnodes may have come and gone meanwhile: all of it is asked anew.
                (self.is_outdated, asking.is_in_doubt) = (true, true);
                asking.parts.clear();
                self.wake_us = now_us + random.random_range(1_000..30_000);
            }
            _ => {
                asking.is_in_doubt = true;
                self.wake_us = self.wake_us.min(now_us + random.random_range(5_000..50_000));
            }
        }
    }

    fn take_topology(&mut self, now_us: u64, reply: &Reply<'_>) {
        self.is_outdated = false;
        if !reply.value.is_empty()
            && let Ok(topology) = Topology::from_bytes(reply.value)
            && self.topology.as_ref().is_none_or(|known| known.epoch < topology.epoch)
        {
            self.topology = Some(topology);
        }
        let is_idle =
            |asking: &Asking| asking.attempt.is_none() && asking.parts.iter().all(|part| part.attempt.is_none());
        if self.asking.as_ref().is_some_and(is_idle) {
            self.wake_us = now_us;
        }
    }

    fn end(&mut self, random: &mut StdRng, history: &mut History, now_us: u64, outcome: Outcome) {
        let Some(asking) = self.asking.take() else { return };
        let operation = &mut history.operations[asking.operation];
        (operation.finished_us, operation.outcome) = (now_us, outcome);
        self.wake_us = now_us + random.random_range(THINKING_US);
    }
}

impl Asking {
    /// Asks every core for its part of a flush that has not answered; of another topology, all of them.
    fn send_parts(&mut self, history: &mut History, topology: &Topology) -> Vec<Letter> {
        if self.parts.is_empty() || self.parts_epoch != topology.epoch {
            let cores = topology.nodes.iter().flat_map(|node| (0..node.cores).map(|core| (node.id, core)));
            self.parts = cores.map(|(node, core)| Part { node, core, attempt: None, is_done: false }).collect();
            self.parts_epoch = topology.epoch;
        }
        let mode = history.operations[self.operation].mode;
        let flags = RequestFlags::default().with_write_mode(mode);
        let options = RequestOptions { epoch: topology.epoch, flags, trace: None, retry: None };
        let mut letters = Vec::new();
        for part in self.parts.iter_mut().filter(|part| !part.is_done) {
            let id = history.begin_attempt(self.operation);
            part.attempt = Some(id);
            let mut frame = Vec::new();
            RequestBody::Flush.encode(id, options, &mut frame);
            letters.push(Letter { node: part.node, core: part.core, frame });
        }
        letters
    }
}

/// The vnode of a key.
pub(super) fn vnode_of_key(hash_seed: u64, vnode_bits: u8, key: usize) -> usize {
    quoit_wire::topology::vnode_of(key_hash(hash_seed, &key_name(key)), vnode_bits)
}

fn encode(operation: usize, ask: Ask, key: &[u8], id: u32, options: RequestOptions, frame: &mut Vec<u8>) {
    let number = u32::try_from(operation).expect("few operations").to_le_bytes();
    let set = |ttl_ms, condition, if_version: Version, frame: &mut Vec<u8>| {
        let parameters = SetParameters { ttl_ms, if_version: if_version.as_u64(), ..SetParameters::default() };
        RequestBody::Set { key, parameters, condition, value: &number }.encode(id, options, frame);
    };
    match ask {
        Ask::Get | Ask::GetAny => RequestBody::Get { key }.encode(id, options, frame),
        Ask::Set { ttl_ms } => set(ttl_ms, SetCondition::Always, Version::NONE, frame),
        Ask::SetLarge => {
            let mut value = number.to_vec();
            (0..FILLING_WORDS).for_each(|_| value.extend(FILLING.to_le_bytes()));
            let set = RequestBody::Set {
                key,
                parameters: SetParameters::default(),
                condition: SetCondition::Always,
                value: &value,
            };
            set.encode(id, options, frame);
        }
        Ask::SetIfAbsent => set(0, SetCondition::IfAbsent, Version::NONE, frame),
        Ask::SetIfVersion(version) => set(0, SetCondition::IfVersion, version, frame),
        Ask::Append => RequestBody::Append { key, value: &number }.encode(id, options, frame),
        Ask::Delete => RequestBody::Delete { key }.encode(id, options, frame),
        Ask::Touch { ttl_ms } => RequestBody::Touch { key, ttl_ms }.encode(id, options, frame),
        Ask::Flush => unreachable!("a flush is sent in parts"),
        Ask::Increment => {
            let initial = i64::try_from(operation).expect("few operations") * COUNTER_BASE;
            let parameters = IncrementParameters { delta: 1, initial, ttl_ms: 0, create: 1 };
            RequestBody::Increment { key, parameters }.encode(id, options, frame);
        }
    }
}
