//! What lies between clients and nodes: connections.
//!
//! As over TCP, what is sent over one arrives in order, or it and all behind it never does: where a cut has taken something,
//! that direction stays silent until the client gives the connection up. A node that dies as a process resets what it had;
//! one that dies as a machine says nothing.

use quoit_wire::{HelloParameters, HelloReply, Reply, Request, RequestBody, Status, Version, request_head};
use rand::RngExt;

use super::super::client::{ConnectionId, Effect, HOT_KEYS, KEYS, Load};
use super::super::network::Place;
use super::super::node::{Asker, CORES, VALUE_BYTES_MAX};
use super::{Event, World};
use crate::cluster::NodeRef;
use crate::cluster::copies::Peer;

/// Requests that a connection may have unanswered.
const INFLIGHT_MAX: u16 = 64;

/// A connection as it lies between its ends.
#[derive(Debug, Default)]
pub(in super::super) struct Connection {
    /// The core at its other end, once it was accepted; which one is only known when the hello is answered.
    peer: Option<Peer>,
    /// The hello is answered: news is told.
    is_open: bool,
    is_lost_to_node: bool,
    is_lost_to_client: bool,
}

impl World {
    /// A client's time has come.
    pub(super) fn wake(&mut self, client: usize) {
        if self.clients[client].wake_us > self.now_us {
            return;
        }
        self.clients[client].wake_us = u64::MAX;
        let only_reads = client < self.readers;
        let hot_keys = if only_reads && self.are_readers_apart { 1 } else { HOT_KEYS };
        let hot = self.hot.map(|first| first..KEYS.min(first + hot_keys));
        let load = Load { only_reads, hot, is_plain: self.is_plain };
        let load = Some(load).filter(|_| !self.is_quiet);
        self.clients[client].wake(&mut self.random, &mut self.history, self.now_us, load);
        self.carry_out(client);
    }

    /// Does what the client wants done, and plans when it goes on.
    pub(super) fn carry_out(&mut self, client: usize) {
        let effects = self.clients[client].effects(&mut self.random, &mut self.history, self.now_us);
        for effect in effects {
            match effect {
                Effect::Connect { connection, node } => {
                    self.connections.insert(connection, Connection::default());
                    if let Some(at_us) = self.arrival_at_node(client, node) {
                        self.at(at_us, Event::Accepted { connection, node });
                    }
                }
                Effect::Close(connection) => drop(self.connections.remove(&connection)),
                Effect::Send { connection, attempt, frame } => self.send(Asker { connection, attempt }, frame),
            }
        }
        let state = &mut self.clients[client];
        let next_us = state.next_us().max(self.now_us);
        if next_us < state.wake_us {
            state.wake_us = next_us;
            self.at(next_us, Event::Wake(client));
        }
    }

    fn send(&mut self, asker: Asker, frame: Vec<u8>) {
        let Some(connection) = self.connections.get(&asker.connection) else { return };
        let Some(peer) = connection.peer.filter(|_| !connection.is_lost_to_node) else { return };
        match self.arrival_at_node(asker.connection.client, peer.node.id) {
            Some(at_us) => self.at(at_us, Event::Asked { asker, peer, frame, is_forwarded: false }),
            None => {
                let connection = self.connections.get_mut(&asker.connection);
                connection.into_iter().for_each(|connection| connection.is_lost_to_node = true);
            }
        }
    }

    fn arrival_at_node(&mut self, client: usize, node: u64) -> Option<u64> {
        if !self.is_reached_by(client, node) {
            return None;
        }
        self.network.arrivals(&mut self.random, self.now_us, Place::Clients, Place::Node(node))[0]
    }

    /// Whether this client is on the node's side, where that makes a difference.
    fn is_reached_by(&self, client: usize, node: u64) -> bool {
        let Some(reached) = self.reached_by_readers else { return true };
        match (client < self.readers, reached == node) {
            (true, is_reached) => is_reached || !self.are_readers_apart,
            (false, is_reached) => !is_reached,
        }
    }

    fn arrival_at_client(&mut self, client: usize, node: u64) -> Option<u64> {
        if !self.is_reached_by(client, node) {
            return None;
        }
        self.network.arrivals(&mut self.random, self.now_us, Place::Node(node), Place::Clients)[0]
    }

    /// A connection reaches its node.
    pub(super) fn accept(&mut self, connection: ConnectionId, node: u64) {
        match self.nodes.get(&node).map(|node| node.me) {
            Some(me) => {
                let peer = Peer { node: me, core: self.random.random_range(0..CORES) };
                let Some(accepted) = self.connections.get_mut(&connection) else { return };
                accepted.peer = Some(peer);
                if let Some(at_us) = self.arrival_at_client(connection.client, node) {
                    self.at(at_us, Event::Connected(connection));
                }
            }
            // The machine is off, too.
            None if self.chance(50) => {}
            None => self.reset(connection, node),
        }
    }

    /// The node's end tells the client that there is no such connection.
    pub(super) fn reset(&mut self, connection: ConnectionId, node: u64) {
        if let Some(at_us) = self.arrival_at_client(connection.client, node) {
            self.at(at_us, Event::Lost(connection));
        }
    }

    /// This life of a node has ended, and its connections with it.
    pub(super) fn reset_all(&mut self, node: NodeRef) {
        let is_own = |connection: &Connection| connection.peer.is_some_and(|peer| peer.node == node);
        let own = self.connections.iter().filter(|(_, connection)| is_own(connection)).map(|(id, _)| *id);
        for connection in own.collect::<Vec<_>>() {
            self.reset(connection, node.id);
        }
    }

    pub(super) fn connected(&mut self, connection: ConnectionId) {
        self.clients[connection.client].handle_connected(self.now_us, connection);
        self.carry_out(connection.client);
    }

    pub(super) fn lost(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
        self.clients[connection.client].handle_lost(self.now_us, connection);
        self.carry_out(connection.client);
    }

    /// A node's bytes reach the client.
    pub(super) fn answered(&mut self, asker: Asker, bytes: &[u8]) {
        let Asker { connection, attempt } = asker;
        if !self.connections.contains_key(&connection) {
            return;
        }
        if let Some(attempt) = attempt {
            self.history.note_told(attempt, bytes, self.now_us);
        }
        self.clients[connection.client].handle_bytes(self.now_us, connection, bytes);
        self.carry_out(connection.client);
    }

    /// Sends a frame to a client, unless the connection was another life's.
    pub(super) fn answer(&mut self, by: NodeRef, asker: Asker, bytes: Vec<u8>) {
        let is_there = |it: &&mut Connection| !it.is_lost_to_client && it.peer.is_some_and(|peer| peer.node == by);
        if self.connections.get_mut(&asker.connection).filter(is_there).is_none() {
            return;
        }
        match self.arrival_at_client(asker.connection.client, by.id) {
            Some(at_us) => {
                self.at(at_us, Event::Answered { asker, bytes: bytes.clone() });
                self.spring_on_answer(by, asker, &bytes);
            }
            None => {
                let connection = self.connections.get_mut(&asker.connection);
                connection.into_iter().for_each(|connection| connection.is_lost_to_client = true);
            }
        }
    }

    /// Answers a hello: the core that it asks for has the connection from now on.
    pub(super) fn greet(&mut self, asker: Asker, peer: Peer, frame: &[u8]) {
        let head = request_head(frame, VALUE_BYTES_MAX).expect("a request").expect("a whole head");
        let Ok(Request { body: RequestBody::Hello { parameters, .. }, .. }) = Request::decode(head, frame) else {
            unreachable!("the client's own hello")
        };
        let core = if parameters.core < CORES { parameters.core } else { peer.core };
        let peer = Peer { core, ..peer };
        let Some((_, core)) = self.core(peer) else { return };
        let epoch = core.shard.topology().epoch;
        let Some(connection) = self.connections.get_mut(&asker.connection) else { return };
        (connection.peer, connection.is_open) = (Some(peer), true);
        let hello = HelloReply {
            features: parameters.features & HelloParameters::FEATURES,
            node: peer.node.id,
            version: HelloParameters::VERSION,
            core: peer.core,
            cores: CORES,
            inflight_max: INFLIGHT_MAX,
            value_bytes_max: VALUE_BYTES_MAX as u32,
            frame_bytes_max: quoit_wire::limits::MULTI_FRAME_BYTES_MAX as u32,
            epoch,
        };
        let (mut value, mut bytes) = (Vec::new(), Vec::new());
        hello.put(&mut value);
        Reply { value: &value, ..Reply::status(head.id, Status::Ok) }.encode(&mut bytes);
        self.answer(peer.node, asker, bytes);
    }

    /// A core has a newer topology: it tells those that are connected to it.
    pub(super) fn tell_news(&mut self, peer: Peer) {
        let Some((_, core)) = self.core(peer) else { return };
        let version = Version::from_u64(u64::from(core.shard.topology().epoch));
        let mut bytes = Vec::new();
        Reply { version, ..Reply::status(0, Status::TopologyChanged) }.encode(&mut bytes);
        let is_told = |connection: &Connection| connection.is_open && connection.peer == Some(peer);
        let told = self.connections.iter().filter(|(_, connection)| is_told(connection)).map(|(id, _)| *id);
        for connection in told.collect::<Vec<_>>() {
            self.answer(peer.node, Asker { connection, attempt: None }, bytes.clone());
        }
    }
}
