//! Clients: each is the native client's own session, asked one thing at a time.
//!
//! The session decides all that a client decides: whom it connects to, where a request goes, what is asked again and when it
//! is given up. Here are only what it is asked, its end of each connection, and what its answers mean to the history.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use quoit_client::session::{Action, LinkId, Session};
use quoit_client::{
    Answer, Condition, Error, Fault, IncrementOptions, Instant, Item, Options, Outcome as Ended, Request, SetOptions,
};
use quoit_wire::topology::key_hash;
use quoit_wire::{Request as WireRequest, RequestBody, RequestHead, Status, Version, WriteMode, request_head};
use rand::RngExt;
use rand::rngs::StdRng;

use super::history::{Ask, Attempt, COUNTER_BASE, EVERY_KEY, FILLING, FILLING_WORDS, History, Operation, Outcome};
use super::node::{VALUE_BYTES_MAX, id_of_address};

/// Keys of lists, then of lists that live for a while, then of counters.
const LISTS: usize = 8;
const MORTALS: usize = 4;
pub(super) const KEYS: usize = 16;
/// Keys that are hot together.
pub(super) const HOT_KEYS: usize = 3;

/// Longer than the default, which many of the faults outlast.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// Reads that any copy may answer.
const ANY_PERCENT: u32 = 10;
/// Gets and sets that are for several keys, and so many more at most.
const MULTI_PERCENT: u32 = 15;
const MORE_KEYS_MAX: usize = 4;
/// Asks that are flushes.
const FLUSHES_PER_MILLE: u32 = 2;
/// From an answer to the next ask, and from one look at whether there is anything to ask to the next.
const THINKING_US: Range<u64> = 1_000..75_000;
const QUIET_US: u64 = 50_000;

pub(super) fn key_name(key: usize) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// What clients do now.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    pub(super) only_reads: bool,
    /// All asks are for these few keys.
    pub(super) hot: Option<Range<usize>>,
    /// Writes wait for one copy, and none depends on what was there.
    pub(super) is_plain: bool,
}

/// A connection of a client: its client, and which one of that client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId {
    pub(super) client: usize,
    number: u32,
}

/// What a client does to its connections.
#[derive(Debug)]
pub(super) enum Effect {
    /// Makes one to the node with this id.
    Connect {
        connection: ConnectionId,
        node: u64,
    },
    Close(ConnectionId),
    /// Sends a frame; the attempt is the history's number for it, none for what no operation needs.
    Send {
        connection: ConnectionId,
        attempt: Option<u32>,
        frame: Vec<u8>,
    },
}

#[derive(Debug)]
pub(super) struct Client {
    number: usize,
    session: Session<usize>,
    /// The session's name of each connection.
    links: BTreeMap<ConnectionId, LinkId>,
    connections: u32,
    /// The operations that are under way: one, or one for each key of a request for several.
    asking: Vec<usize>,
    /// Nothing new is asked before.
    next_ask_us: u64,
    /// When its next wake-up is planned.
    pub(super) wake_us: u64,
    /// The last version it saw of each key, for conditions.
    seen: Vec<Version>,
}

impl Client {
    /// A client that knows these addresses to begin with.
    pub(super) fn new(number: usize, servers: Vec<String>, seed: u64, now_us: u64) -> Self {
        let options = Options { deadline: DEADLINE, ..Options::default() };
        Self {
            number,
            session: Session::new(servers, options, seed, instant(now_us)).expect("servers are named"),
            links: BTreeMap::new(),
            connections: 0,
            asking: Vec::new(),
            next_ask_us: now_us,
            wake_us: u64::MAX,
            seen: vec![Version::NONE; KEYS],
        }
    }

    /// Its time has come: it does what is due, and asks something new, if there is any load.
    pub(super) fn wake(&mut self, random: &mut StdRng, history: &mut History, now_us: u64, load: Option<Load>) {
        self.session.handle_timeout(instant(now_us));
        self.take_ended(random, history, now_us);
        if !self.asking.is_empty() || now_us < self.next_ask_us {
            return;
        }
        match load {
            Some(load) => self.begin(random, history, now_us, load),
            None => self.next_ask_us = now_us + QUIET_US,
        }
    }

    /// When it has something to do next by itself.
    pub(super) fn next_us(&self) -> u64 {
        let ask_us = if self.asking.is_empty() { self.next_ask_us } else { u64::MAX };
        let timeout = self.session.poll_timeout().map(|at| at.since(Instant::ORIGIN).as_nanos().div_ceil(1000));
        timeout.and_then(|at_us| u64::try_from(at_us).ok()).map_or(ask_us, |at_us| at_us.min(ask_us))
    }

    pub(super) fn handle_connected(&mut self, now_us: u64, connection: ConnectionId) {
        if let Some(link) = self.links.get(&connection) {
            self.session.handle_connected(*link, instant(now_us));
        }
    }

    pub(super) fn handle_bytes(&mut self, now_us: u64, connection: ConnectionId, bytes: &[u8]) {
        if let Some(link) = self.links.get(&connection) {
            self.session.handle_bytes(*link, bytes, instant(now_us));
        }
    }

    pub(super) fn handle_lost(&mut self, now_us: u64, connection: ConnectionId) {
        if let Some(link) = self.links.remove(&connection) {
            self.session.handle_lost(link, Fault::Closed, instant(now_us));
        }
    }

    /// All that it does now.
    pub(super) fn effects(&mut self, random: &mut StdRng, history: &mut History, now_us: u64) -> Vec<Effect> {
        let now = instant(now_us);
        let mut effects = Vec::new();
        loop {
            let before = effects.len();
            while let Some(action) = self.session.poll_action() {
                effects.extend(self.act(action));
            }
            for (connection, link) in &self.links {
                let bytes = self.session.poll_output(*link, now).to_vec();
                self.session.handle_written(*link, bytes.len(), now);
                let mut rest = bytes.as_slice();
                while let Some(head) = request_head(rest, VALUE_BYTES_MAX).expect("its frames are right") {
                    let (frame, after) = rest.split_at(head.frame_bytes);
                    rest = after;
                    let attempt = attempt(&self.asking, history, head, frame);
                    let attempt = attempt.map(|attempt| history.begin_attempt(attempt));
                    effects.push(Effect::Send { connection: *connection, attempt, frame: frame.to_vec() });
                }
            }
            self.take_ended(random, history, now_us);
            if effects.len() == before {
                return effects;
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<Effect> {
        match action {
            Action::Connect { link, address } => {
                self.connections += 1;
                let connection = ConnectionId { client: self.number, number: self.connections };
                self.links.insert(connection, link);
                Some(Effect::Connect { connection, node: id_of_address(&address) })
            }
            Action::Close { link } => {
                let connection = self.links.iter().find(|(_, it)| **it == link).map(|(connection, _)| *connection)?;
                self.links.remove(&connection);
                Some(Effect::Close(connection))
            }
        }
    }

    fn begin(&mut self, random: &mut StdRng, history: &mut History, now_us: u64, load: Load) {
        let range = load.hot.clone().unwrap_or(0..KEYS);
        let is_flush = !load.only_reads && !load.is_plain && random.random_range(0..1000) < FLUSHES_PER_MILLE;
        let key = if is_flush { EVERY_KEY } else { random.random_range(range.clone()) };
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
        // Some gets and sets are for more keys.
        let is_multi =
            matches!(ask, Ask::Get | Ask::GetAny | Ask::Set { .. }) && random.random_range(0..100) < MULTI_PERCENT;
        let keys = if is_multi { more_keys(random, range, key, ask) } else { vec![key] };
        let first = history.operations.len();
        self.asking = (first..first + keys.len()).collect();
        history.operations.extend(keys.into_iter().map(|key| Operation {
            client: self.number,
            key,
            ask: own_ask(ask, key),
            mode,
            invoked_us: now_us,
            finished_us: u64::MAX,
            outcome: Outcome::Pending,
        }));
        let request = match is_multi {
            true => request_of_all(first, &history.operations[first..]),
            false => request(first, ask, &key_name(key)),
        };
        self.session.submit(request.with_write_mode(mode), first, instant(now_us));
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

    /// Writes into the history what the session says has ended.
    fn take_ended(&mut self, random: &mut StdRng, history: &mut History, now_us: u64) {
        while let Some((number, ended)) = self.session.poll_completion() {
            let asked = std::mem::take(&mut self.asking);
            assert_eq!(asked.first(), Some(&number), "what was asked ends, once");
            let outcomes = match ended {
                Ended::One(result) => vec![outcome(result); asked.len()],
                Ended::Many(results) if history.operations[number].ask == Ask::Flush => vec![outcome_of_all(results)],
                Ended::Many(results) => results.into_iter().map(outcome).collect(),
            };
            assert_eq!(asked.len(), outcomes.len(), "each key has its own answer");
            for (operation, outcome) in asked.into_iter().zip(outcomes) {
                let operation = &mut history.operations[operation];
                if let Outcome::Answered { version, is_stale: false, .. } = outcome
                    && (operation.ask.is_get() || version != Version::NONE)
                {
                    self.seen[operation.key] = version;
                }
                (operation.finished_us, operation.outcome) = (now_us, outcome);
            }
            self.next_ask_us = now_us + random.random_range(THINKING_US);
        }
    }
}

/// The vnode of a key.
pub(super) fn vnode_of_key(hash_seed: u64, vnode_bits: u8, key: usize) -> usize {
    quoit_wire::topology::vnode_of(key_hash(hash_seed, &key_name(key)), vnode_bits)
}

fn instant(now_us: u64) -> Instant {
    Instant::from_origin(Duration::from_micros(now_us))
}

fn outcome(result: Result<Answer, Error>) -> Outcome {
    match result {
        Ok(Answer { status, version, value, is_stale, .. }) => Outcome::Answered { status, version, value, is_stale },
        Err(error) if error.maybe_applied() => Outcome::Unknown,
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// A flush is done when each node has done its part.
fn outcome_of_all(results: Vec<Result<Answer, Error>>) -> Outcome {
    match results.iter().all(Result::is_ok) {
        true => {
            let (status, version) = (Status::Ok, Version::NONE);
            Outcome::Answered { status, version, value: Vec::new(), is_stale: false }
        }
        false => Outcome::Unknown,
    }
}

/// What a frame is in the history; nothing, if it is the session's own.
fn attempt(asking: &[usize], history: &History, head: RequestHead, frame: &[u8]) -> Option<Attempt> {
    let of_key = |key: &[u8]| {
        let is_own = |operation: &&usize| key_name(history.operations[**operation].key) == key;
        *asking.iter().find(is_own).expect("what has ended is not sent")
    };
    let (operations, is_multi) = match WireRequest::decode(head, frame).expect("its frames are right").body {
        RequestBody::Hello { .. } | RequestBody::Topology { .. } | RequestBody::TopologyChanges { .. } => return None,
        RequestBody::MultiGet(keys) => (keys.iter().map(of_key).collect(), true),
        RequestBody::MultiSet(items) => (items.iter().map(|item| of_key(item.key)).collect(), true),
        body => (vec![body.key().map_or_else(|| asking[0], of_key)], false),
    };
    Some(Attempt { operations, is_multi })
}

/// The key and some others, for which the same can be asked.
fn more_keys(random: &mut StdRng, range: Range<usize>, key: usize, ask: Ask) -> Vec<usize> {
    let mut keys = vec![key];
    for _ in 0..random.random_range(1..=MORE_KEYS_MAX) {
        let another = random.random_range(range.clone());
        let fits = ask.is_get() || another < LISTS + MORTALS;
        if fits && !keys.contains(&another) {
            keys.push(another);
        }
    }
    keys
}

/// What is asked of each of several keys: only some live for a while.
fn own_ask(ask: Ask, key: usize) -> Ask {
    match ask {
        Ask::Set { ttl_ms: 1.. } if key < LISTS => Ask::Set { ttl_ms: 0 },
        ask => ask,
    }
}

/// One request for several operations, of which the first has this number.
fn request_of_all(first: usize, operations: &[Operation]) -> Request {
    let keys: Vec<Vec<u8>> = operations.iter().map(|operation| key_name(operation.key)).collect();
    let numbers: Vec<[u8; 4]> = (first..).take(keys.len()).map(number_bytes).collect();
    match operations[0].ask {
        Ask::Get => Request::multi_get(keys),
        Ask::GetAny => Request::multi_get(keys).from_any_copy(),
        _ => Request::multi_set(operations.iter().zip(&keys).zip(&numbers).map(|((operation, key), number)| Item {
            key,
            value: number,
            ttl_ms: operation.ask.ttl_ms().unwrap_or_default(),
            client_flags: 0,
        })),
    }
}

fn number_bytes(operation: usize) -> [u8; 4] {
    u32::try_from(operation).expect("few operations").to_le_bytes()
}

fn request(operation: usize, ask: Ask, key: &[u8]) -> Request {
    let number = number_bytes(operation);
    let ttl = |ttl_ms: u64| (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms));
    let set = |condition| Request::set(key, number, SetOptions { condition, ..SetOptions::default() });
    match ask {
        Ask::Get => Request::get(key),
        Ask::GetAny => Request::get(key).from_any_copy(),
        Ask::Set { ttl_ms } => Request::set(key, number, SetOptions { ttl: ttl(ttl_ms), ..SetOptions::default() }),
        Ask::SetLarge => {
            let mut value = number.to_vec();
            (0..FILLING_WORDS).for_each(|_| value.extend(FILLING.to_le_bytes()));
            Request::set(key, value, SetOptions::default())
        }
        Ask::SetIfAbsent => set(Condition::IfAbsent),
        Ask::SetIfVersion(version) => set(Condition::IfVersion(version)),
        Ask::Append => Request::append(key, number),
        Ask::Delete => Request::delete(key),
        Ask::Touch { ttl_ms } => Request::touch(key, ttl(ttl_ms)),
        Ask::Flush => Request::flush(),
        Ask::Increment => {
            let initial = i64::try_from(operation).expect("few operations") * COUNTER_BASE;
            Request::increment(key, 1, IncrementOptions { initial: Some(initial), ttl: None })
        }
    }
}
