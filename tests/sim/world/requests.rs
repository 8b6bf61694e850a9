//! What becomes of clients' requests at the cores, and what of it goes into the history.

use quoit_wire::{MultiResult, Operation as WireOperation, Reply, Status, Version, request_head};
use rand::RngExt;

use super::super::client::KEYS;
use super::super::history::{Ask, Attempt, Emptied, Execution, Subject};
use super::super::node::{Asker, CORES, Served, VALUE_BYTES_MAX};
use super::nodes::TURN_US;
use super::{Event, World};
use crate::cluster::NodeRef;
use crate::cluster::copies::Peer;

/// From one piece of a large value to the next, and how many of them are the last before their connection ends.
const PIECE_US_MAX: u64 = 30_000;
const PIECES_LOST_PERCENT: u32 = 2;
/// What one core of a node asks of another takes so long.
const HOP_US: u64 = 10;

impl World {
    pub(super) fn serve(&mut self, asker: Asker, peer: Peer, frame: Vec<u8>, is_forwarded: bool) {
        let head = request_head(&frame, VALUE_BYTES_MAX).expect("a request").expect("a whole head");
        let Some((_, node)) = self.life(peer.node) else {
            // The next life of a node knows nothing of the connections of this one.
            if self.nodes.contains_key(&peer.node.id) {
                self.reset(asker.connection, peer.node.id);
            }
            return;
        };
        match (head.operation, asker.attempt) {
            (WireOperation::Hello, _) => self.greet(asker, peer, &frame),
            (WireOperation::Flush, Some(attempt)) if !is_forwarded => {
                node.begin_flush(attempt);
                for core in 0..CORES {
                    let wait_us = if core == peer.core { 0 } else { HOP_US };
                    let (peer, frame) = (Peer { core, ..peer }, frame.clone());
                    self.at(self.now_us + wait_us, Event::Asked { asker, peer, frame, is_forwarded: true });
                }
            }
            _ => {
                let Some((now, core)) = self.core(peer) else { return };
                let served = core.serve(now, Some(asker), &frame, is_forwarded);
                self.take_served(peer, asker, frame, served);
            }
        }
    }

    /// More of a large set's value has come, unless its connection ends now.
    pub(super) fn take_piece(&mut self, peer: Peer, attempt: u32) {
        let is_lost = self.chance(PIECES_LOST_PERCENT);
        let Some((now, core)) = self.core(peer) else { return };
        if is_lost {
            let connection = core.lose_pieces(attempt);
            connection.into_iter().for_each(|connection| self.reset(connection, peer.node.id));
        } else if let Some((asker, frame, served)) = core.take_piece(now, attempt) {
            self.take_served(peer, asker, frame, served);
        }
    }

    pub(super) fn take_served(&mut self, peer: Peer, asker: Asker, frame: Vec<u8>, served: Served) {
        match served {
            Served::Forward(core) => {
                let peer = Peer { core, ..peer };
                self.at(self.now_us + HOP_US, Event::Asked { asker, peer, frame, is_forwarded: true });
            }
            Served::Begun(attempt) => {
                let wait_us = self.random.random_range(0..PIECE_US_MAX);
                self.at(self.now_us + wait_us, Event::Piece(peer, attempt));
            }
            // The turn looks after it.
            Served::Kept => self.turn_soon(peer, TURN_US),
            Served::Replied { bytes, is_held, emptied } => {
                if let Some(attempt) = asker.attempt {
                    self.note_emptied(peer, attempt, &emptied);
                    self.note_departures(peer);
                    self.note_execution(peer, attempt, &bytes);
                }
                if !is_held {
                    self.reply(peer.node, asker, bytes);
                }
                self.turn_soon(peer, TURN_US);
            }
        }
    }

    /// A core's reply may leave.
    pub(super) fn reply(&mut self, by: NodeRef, asker: Asker, bytes: Vec<u8>) {
        let whole = self.life(by).and_then(|(_, node)| node.gather(asker.attempt, bytes));
        whole.into_iter().for_each(|bytes| self.answer(by, asker, bytes));
    }

    /// Vnodes that a flush has emptied: to each of their keys that is a write.
    fn note_emptied(&mut self, by: Peer, attempt: u32, emptied: &[(usize, Version)]) {
        let operation = self.history.attempt(attempt).operations[0];
        for (vnode, version) in emptied.iter().copied() {
            self.mix(version.as_u64());
            self.note_vnode(vnode as u32, || format!("{}/{} flush {operation}: {version}", by.node.id, by.core));
            self.history.emptied.push(Emptied { attempt, vnode, version });
            let execution = Execution { operation, at_us: self.now_us, by, version };
            for key in (0..KEYS).filter(|key| self.history.vnodes[*key] == vnode) {
                self.history.executions[key].push(execution);
            }
        }
    }

    /// What a core carried out goes into the history, whether or not its client will learn of it.
    fn note_execution(&mut self, by: Peer, attempt: u32, reply: &[u8]) {
        let (reply, _) = Reply::decode(reply).expect("a reply").expect("a whole reply");
        let Attempt { operations, is_multi } = self.history.attempt(attempt).clone();
        if !is_multi {
            return self.note_result(by, operations[0], reply.status, reply.version);
        }
        let mut rest = reply.value;
        // What was refused whole has no results.
        for operation in operations.into_iter().filter(|_| reply.status == Status::Ok) {
            let (result, after) = MultiResult::take(rest).expect("a result for each key");
            rest = after;
            self.note_result(by, operation, result.status, result.version);
        }
    }

    fn note_result(&mut self, by: Peer, operation: usize, status: Status, version: Version) {
        let (key, ask) = (self.history.operations[operation].key, self.history.operations[operation].ask);
        if ask == Ask::Flush {
            return;
        }
        self.mix(version.as_u64() ^ u64::from(status as u8));
        self.note_key(key, || format!("{}/{} op {operation} {ask:?}: {status:?} {version}", by.node.id, by.core));
        if status == Status::Ok && ask.is_write() {
            let execution = Execution { operation, at_us: self.now_us, by, version };
            let is_known = |known: &&Execution| known.version == version;
            match self.history.executions[key].iter().find(is_known) {
                // A repeat that got the first result.
                Some(known) if known.operation == operation => {}
                Some(known) => {
                    let text = format!("version {version} given to {known:?} and {execution:?}");
                    self.violate(Subject::Key(key), text);
                }
                None => self.history.executions[key].push(execution),
            }
        }
    }
}
