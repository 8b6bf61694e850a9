//! A cluster in one `HashMap`: what the client's tests talk to instead of nodes.
//!
//! It speaks the protocol through `quoit-wire`, applies each request when its last byte arrives, and panics where a client
//! breaks a rule of the protocol. How bytes travel, and which of them arrive, is the test's business.

use std::collections::{BTreeMap, HashMap, HashSet};

use quoit_wire::changes::TopologyChanges;
use quoit_wire::topology::{Node, Placement, REPLICAS_MAX, Seat, Topology};
use quoit_wire::{
    HelloParameters, HelloReply, MultiResult, Operation, Reply, Request, RequestBody, RequestFlags, SetCondition,
    Status, Version, request_head,
};

pub(crate) const INFLIGHT_MAX: u16 = 32;
pub(crate) const VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of values in a multi-get's reply, small so that tests reach it.
pub(crate) const MULTI_REPLY_BYTES_MAX: usize = 4096;
const VNODE_BITS: u8 = 5;
const CORES: u16 = 2;

/// The state of all nodes.
pub(crate) struct Cluster {
    pub(crate) topology: Topology,
    pub(crate) items: HashMap<Vec<u8>, Item>,
    /// Nothing is refused and nothing moves: then tokens rise on every connection, repeats first.
    pub(crate) tokens_rise: bool,
    /// Repeats that were answered with a first result.
    pub(crate) repeats_recognised: u32,
    /// How often the whole topology was sent.
    pub(crate) topologies_told: u32,
    /// How often what has changed was sent.
    pub(crate) changes_told: u32,
    /// What becomes of that.
    pub(crate) changes: Changes,
    /// The topologies that clients have, by epoch.
    had: BTreeMap<u32, Topology>,
    /// Vnodes whose requests are answered with this status for now.
    pub(crate) sealed: BTreeMap<usize, Seal>,
    /// How often one was.
    pub(crate) refusals: u32,
    /// Whether replicas answer reads that allow it.
    pub(crate) copies_answer: bool,
    /// Reads that replicas have answered, by node.
    pub(crate) answered_by_copies: BTreeMap<u64, u32>,
    sequence: u64,
    sessions: HashMap<u64, BTreeMap<u32, Kept>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) value: Vec<u8>,
    pub(crate) version: Version,
    pub(crate) client_flags: u32,
}

/// What a vnode refuses, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) status: Status,
    pub(crate) spares_reads: bool,
    /// The write is carried out, and its reply lost.
    pub(crate) applies: bool,
}

/// The result of a write, for its repeats.
#[derive(Clone)]
struct Kept {
    status: Status,
    version: Version,
    value: Vec<u8>,
}

/// A server's end of one connection.
pub(crate) struct ServerEnd {
    pub(crate) node: u64,
    pub(crate) greeted: bool,
    input: Vec<u8>,
    unanswered: HashSet<u32>,
    last_numbers: HashMap<u64, u32>,
}

/// What a server tells of what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    Right,
    /// That it does not know.
    Unknown,
    /// Bytes that are none.
    Garbage,
    /// Changes of a topology of another epoch.
    OfAnotherEpoch,
    /// Changes of another topology of the same epoch.
    OfAnotherTopology,
    /// Changes of a vnode that there is not.
    OfNoVnode,
    /// Changes to what can't be.
    ToNoTopology,
}

/// What a server does with a request instead of carrying it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    CarriesOut,
    Refuses(Status),
}

pub(crate) fn address_of(node: u64) -> String {
    format!("node-{node}:7400")
}

/// A topology in which `owner_of` says which node owns a vnode.
pub(crate) fn topology(epoch: u32, seed: u64, nodes: &[u64], mut owner_of: impl FnMut(usize) -> Seat) -> Topology {
    let node = |id: &u64| Node {
        id: *id,
        incarnation: 1,
        name: format!("node-{id}"),
        address: address_of(*id),
        zone: String::new(),
        cores: CORES,
        weight: 1,
    };
    let place = |vnode| Placement { primary: owner_of(vnode), replicas: [Seat::NOWHERE; REPLICAS_MAX], term: epoch };
    Topology {
        epoch,
        vnode_bits: VNODE_BITS,
        seed,
        cluster: "model".into(),
        nodes: nodes.iter().map(node).collect(),
        vnodes: (0..1 << VNODE_BITS).map(place).collect(),
    }
}

/// The plain assignment: vnodes in turn over all cores.
pub(crate) fn in_turn(nodes: usize) -> impl FnMut(usize) -> Seat {
    move |vnode| Seat { node: (vnode % nodes) as u16, core: (vnode / nodes % usize::from(CORES)) as u16 }
}

impl Cluster {
    pub(crate) fn new(topology: Topology) -> Self {
        Self {
            topology,
            items: HashMap::new(),
            tokens_rise: false,
            repeats_recognised: 0,
            topologies_told: 0,
            changes_told: 0,
            changes: Changes::Right,
            had: BTreeMap::new(),
            sealed: BTreeMap::new(),
            refusals: 0,
            copies_answer: true,
            answered_by_copies: BTreeMap::new(),
            sequence: 0,
            sessions: HashMap::new(),
        }
    }

    pub(crate) fn counter(&self, key: &str) -> i64 {
        self.items.get(key.as_bytes()).map_or(0, |item| number(&item.value))
    }

    /// Takes bytes of a client; returns the frames that answer them. `mood` is asked for each request but the hello.
    pub(crate) fn receive(
        &mut self,
        end: &mut ServerEnd,
        bytes: &[u8],
        mut mood: impl FnMut() -> Mood,
    ) -> Vec<Vec<u8>> {
        end.input.extend_from_slice(bytes);
        let mut replies = Vec::new();
        let input = std::mem::take(&mut end.input);
        let mut rest = input.as_slice();
        while let Some(head) = request_head(rest, VALUE_BYTES_MAX).expect("the client sends frames that are right") {
            let Some(frame) = rest.get(..head.frame_bytes) else { break };
            rest = &rest[head.frame_bytes..];
            let request = Request::decode(head, frame).expect("the client sends requests that are right");
            let reply = if end.greeted { self.answer(end, &request, mood()) } else { self.greet(end, &request, rest) };
            replies.push(reply);
        }
        end.input = rest.to_vec();
        replies
    }

    fn greet(&self, end: &mut ServerEnd, request: &Request<'_>, rest: &[u8]) -> Vec<u8> {
        let RequestBody::Hello { parameters, .. } = request.body else { panic!("a hello comes first") };
        assert!(rest.is_empty(), "nothing is sent before the hello is answered");
        assert_ne!(parameters.features & HelloParameters::FEATURE_TOPOLOGY_NEWS, 0);
        end.greeted = true;
        let mut value = Vec::new();
        HelloReply {
            features: parameters.features & HelloParameters::FEATURES,
            node: end.node,
            version: HelloParameters::VERSION,
            core: if parameters.core < CORES { parameters.core } else { 0 },
            cores: CORES,
            inflight_max: INFLIGHT_MAX,
            value_bytes_max: VALUE_BYTES_MAX as u32,
            frame_bytes_max: VALUE_BYTES_MAX as u32 + 70_000,
            epoch: self.topology.epoch,
        }
        .put(&mut value);
        encode(&Reply { value: &value, ..Reply::status(request.head.id, Status::Ok) })
    }

    fn answer(&mut self, end: &mut ServerEnd, request: &Request<'_>, mood: Mood) -> Vec<u8> {
        let id = request.head.id;
        assert!(end.unanswered.insert(id), "the id {id} is free");
        assert!(end.unanswered.len() <= usize::from(INFLIGHT_MAX), "the client keeps to the limit of the hello");
        if let Mood::Refuses(status) = mood {
            let retry_after_ms = if status == Status::Overloaded { 7 } else { 0 };
            return encode(&Reply { retry_after_ms, ..Reply::status(id, status) });
        }
        if let RequestBody::Get { key } = request.body
            && request.head.flags.has(RequestFlags::ANY_COPY)
            && self.copies_answer
            && self.follows(end.node, key)
        {
            *self.answered_by_copies.entry(end.node).or_default() += 1;
            let (status, version, client_flags, value) = self.keep_to_tokens(end, request);
            return encode(&Reply {
                id,
                status,
                version,
                client_flags,
                retry_after_ms: 0,
                is_stale: true,
                value: &value,
            });
        }
        if let Some(key) = request.body.key()
            && !self.owns(end.node, key)
        {
            return encode(&Reply { version: self.epoch(), ..Reply::status(id, Status::Moved) });
        }
        if matches!(request.body, RequestBody::Flush) && request.head.epoch != self.topology.epoch {
            return encode(&Reply { version: self.epoch(), ..Reply::status(id, Status::Moved) });
        }
        let seal = request.body.key().and_then(|key| self.sealed.get(&self.topology.vnode(key))).copied();
        if let Some(seal) = seal.filter(|seal| request.head.operation.is_write() || !seal.spares_reads) {
            self.refusals += 1;
            if seal.applies {
                self.keep_to_tokens(end, request);
            }
            let retry_after_ms = if seal.status == Status::Overloaded { 20 } else { 0 };
            return encode(&Reply { retry_after_ms, ..Reply::status(id, seal.status) });
        }
        let (status, version, client_flags, value) = self.keep_to_tokens(end, request);
        encode(&Reply { version, client_flags, value: &value, ..Reply::status(id, status) })
    }

    /// Carries a request out, once for each token.
    fn keep_to_tokens(&mut self, end: &mut ServerEnd, request: &Request<'_>) -> (Status, Version, u32, Vec<u8>) {
        if let Some(token) = request.retry {
            let is_repeat = request.head.flags.has(RequestFlags::REPEAT);
            let last = end.last_numbers.insert(token.session, token.number);
            assert!(!self.tokens_rise || last < Some(token.number), "what is sent again comes first, in its order");
            let kept = self.sessions.entry(token.session).or_default();
            if let Some(kept) = kept.get(&token.number) {
                assert!(is_repeat, "a token that was used is a repeat's");
                self.repeats_recognised += 1;
                let Kept { status, version, value } = kept.clone();
                return (status, version, 0, value);
            }
            let newest = kept.last_key_value().map_or(0, |(number, _)| *number);
            assert!(is_repeat || token.number > newest, "numbers rise in sending order");
        }
        let (status, version, client_flags, value) =
            self.carry_out(end.node, &request.body, request.head.flags.has(RequestFlags::ANY_COPY));
        if let Some(token) = request.retry {
            let kept = Kept { status, version, value: value.clone() };
            self.sessions.entry(token.session).or_default().insert(token.number, kept);
        }
        (status, version, client_flags, value)
    }

    fn carry_out(&mut self, node: u64, body: &RequestBody<'_>, takes_any: bool) -> (Status, Version, u32, Vec<u8>) {
        let miss = (Status::Miss, Version::NONE, 0, Vec::new());
        match *body {
            RequestBody::Get { key } | RequestBody::GetAndTouch { key, .. } => match self.items.get(key) {
                Some(item) => (Status::Ok, item.version, item.client_flags, item.value.clone()),
                None => miss,
            },
            RequestBody::Set { key, parameters, condition, value } => {
                let existing = self.items.get(key).map(|item| item.version);
                let holds = match condition {
                    SetCondition::Always => true,
                    SetCondition::IfAbsent => existing.is_none(),
                    SetCondition::IfPresent => existing.is_some(),
                    SetCondition::IfVersion => existing == Some(Version::from_u64(parameters.if_version)),
                };
                if !holds {
                    return (Status::ConditionFailed, existing.unwrap_or(Version::NONE), 0, Vec::new());
                }
                (Status::Ok, self.write(key, value, parameters.client_flags), 0, Vec::new())
            }
            RequestBody::Delete { key } => match self.items.remove(key) {
                Some(item) => (Status::Ok, item.version, 0, Vec::new()),
                None => miss,
            },
            RequestBody::Touch { key, .. } => match self.items.get(key).cloned() {
                Some(item) => (Status::Ok, self.write(key, &item.value, item.client_flags), 0, Vec::new()),
                None => miss,
            },
            RequestBody::Increment { key, parameters } => {
                let counter = match self.items.get(key) {
                    Some(item) => number(&item.value) + parameters.delta,
                    None if parameters.create == 1 => parameters.initial,
                    None => return miss,
                };
                let version = self.write(key, counter.to_string().as_bytes(), 0);
                (Status::Ok, version, 0, counter.to_le_bytes().to_vec())
            }
            RequestBody::Append { key, value } => match self.items.get(key).cloned() {
                Some(item) => {
                    let joined = [item.value.as_slice(), value].concat();
                    (Status::Ok, self.write(key, &joined, item.client_flags), 0, Vec::new())
                }
                None => miss,
            },
            RequestBody::Prepend { key, value } => match self.items.get(key).cloned() {
                Some(item) => {
                    let joined = [value, item.value.as_slice()].concat();
                    (Status::Ok, self.write(key, &joined, item.client_flags), 0, Vec::new())
                }
                None => miss,
            },
            RequestBody::MultiGet(keys) => {
                let mut body = Vec::new();
                let mut room = MULTI_REPLY_BYTES_MAX;
                for key in keys.iter() {
                    let item = self.items.get(key);
                    let value = item.map_or(&[][..], |item| &item.value);
                    let is_copy = takes_any && self.copies_answer && self.follows(node, key);
                    *self.answered_by_copies.entry(node).or_default() += u32::from(is_copy);
                    let status = match item {
                        _ if !self.owns(node, key) && !is_copy => Status::Moved,
                        Some(_) if value.len() > room => Status::TooLarge,
                        Some(_) => Status::Ok,
                        None => Status::Miss,
                    };
                    let value = if status == Status::Ok { value } else { &[] };
                    room -= value.len();
                    let version = if status == Status::Moved {
                        self.epoch()
                    } else {
                        item.map_or(Version::NONE, |item| item.version)
                    };
                    MultiResult { status, version, client_flags: 0, retry_after_ms: 0, is_stale: is_copy, value }
                        .push(&mut body);
                }
                (Status::Ok, Version::NONE, 0, body)
            }
            RequestBody::MultiSet(items) => {
                let mut body = Vec::new();
                for item in items.iter() {
                    let (status, version) = if self.owns(node, item.key) {
                        (Status::Ok, self.write(item.key, item.value, item.client_flags))
                    } else {
                        (Status::Moved, self.epoch())
                    };
                    MultiResult { status, version, client_flags: 0, retry_after_ms: 0, is_stale: false, value: &[] }
                        .push(&mut body);
                }
                (Status::Ok, Version::NONE, 0, body)
            }
            RequestBody::Flush => {
                let gone: Vec<Vec<u8>> = self.items.keys().filter(|key| self.owns(node, key)).cloned().collect();
                gone.iter().for_each(|key| drop(self.items.remove(key)));
                (Status::Ok, Version::NONE, 0, Vec::new())
            }
            RequestBody::Ping { payload } => (Status::Ok, Version::NONE, 0, payload.to_vec()),
            RequestBody::Topology { known_epoch } => {
                let is_known = known_epoch == self.topology.epoch;
                self.topologies_told += u32::from(!is_known);
                let value = if is_known { Vec::new() } else { self.topology.to_bytes() };
                self.had.insert(self.topology.epoch, self.topology.clone());
                (Status::Ok, self.epoch(), 0, value)
            }
            RequestBody::TopologyChanges { known_epoch } => match self.changes_since(known_epoch) {
                _ if known_epoch == self.topology.epoch => (Status::Ok, self.epoch(), 0, Vec::new()),
                Some(value) => {
                    self.changes_told += 1;
                    self.had.insert(self.topology.epoch, self.topology.clone());
                    (Status::Ok, self.epoch(), 0, value)
                }
                None => (Status::Miss, self.epoch(), 0, Vec::new()),
            },
            RequestBody::Stats | RequestBody::Hello { .. } => {
                panic!("{:?} is not asked here", Operation::name(body.operation()))
            }
        }
    }

    /// What has changed since the topology of an epoch, as the cluster tells it.
    fn changes_since(&self, epoch: u32) -> Option<Vec<u8>> {
        let (known, now) = (self.had.get(&epoch)?, &self.topology);
        let has_changed = |vnode: &u16| known.vnodes[usize::from(*vnode)] != now.vnodes[usize::from(*vnode)];
        let vnodes = (0..now.vnodes.len() as u16).filter(has_changed);
        let mut changes = TopologyChanges::new(epoch, now, now.checksum(), known.nodes != now.nodes, vnodes);
        match self.changes {
            Changes::Right => {}
            Changes::Unknown => return None,
            Changes::Garbage => return Some(vec![7; 50]),
            Changes::OfAnotherEpoch => changes.from_epoch += 1,
            Changes::OfAnotherTopology => changes.checksum ^= 1,
            Changes::OfNoVnode => changes.vnodes[0].vnode = u16::MAX,
            Changes::ToNoTopology => changes.vnodes[0].placement.primary.core = CORES,
        }
        Some(changes.to_bytes())
    }

    fn write(&mut self, key: &[u8], value: &[u8], client_flags: u32) -> Version {
        self.sequence += 1;
        let version = Version::new(1, self.sequence);
        self.items.insert(key.to_vec(), Item { value: value.to_vec(), version, client_flags });
        version
    }

    fn owns(&self, node: u64, key: &[u8]) -> bool {
        self.topology.nodes[usize::from(self.topology.owner(key).node)].id == node
    }

    /// Whether the node has a replica of the key's vnode.
    fn follows(&self, node: u64, key: &[u8]) -> bool {
        let copies = self.topology.vnodes[self.topology.vnode(key)].seats().skip(1);
        copies.map(|seat| self.topology.nodes[usize::from(seat.node)].id).any(|id| id == node)
    }

    fn epoch(&self) -> Version {
        Version::from_u64(self.topology.epoch.into())
    }
}

impl ServerEnd {
    pub(crate) fn new(node: u64) -> Self {
        Self { node, greeted: false, input: Vec::new(), unanswered: HashSet::new(), last_numbers: HashMap::new() }
    }

    /// The reply with this frame has left: its id is free again.
    pub(crate) fn replied(&mut self, frame: &[u8]) {
        let id = u32::from_le_bytes(frame[4..8].try_into().expect("a frame has a head"));
        self.unanswered.remove(&id);
    }
}

pub(crate) fn encode(reply: &Reply<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    reply.encode(&mut frame);
    frame
}

fn number(value: &[u8]) -> i64 {
    str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("the tests count in numbers")
}
