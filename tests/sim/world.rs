//! The world: one queue of events, in order of time, that nodes, etcd and clients put into and are driven by.
//!
//! Everything random comes from one seeded source and nothing else reads a clock, so a seed is a run. The hash of all that
//! happened says whether two runs were the same.

mod connections;
mod etcd;
mod nodes;
mod pressure;
mod requests;
mod traps;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use self::connections::Connection;
use self::nodes::TURN_US;
use self::pressure::Ballast;
pub(super) use self::traps::Trap;
use super::client::{Client, ConnectionId, KEYS, vnode_of_key};
use super::etcd::Etcd;
use super::history::{History, Subject};
use super::network::{Network, Place};
use super::node::{Asker, Node, Plan, ToCore, address_of};
use crate::cluster::copies::{OnEtcdLoss, Peer};
use crate::cluster::etcd::{EtcdRequest, EtcdResponse, WatchEvent};
use crate::cluster::{ControlMessage, Election, NodeRef, Report, Ring};
use crate::store::PolicyKind;
use crate::time::Instant;

pub(super) const CLIENTS: usize = 8;
const ETCD_TICK_US: u64 = 20_000;

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
    /// More memory is taken.
    Fill,
    /// A client connects to a node; that is heard of; the connection is gone.
    Accepted {
        connection: ConnectionId,
        node: u64,
    },
    Connected(ConnectionId),
    Lost(ConnectionId),
    Asked {
        asker: Asker,
        peer: Peer,
        frame: Vec<u8>,
        is_forwarded: bool,
    },
    /// More of the value of a large set, the attempt of this number.
    Piece(Peer, u32),
    Answered {
        asker: Asker,
        bytes: Vec<u8>,
    },
    Wake(usize),
    Start(u64),
    /// A node that has lost etcd loses the other nodes as well.
    CutOff(u64),
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
    /// Which life of a node each registration in etcd is of, by its key.
    registered: BTreeMap<String, NodeRef>,
    ballast: Ballast,
    pub(super) clients: Vec<Client>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Clients begin nothing new.
    pub(super) is_quiet: bool,
    /// So many clients only read: they notice late that they ask a primary that is one no longer.
    pub(super) readers: usize,
    pub(super) hot: Option<usize>,
    /// Writes wait for one copy, and none depends on what was there.
    pub(super) is_plain: bool,
    pub(super) history: History,
    pub(super) ring: Option<Arc<Ring>>,
    ring_since_us: u64,
    pub(super) trap: Option<Trap>,
    /// Of the clients only those that read alone reach this node.
    pub(super) reached_by_readers: Option<u64>,
    /// ... and they reach no other, and hear nothing from the others.
    pub(super) are_readers_apart: bool,
    /// What etcd has to put on its disk waits until then.
    pub(super) disk_stalled_until_us: u64,
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
    /// A world that is to have so many nodes.
    pub(super) fn new(seed: u64, nodes: u64, traced: Option<Subject>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let plan = Plan {
            vnode_bits: random.random_range(2..=4),
            hash_seed: random.random_range(0..1 << 40),
            replicas: if seed % 5 < 2 { 1 } else { 2 },
            policy: if seed.is_multiple_of(2) { PolicyKind::None } else { PolicyKind::S3Fifo },
            on_etcd_loss: if seed % 7 < 3 { OnEtcdLoss::Serve } else { OnEtcdLoss::Fence },
        };
        let vnodes = (0..KEYS).map(|key| vnode_of_key(plan.hash_seed, plan.vnode_bits, key)).collect();
        let now_us = 1_000_000;
        let client = |number| {
            let mut servers: Vec<String> = (1..=nodes).map(address_of).collect();
            servers.shuffle(&mut random);
            servers.truncate(random.random_range(1..=servers.len()));
            Client::new(number, servers, random.random_range(1..u64::MAX), now_us)
        };
        let clients = (0..CLIENTS).map(client).collect();
        let mut world = Self {
            random,
            now_us,
            events: BTreeMap::new(),
            scheduled: 0,
            plan,
            nodes: BTreeMap::new(),
            network: Network::default(),
            etcd: Etcd::default(),
            etcd_events: 0,
            clients,
            connections: BTreeMap::new(),
            is_quiet: true,
            readers: 0,
            hot: None,
            is_plain: false,
            history: History::new(vnodes, plan.on_etcd_loss == OnEtcdLoss::Serve),
            ring: None,
            ring_since_us: 0,
            trap: None,
            reached_by_readers: None,
            are_readers_apart: false,
            registered: BTreeMap::new(),
            ballast: Ballast::default(),
            disk_stalled_until_us: 0,
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
            world.carry_out(client);
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
                    self.note_departures(to);
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
            Event::Accepted { connection, node } => self.accept(connection, node),
            Event::Connected(connection) => self.connected(connection),
            Event::Lost(connection) => self.lost(connection),
            Event::Asked { asker, peer, frame, is_forwarded } => self.serve(asker, peer, frame, is_forwarded),
            Event::Piece(peer, id) => self.take_piece(peer, id),
            Event::Answered { asker, bytes } => self.answered(asker, &bytes),
            Event::Fill => self.fill(),
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
            Event::Turn(peer) | Event::Piece(peer, _) | Event::ToCore(peer, _) | Event::Report(peer, ..) => {
                peer.node.id
            }
            Event::AgentTurn(node) => node.id,
            Event::Messages { to, .. } => to.node.id,
            Event::Control { to, .. }
            | Event::EtcdAnswered { to, .. }
            | Event::Watched { to, .. }
            | Event::WatchBroken { to, .. } => to.id,
            Event::Asked { peer, .. } => peer.node.id,
            Event::EtcdAsked { .. }
            | Event::EtcdTick
            | Event::Fill
            | Event::Accepted { .. }
            | Event::Connected(_)
            | Event::Lost(_)
            | Event::Answered { .. }
            | Event::Wake(_)
            | Event::Start(_)
            | Event::CutOff(_) => {
                return None;
            }
        };
        self.nodes.get(&id).map(|node| node.frozen_until_us).filter(|until_us| self.now_us < *until_us)
    }
}
