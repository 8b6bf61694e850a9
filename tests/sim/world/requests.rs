//! What clients ask and are answered, and what becomes of it at the cores.

use quoit_wire::{Operation as WireOperation, Reply, Status, Version, request_head};
use rand::RngExt;

use super::super::client::{KEYS, Letter, Load};
use super::super::history::{Ask, Emptied, Execution, Subject};
use super::super::network::Place;
use super::super::node::{CORES, Served, VALUE_BYTES_MAX};
use super::nodes::TURN_US;
use super::{CLIENTS, Event, World};
use crate::cluster::NodeRef;
use crate::cluster::copies::Peer;

/// From one piece of a large value to the next, and how many of them are the last before their connection ends.
const PIECE_US_MAX: u64 = 30_000;
const PIECES_LOST_PERCENT: u32 = 2;
/// Clients that a node can tell of a new epoch.
const CONNECTED_PERCENT: u32 = 15;

impl World {
    /// A node tells the clients that are connected to it of a new epoch; they ask anybody for it.
    pub(super) fn tell_clients(&mut self) {
        for client in &mut self.clients {
            if self.random.random_range(0..100) < CONNECTED_PERCENT {
                client.hear_news();
            }
        }
    }

    pub(super) fn wake(&mut self, client: usize) {
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
        let load = Load { only_reads: client < self.readers, hot: self.hot, is_plain: self.is_plain };
        let state = &mut self.clients[client];
        let letters = state.wake(&mut self.random, &mut self.history, now_us, &nodes, load);
        self.at(self.clients[client].wake_us, Event::Wake(client));
        let is_reader = client < self.readers;
        for Letter { node, core, frame } in letters {
            if (is_reader || self.reached_by_readers != Some(node))
                && let Some(at_us) =
                    self.network.arrivals(&mut self.random, now_us, Place::Clients, Place::Node(node))[0]
            {
                self.at(at_us, Event::Asked { client, node, core, frame, is_forwarded: false });
            }
        }
    }

    pub(super) fn serve(&mut self, client: usize, node: u64, core: u16, frame: Vec<u8>, is_forwarded: bool) {
        let Some(me) = self.nodes.get(&node).map(|node| node.me) else { return };
        let peer = Peer { node: me, core: core % CORES };
        let Some((now, core)) = self.core(peer) else { return };
        let served = core.serve(now, client, &frame, is_forwarded);
        self.take_served(peer, client, frame, served);
    }

    /// More of a large set's value has come, unless its connection ends now.
    pub(super) fn take_piece(&mut self, peer: Peer, id: u32) {
        let is_lost = self.chance(PIECES_LOST_PERCENT);
        let Some((now, core)) = self.core(peer) else { return };
        if is_lost {
            return core.lose_pieces(id);
        }
        if let Some((client, frame, served)) = core.take_piece(now, id) {
            self.take_served(peer, client, frame, served);
        }
    }

    fn take_served(&mut self, peer: Peer, client: usize, frame: Vec<u8>, served: Served) {
        let me = peer.node;
        match served {
            Served::Forward(core) => {
                let node = me.id;
                self.at(self.now_us + 10, Event::Asked { client, node, core, frame, is_forwarded: true });
            }
            Served::Begun(id) => {
                let wait_us = self.random.random_range(0..PIECE_US_MAX);
                self.at(self.now_us + wait_us, Event::Piece(peer, id));
            }
            Served::Replied { bytes, is_held, emptied } => {
                self.note_emptied(peer, &bytes, &emptied);
                self.note_departures(peer);
                self.note_execution(peer, &frame, &bytes);
                if !is_held {
                    self.answer(me, client, bytes);
                }
                self.turn_soon(peer, TURN_US);
            }
        }
    }

    pub(super) fn answer(&mut self, by: NodeRef, client: usize, bytes: Vec<u8>) {
        if client >= CLIENTS {
            return;
        }
        let arrivals = self.network.arrivals(&mut self.random, self.now_us, Place::Node(by.id), Place::Clients);
        if let Some(at_us) = arrivals[0] {
            self.spring_on_answer(by, &bytes);
            self.at(at_us, Event::Answered { client, bytes });
        }
    }

    /// Vnodes that a flush has emptied: to each of their keys that is a write.
    fn note_emptied(&mut self, by: Peer, reply: &[u8], emptied: &[(usize, Version)]) {
        let (reply, _) = Reply::decode(reply).expect("a reply").expect("a whole reply");
        for (vnode, version) in emptied.iter().copied() {
            let operation = self.history.attempts[reply.id as usize - 1];
            self.mix(version.as_u64());
            self.note_vnode(vnode as u32, || format!("{}/{} flush {operation}: {version}", by.node.id, by.core));
            self.history.emptied.push(Emptied { attempt: reply.id, vnode, version });
            let execution = Execution { operation, at_us: self.now_us, by, version };
            for key in (0..KEYS).filter(|key| self.history.vnodes[*key] == vnode) {
                self.history.executions[key].push(execution);
            }
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
        if ask == Ask::Flush {
            return;
        }
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
