//! The world: one queue of events, in order of time, that nodes, etcd and clients put into and are driven by.
//!
//! Everything random comes from one seeded source and nothing else reads a clock, so a seed is a run. The hash of all that
//! happened says whether two runs were the same.

mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;

use quoit_wire::topology::Seat;
use quoit_wire::{Operation as WireOperation, Reply, Status, request_head};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::client::{Client, KEYS, Load, Step, vnode_of_key};
use super::clock::Clock;
use super::etcd::Etcd;
use super::history::{Execution, History, Loss, Subject};
use super::network::{Network, Place};
use super::node::{CORES, Node, Plan, Served, ToCore, VALUE_BYTES_MAX, Watch};
use crate::cluster::agent::News;
use crate::cluster::copies::Peer;
use crate::cluster::etcd::{EtcdRequest, EtcdResponse, WatchEvent};
use crate::cluster::records::Keys;
use crate::cluster::{ControlMessage, Election, NodeRef, Order, Report, Ring};
use crate::store::PolicyKind;
use crate::time::Instant;

pub(super) const CLIENTS: usize = 8;
/// A core that hears nothing turns this often, as a parked one does.
const TURN_US_MAX: u64 = 20_000;
/// From an input to the turn that ends with it: what comes meanwhile is part of the turn.
const TURN_US: u64 = 100;
const AGENT_TURN_US_MAX: u64 = 100_000;
/// Clients that a node can tell of a new epoch.
const CONNECTED_PERCENT: u32 = 15;
const ETCD_TICK_US: u64 = 20_000;
/// What a node tells itself takes up to so long.
const LOCAL_US_MAX: u64 = 2_000;

pub(super) enum Event {
    Turn(Peer),
    AgentTurn(NodeRef),
    Messages {
        from: Peer,
        to: Peer,
        bytes: Vec<u8>,
    },
    Control {
        from: NodeRef,
        to: NodeRef,
        bytes: Vec<u8>,
    },
    ToCore(Peer, ToCore),
    Report(Peer, Election, Report),
    EtcdAsked {
        by: NodeRef,
        ticket: u64,
        request: EtcdRequest,
    },
    EtcdAnswered {
        to: NodeRef,
        ticket: u64,
        response: EtcdResponse,
    },
    Watched {
        to: NodeRef,
        number: u64,
        upto: usize,
    },
    WatchBroken {
        to: NodeRef,
        number: u64,
    },
    EtcdTick,
    Asked {
        client: usize,
        node: u64,
        core: u16,
        frame: Vec<u8>,
        is_forwarded: bool,
    },
    Answered {
        client: usize,
        bytes: Vec<u8>,
    },
    Wake(usize),
    Start(u64),
    /// A node that has lost etcd loses the other nodes as well.
    CutOff(u64),
}

/// Something that a fault waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trap {
    /// The leader dies once a core has reported its seal.
    LeaderAfterSeal,
    /// The source or the target of a move dies once the source was told to begin it.
    Mover { is_target: bool },
}

pub(super) struct World {
    pub(super) random: StdRng,
    pub(super) now_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(super) plan: Plan,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) network: Network,
    pub(super) etcd: Etcd,
    etcd_events: usize,
    pub(super) clients: Vec<Client>,
    /// Clients begin nothing new.
    pub(super) is_quiet: bool,
    /// So many clients only read: they notice late that they ask a primary that is one no longer.
    pub(super) readers: usize,
    pub(super) hot: Option<usize>,
    pub(super) history: History,
    pub(super) ring: Option<Arc<Ring>>,
    ring_since_us: u64,
    pub(super) trap: Option<Trap>,
    /// This node loses the others, too, as soon as its lease has ended.
    pub(super) cut_off_when_lost: Option<u64>,
    /// The last moment at which a move was under way.
    pub(super) moved_us: u64,
    pub(super) vnodes_lost: u64,
    lives: u64,
    pub(super) is_role_kept: bool,
    /// Versions that were read, acknowledged or made, and everything else, in one number.
    pub(super) trace_hash: u64,
    /// What happened to one key or vnode, for whoever has to find out why a run fails.
    pub(super) traced: Option<Subject>,
    pub(super) trace: Vec<String>,
    pub(super) violations: Vec<(Subject, String)>,
}

impl World {
    pub(super) fn new(seed: u64, traced: Option<Subject>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let plan = Plan {
            vnode_bits: random.random_range(2..=4),
            hash_seed: random.random_range(0..1 << 40),
            replicas: if seed % 5 < 2 { 1 } else { 2 },
            policy: if seed.is_multiple_of(2) { PolicyKind::None } else { PolicyKind::S3Fifo },
        };
        let clients = (0..CLIENTS).map(|number| Client::new(number, random.random_range(1..u64::MAX))).collect();
        let mut world = Self {
            random,
            now_us: 1_000_000,
            events: BTreeMap::new(),
            scheduled: 0,
            plan,
            nodes: BTreeMap::new(),
            network: Network::default(),
            etcd: Etcd::default(),
            etcd_events: 0,
            clients,
            is_quiet: true,
            readers: 0,
            hot: None,
            history: History::new((0..KEYS).map(|key| vnode_of_key(plan.hash_seed, plan.vnode_bits, key)).collect()),
            ring: None,
            ring_since_us: 0,
            trap: None,
            cut_off_when_lost: None,
            moved_us: 0,
            vnodes_lost: 0,
            lives: 0,
            is_role_kept: false,
            trace_hash: 0xcbf2_9ce4_8422_2325,
            traced,
            trace: Vec::new(),
            violations: Vec::new(),
        };
        world.at(world.now_us, Event::EtcdTick);
        for client in 0..CLIENTS {
            world.at(world.now_us, Event::Wake(client));
        }
        world
    }

    pub(super) fn vnode_of(&self, key: usize) -> usize {
        self.history.vnodes[key]
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.traced.is_some() {
            let line = format!("{:>10.3} {}", self.now_us as f64 / 1e6, text());
            self.trace.push(line);
        }
    }

    fn note_key(&mut self, key: usize, text: impl FnOnce() -> String) {
        if self.traced == Some(Subject::Key(key)) {
            self.note(text);
        }
    }

    fn note_vnode(&mut self, vnode: u32, text: impl FnOnce() -> String) {
        let is_traced = match self.traced {
            Some(Subject::Key(key)) => self.vnode_of(key) == vnode as usize,
            Some(Subject::Vnode(traced)) => traced == vnode as usize,
            None => false,
        };
        if is_traced {
            self.note(text);
        }
    }

    fn mix(&mut self, number: u64) {
        self.trace_hash = (self.trace_hash ^ number).wrapping_mul(0x0100_0000_01b3);
    }

    pub(super) fn violate(&mut self, subject: Subject, text: String) {
        self.violations.push((subject, text));
    }

    pub(super) fn at(&mut self, at_us: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((at_us.max(self.now_us), self.scheduled), event);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time_us: u64) {
        let end_us = self.now_us + time_us;
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= end_us
        {
            let ((at_us, _), event) = entry.remove_entry();
            self.now_us = at_us;
            self.happen(event);
        }
        self.now_us = end_us;
    }

    /// Lets time pass until `holds`; whether it came to that.
    pub(super) fn run_until(&mut self, time_us_max: u64, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end_us = self.now_us + time_us_max;
        while !holds(self) {
            if self.now_us >= end_us {
                return false;
            }
            self.run(20_000);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        if let Some(until_us) = self.deaf_until(&event) {
            return self.at(until_us, event);
        }
        self.mix(self.now_us);
        match event {
            Event::Turn(peer) => self.turn(peer),
            Event::AgentTurn(node) => self.agent_turn(node),
            Event::Messages { from, to, bytes } => {
                if let Some((now, core)) = self.core(to) {
                    core.take_messages(now, from, &bytes);
                    self.turn_soon(to, TURN_US);
                }
            }
            Event::Control { from, to, bytes } => {
                if let Some((now, node)) = self.life(to) {
                    let message = ControlMessage::from_bytes(&bytes).expect("its own bytes");
                    node.agent.handle_message(now, from, message);
                    self.agent_turn(to);
                }
            }
            Event::ToCore(peer, told) => self.tell_core(peer, told),
            Event::Report(peer, election, report) => self.report(peer, election, report),
            Event::EtcdAsked { by, ticket, request } => self.ask_etcd(by, ticket, &request),
            Event::EtcdAnswered { to, ticket, response } => {
                if let Some((now, node)) = self.life(to) {
                    node.agent.handle_response(now, ticket, response);
                    self.agent_turn(to);
                }
            }
            Event::Watched { to, number, upto } => self.tell_watch(to, number, upto),
            Event::WatchBroken { to, number } => {
                if let Some((now, node)) = self.life(to)
                    && node.watch.is_some_and(|watch| watch.number == number)
                {
                    node.watch = None;
                    node.agent.handle_watch(now, vec![WatchEvent::Closed]);
                    self.agent_turn(to);
                }
            }
            Event::EtcdTick => {
                self.etcd.expire(Instant::from_millis(self.now_us / 1000));
                self.after_etcd();
                self.at(self.now_us + ETCD_TICK_US, Event::EtcdTick);
            }
            Event::Asked { client, node, core, frame, is_forwarded } => {
                self.serve(client, node, core, frame, is_forwarded);
            }
            Event::Answered { client, bytes } => {
                let (client_state, random, history) = (&mut self.clients[client], &mut self.random, &mut self.history);
                client_state.handle_reply(random, history, self.now_us, &bytes);
                self.at(self.clients[client].wake_us, Event::Wake(client));
            }
            Event::Wake(client) => self.wake(client),
            Event::Start(id) => self.start(id),
            Event::CutOff(id) => {
                if self.network.is_cut(Place::Node(id), Place::Etcd) {
                    self.cut_from_nodes(id);
                }
            }
        }
    }

    /// Until when the node that the event is for does nothing, if it does not now.
    fn deaf_until(&self, event: &Event) -> Option<u64> {
        let id = match event {
            Event::Turn(peer) | Event::ToCore(peer, _) | Event::Report(peer, ..) => peer.node.id,
            Event::AgentTurn(node) => node.id,
            Event::Messages { to, .. } => to.node.id,
            Event::Control { to, .. }
            | Event::EtcdAnswered { to, .. }
            | Event::Watched { to, .. }
            | Event::WatchBroken { to, .. } => to.id,
            Event::Asked { node, .. } => *node,
            Event::EtcdAsked { .. }
            | Event::EtcdTick
            | Event::Answered { .. }
            | Event::Wake(_)
            | Event::Start(_)
            | Event::CutOff(_) => {
                return None;
            }
        };
        self.nodes.get(&id).map(|node| node.frozen_until_us).filter(|until_us| self.now_us < *until_us)
    }

    /// This life of a node, with its clock's time, if it is still lived.
    pub(super) fn life(&mut self, me: NodeRef) -> Option<(Instant, &mut Node)> {
        let now_us = self.now_us;
        let node = self.nodes.get_mut(&me.id).filter(|node| node.me == me)?;
        Some((node.clock.now(now_us), node))
    }

    fn core(&mut self, peer: Peer) -> Option<(Instant, &mut super::node::Core)> {
        let (now, node) = self.life(peer.node)?;
        Some((now, node.cores.get_mut(usize::from(peer.core))?))
    }

    /// A node comes up: another life than its last one.
    pub(super) fn start(&mut self, id: u64) {
        if self.nodes.contains_key(&id) {
            return;
        }
        self.lives += 1;
        let me = NodeRef { id, incarnation: if self.is_role_kept { 1 } else { self.lives } };
        let drift_ppm = self.random.random_range(-10_000..10_000);
        let clock = Clock::new(self.now_us, self.random.random_range(1_000_000..1_000_000_000), drift_ppm);
        self.nodes.insert(id, Node::new(self.plan, me, self.now_us, clock));
        self.note(|| format!("node {id} starts as {}", me.incarnation));
        (0..CORES).for_each(|core| self.turn_soon(Peer { node: me, core }, TURN_US));
        self.agent_turn(me);
    }

    /// A node is no more, and all it had.
    pub(super) fn crash(&mut self, id: u64) {
        if let Some(node) = self.nodes.remove(&id) {
            self.history.losses.push(Loss { at_us: self.now_us, node: node.me, vnode: None });
            self.note(|| format!("node {id} crashes"));
        }
    }

    /// The node stops, in the middle of a turn of each of its cores.
    pub(super) fn freeze(&mut self, id: u64, time_us: u64) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.frozen_until_us = now_us + time_us;
        let now = node.clock.now(now_us);
        let me = node.me;
        node.cores.iter_mut().for_each(|core| core.stalled = Some(now));
        self.note(|| format!("node {id} freezes for {} ms", time_us / 1000));
        (0..CORES).for_each(|core| self.turn_soon(Peer { node: me, core }, 0));
    }

    pub(super) fn turn_soon(&mut self, peer: Peer, wait_us: u64) {
        let at_us = self.now_us + wait_us;
        let Some((_, core)) = self.core(peer) else { return };
        if at_us < core.turn_us {
            core.turn_us = at_us;
            self.at(at_us, Event::Turn(peer));
        }
    }

    fn turn(&mut self, peer: Peer) {
        let now_us = self.now_us;
        let Some((now, core)) = self.core(peer) else { return };
        // It was put off meanwhile, or frozen.
        if core.turn_us > now_us {
            return;
        }
        core.turn_us = u64::MAX;
        let now = core.stalled.take().unwrap_or(now);
        let turned = core.turn(now);
        for (to, bytes) in turned.messages {
            self.send_messages(peer, to, bytes);
        }
        for (election, report) in turned.reports {
            let wait_us = self.random.random_range(0..LOCAL_US_MAX);
            self.at(now_us + wait_us, Event::Report(peer, election, report));
        }
        for (client, bytes) in turned.replies {
            self.answer(peer.node.id, client, bytes);
        }
        self.turn_soon(peer, TURN_US_MAX);
    }

    fn send_messages(&mut self, from: Peer, to: Peer, bytes: Vec<u8>) {
        if from.node == to.node {
            return self.at(self.now_us + 20, Event::Messages { from, to, bytes });
        }
        let (source, target) = (Place::Node(from.node.id), Place::Node(to.node.id));
        // One by one where they may part.
        let parts = if self.network.noise == super::network::Noise::default() { vec![bytes] } else { frames(&bytes) };
        for bytes in parts {
            for at_us in self.network.arrivals(&mut self.random, self.now_us, source, target).into_iter().flatten() {
                self.at(at_us, Event::Messages { from, to, bytes: bytes.clone() });
            }
        }
    }

    fn agent_turn(&mut self, me: NodeRef) {
        let now_us = self.now_us;
        let Some((now, node)) = self.life(me) else { return };
        (0..CORES).for_each(|core| node.agent.handle_core_alive(now, core));
        let mut requests = Vec::new();
        while let Some(request) = node.agent.poll_request(now) {
            requests.push(request);
        }
        let mut messages = Vec::new();
        while let Some(message) = node.agent.poll_message(now) {
            messages.push(message);
        }
        let mut news = Vec::new();
        while let Some(new) = node.agent.poll_news() {
            news.push(new);
        }
        let wait_us = (node.agent.poll_timeout(now).since(now).as_millis() * 1000).clamp(1000, AGENT_TURN_US_MAX);
        if node.agent_turn_us <= now_us || node.agent_turn_us > now_us + wait_us {
            node.agent_turn_us = now_us + wait_us;
            self.at(now_us + wait_us, Event::AgentTurn(me));
        }
        requests.into_iter().for_each(|(ticket, request)| self.send_to_etcd(me, ticket, request));
        for (to, message) in messages {
            let (source, target) = (Place::Node(me.id), Place::Node(to.id));
            for at_us in self.network.arrivals(&mut self.random, now_us, source, target).into_iter().flatten() {
                self.at(at_us, Event::Control { from: me, to, bytes: message.to_bytes() });
            }
        }
        news.into_iter().for_each(|news| self.take_news(me, news));
    }

    fn take_news(&mut self, me: NodeRef, news: News) {
        let all = |told: ToCore| (0..CORES).map(|core| (core, told.clone())).collect::<Vec<_>>();
        let told = match news {
            News::Ring(ring) => all(ToCore::Ring(ring)),
            News::Lease(until) => all(ToCore::Lease(until)),
            News::Leader(leader) => {
                self.note(|| format!("node {} hears that {leader:?} leads", me.id));
                leader.map(|(_, election)| all(ToCore::Election(election))).unwrap_or_default()
            }
            News::Order(election, seat, order) => vec![(seat.core, ToCore::Order(election, order))],
            News::Trouble(trouble) => {
                self.note(|| format!("node {} has trouble: {trouble}", me.id));
                Vec::new()
            }
            News::Wish(..) => Vec::new(),
        };
        for (core, told) in told {
            let wait_us = self.random.random_range(0..LOCAL_US_MAX);
            let peer = Peer { node: me, core };
            let earliest_us = self.now_us + wait_us;
            let Some((_, at)) = self.core(peer) else { continue };
            at.told_us = at.told_us.max(earliest_us);
            let at_us = at.told_us;
            self.at(at_us, Event::ToCore(peer, told));
        }
    }

    fn tell_core(&mut self, peer: Peer, told: ToCore) {
        if let ToCore::Order(_, order) = &told {
            let order = *order;
            self.note_vnode(order.vnode(), || format!("{}/{} is told {order:?}", peer.node.id, peer.core));
            if let Order::BeginMove { target, .. } = order {
                self.moved_us = self.now_us;
                self.spring_on_move(peer.node.id, target);
            }
        }
        if let ToCore::Ring(ring) = &told {
            let epoch = ring.epoch;
            if peer.core == 0 {
                self.tell_clients();
            }
            self.note(|| format!("{}/{} gets ring {epoch}", peer.node.id, peer.core));
        }
        if let Some((now, core)) = self.core(peer) {
            core.take_told(now, told);
            self.turn_soon(peer, TURN_US);
        }
    }

    /// A node tells the clients that are connected to it of a new epoch; they ask anybody for it.
    fn tell_clients(&mut self) {
        for client in &mut self.clients {
            if self.random.random_range(0..100) < CONNECTED_PERCENT {
                client.hear_news();
            }
        }
    }

    fn spring_on_move(&mut self, source: u64, target: Seat) {
        let Some(Trap::Mover { is_target }) = self.trap else { return };
        let target = self.ring.as_ref().and_then(|ring| ring.member(target.node)).map(|member| member.node.id);
        self.trap = None;
        let victim = if is_target { target.unwrap_or(source) } else { source };
        self.crash(victim);
    }

    fn report(&mut self, peer: Peer, election: Election, report: Report) {
        let Some((now, node)) = self.life(peer.node) else { return };
        let slot = node.agent.ring().and_then(|ring| ring.slot_of(peer.node));
        let Some(slot) = slot else { return };
        node.agent.handle_report(now, election, Seat { node: slot, core: peer.core }, report);
        self.note_vnode(report.vnode(), || format!("{}/{} reports {report:?}", peer.node.id, peer.core));
        self.agent_turn(peer.node);
        if self.trap == Some(Trap::LeaderAfterSeal) && matches!(report, Report::Sealed { .. }) {
            self.trap = None;
            if let Some(leader) = self.leader() {
                self.crash(leader);
            }
        }
    }

    /// Who leads the cluster, by its own reckoning.
    pub(super) fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node| node.agent.leads(node.clock.now(self.now_us));
        self.nodes.values().find(leads).map(|node| node.me.id)
    }

    fn send_to_etcd(&mut self, by: NodeRef, ticket: u64, request: EtcdRequest) {
        let (place, now_us) = (Place::Node(by.id), self.now_us);
        if matches!(request, EtcdRequest::Watch { .. })
            && let Some((_, node)) = self.life(by)
        {
            node.watches += 1;
            node.watch = Some(Watch { number: node.watches, told: usize::MAX, promised: usize::MAX });
        }
        if let Some(at_us) = self.network.arrivals(&mut self.random, now_us, place, Place::Etcd)[0] {
            self.at(at_us, Event::EtcdAsked { by, ticket, request });
        } else if matches!(request, EtcdRequest::Watch { .. })
            && let Some((_, node)) = self.life(by)
        {
            let number = node.watches;
            self.at(now_us + 200_000, Event::WatchBroken { to: by, number });
        }
    }

    fn ask_etcd(&mut self, by: NodeRef, ticket: u64, request: &EtcdRequest) {
        if let EtcdRequest::Watch { from_revision, .. } = request {
            let place = self.etcd.place_of(*from_revision);
            if let Some((_, node)) = self.life(by)
                && let Some(watch) = &mut node.watch
            {
                (watch.told, watch.promised) = (place, place);
            }
            return self.after_etcd();
        }
        let response = self.etcd.execute(Instant::from_millis(self.now_us / 1000), request);
        self.after_etcd();
        let place = Place::Node(by.id);
        if let Some(at_us) = self.network.arrivals(&mut self.random, self.now_us, Place::Etcd, place)[0] {
            self.at(at_us, Event::EtcdAnswered { to: by, ticket, response });
        }
    }

    /// Looks at what is new in etcd: watches are told, and the world learns of rings and losses.
    fn after_etcd(&mut self) {
        let keys = Keys::new("simulated");
        let new = self.etcd_events..self.etcd.events.len();
        self.etcd_events = new.end;
        let (mut has_ring, mut deleted) = (false, Vec::new());
        for event in &self.etcd.events[new] {
            match event {
                WatchEvent::Put(entry) => has_ring |= entry.key == keys.head(),
                WatchEvent::Delete { key, .. } => deleted.push(key.clone()),
                WatchEvent::Closed => {}
            }
        }
        deleted.iter().for_each(|key| self.note_loss(&keys, key));
        if has_ring {
            let ring = keys.ring(|key| self.etcd.entries.get(key).map(|entry| entry.value.as_slice()));
            if let Ok(Some(ring)) = ring {
                self.note_ring(Arc::new(ring));
            }
        }
        let upto = self.etcd.events.len();
        let behind = self.nodes.values_mut().filter_map(|node| {
            let watch = node.watch.as_mut().filter(|watch| watch.promised < upto)?;
            watch.promised = upto;
            Some((node.me, watch.number))
        });
        for (to, number) in behind.collect::<Vec<_>>() {
            let stale_us = self.random.random_range(0..=self.network.etcd_stale_us);
            let place = Place::Node(to.id);
            match self.network.arrivals(&mut self.random, self.now_us, Place::Etcd, place)[0] {
                Some(at_us) => self.at(at_us + stale_us, Event::Watched { to, number, upto }),
                None => self.at(self.now_us + 500_000, Event::WatchBroken { to, number }),
            }
        }
    }

    fn tell_watch(&mut self, to: NodeRef, number: u64, upto: usize) {
        let Some((now, node)) =
            self.nodes.get_mut(&to.id).filter(|node| node.me == to).map(|node| (node.clock.now(self.now_us), node))
        else {
            return;
        };
        let Some(watch) = node.watch.as_mut().filter(|watch| watch.number == number && watch.told < upto) else {
            return;
        };
        let from = std::mem::replace(&mut watch.told, upto);
        node.agent.handle_watch(now, self.etcd.events[from..upto].to_vec());
        self.agent_turn(to);
    }

    fn wake(&mut self, client: usize) {
        let now_us = self.now_us;
        if self.clients[client].wake_us > now_us {
            return;
        }
        if self.is_quiet && !self.clients[client].is_asking() {
            self.clients[client].wake_us = now_us + 50_000;
            return self.at(now_us + 50_000, Event::Wake(client));
        }
        let nodes: Vec<u64> = self.nodes.keys().copied().collect();
        if nodes.is_empty() {
            self.clients[client].wake_us = now_us + 50_000;
            return self.at(now_us + 50_000, Event::Wake(client));
        }
        let load = Load { only_reads: client < self.readers, hot: self.hot };
        let state = &mut self.clients[client];
        let step = state.wake(&mut self.random, &mut self.history, now_us, &nodes, load);
        self.at(self.clients[client].wake_us, Event::Wake(client));
        if let Step::Send { node, core, frame } = step
            && let Some(at_us) = self.network.arrivals(&mut self.random, now_us, Place::Clients, Place::Node(node))[0]
        {
            self.at(at_us, Event::Asked { client, node, core, frame, is_forwarded: false });
        }
    }

    fn serve(&mut self, client: usize, node: u64, core: u16, frame: Vec<u8>, is_forwarded: bool) {
        let Some(me) = self.nodes.get(&node).map(|node| node.me) else { return };
        let peer = Peer { node: me, core: core % CORES };
        let Some((now, core)) = self.core(peer) else { return };
        match core.serve(now, client, &frame, is_forwarded) {
            Served::Forward(core) => {
                self.at(self.now_us + 10, Event::Asked { client, node, core, frame, is_forwarded: true });
            }
            Served::Replied { bytes, is_held } => {
                self.note_execution(peer, &frame, &bytes);
                if !is_held {
                    self.answer(node, client, bytes);
                }
                self.turn_soon(peer, TURN_US);
            }
        }
    }

    fn answer(&mut self, node: u64, client: usize, bytes: Vec<u8>) {
        let arrivals = self.network.arrivals(&mut self.random, self.now_us, Place::Node(node), Place::Clients);
        if let Some(at_us) = arrivals[0] {
            self.at(at_us, Event::Answered { client, bytes });
        }
    }

    /// What a core carried out goes into the history, whether or not its client will learn of it.
    fn note_execution(&mut self, by: Peer, frame: &[u8], reply: &[u8]) {
        let head = request_head(frame, VALUE_BYTES_MAX).expect("a request").expect("a whole head");
        if head.operation == WireOperation::Topology {
            return;
        }
        let (reply, _) = Reply::decode(reply).expect("a reply").expect("a whole reply");
        let operation = self.history.attempts[reply.id as usize - 1];
        let (key, ask) = (self.history.operations[operation].key, self.history.operations[operation].ask);
        self.mix(reply.version.as_u64() ^ u64::from(reply.status as u8));
        self.note_key(key, || {
            format!("{}/{} op {operation} {ask:?}: {:?} {}", by.node.id, by.core, reply.status, reply.version)
        });
        if reply.status == Status::Ok && ask.is_write() {
            let execution = Execution { operation, at_us: self.now_us, by, version: reply.version };
            let is_known = |known: &&Execution| known.version == reply.version;
            match self.history.executions[key].iter().find(is_known) {
                // A repeat that got the first result.
                Some(known) if known.operation == operation => {}
                Some(known) => {
                    let text = format!("version {} given to {known:?} and {execution:?}", reply.version);
                    self.violate(Subject::Key(key), text);
                }
                None => self.history.executions[key].push(execution),
            }
        }
    }
}

/// Cuts bytes into the frames they are made of.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize + 4;
        frames.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    frames
}
