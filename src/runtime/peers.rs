//! Peer links: how this core talks to cores of other nodes.
//!
//! ```text
//!  node 1, core 0                                       node 2, core 3
//!  outgoing link ── connect, hello ────────────────────► accepted by any core, handed over to core 3
//!                ◄───────────────────────────── hello ──
//!                ── frame, frame, … ───────────────────► incoming link
//! ```
//! Each core makes the links that it sends on; what comes back comes over the other side's own. A link is made when there is
//! first something to send to its place, and made again after a jittered wait when it breaks. The first cores of all nodes
//! keep links to each other: orders and reports go over them, and a failover is no time to make one. Nothing is kept for a link that
//! is down or full: whoever sends repeats what matters, and by its own bounded backlog.
//! What this file leaves out: what the frames say (`quoit_wire::peer`), and what follows from them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use quoit_wire::peer::{PeerHello, PeerMessage};

use super::clock::Reading;
use super::connection::{CloseCause, Connection, Phase};
use super::core::Core;
use super::limits::{PEER_BACKOFF_FIRST, PEER_BACKOFF_MAX, PEER_CONNECT_TIME_MAX, PEER_OUTPUT_BYTES_MAX};
use super::mesh::{Adoption, Greeting};
use super::ring::Completion;
use crate::cluster::copies::Peer;
use crate::cluster::{Election, NodeRef, Report};

/// A node that this one may talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The node.
    pub node: NodeRef,
    /// Where it listens.
    pub address: SocketAddr,
    /// How many cores it has.
    pub cores: u16,
}

/// What a core tells the control thread by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreEvent {
    /// A message between the leader and the nodes has arrived.
    Control {
        /// Who sent it.
        from: NodeRef,
        /// The message.
        bytes: Vec<u8>,
    },
    /// What the core's copies have to tell the leader, each with the election that they know of.
    Reports {
        /// Which core.
        core: u16,
        /// What it tells.
        reports: Vec<(Election, Report)>,
    },
}

/// What became of a frame that was to be sent to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerSend {
    /// It will leave with the turn.
    Queued,
    /// There is no link yet, or not any more. One is being made.
    Down,
    /// The link has as much unsent as it may.
    Full,
    /// Nobody is known to be there.
    Unknown,
}

/// What a connection is to its peer links.
#[derive(Debug)]
pub(super) struct PeerEnd {
    pub side: Side,
    pub place: Peer,
    /// Both have said hello.
    pub is_greeted: bool,
    /// The kernel has not let go of `address` yet.
    pub is_connecting: bool,
    #[expect(dead_code, reason = "the kernel reads it, by a pointer, while `is_connecting`")]
    pub address: Option<Box<socket2::SockAddr>>,
}

/// Who made the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Outgoing,
    Incoming,
}

/// Who this core is to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerIdentity {
    /// The cluster's id, as it stands in hellos.
    pub cluster: [u8; 16],
    pub place: Peer,
}

/// The links of one core.
#[derive(Debug)]
pub(super) struct Peers {
    /// `None` for a node without a cluster: it has no peers.
    pub identity: Option<PeerIdentity>,
    pub events: flume::Sender<CoreEvent>,
    known: BTreeMap<NodeRef, PeerAddress>,
    links: BTreeMap<Peer, Link>,
    jitter: RandomState,
    pub counters: PeerCounters,
}

/// An outgoing link.
#[derive(Debug)]
struct Link {
    state: LinkState,
    /// Attempts that failed since the last hello.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    Down { since: Reading, wait: Duration },
    Connecting { slot: u32, since: Reading },
    Up { slot: u32 },
}

/// Plain integers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerCounters {
    pub made: u64,
    pub failed: u64,
    pub accepted: u64,
    pub refused: u64,
    pub garbage: u64,
    pub sent: u64,
    pub received: u64,
    pub dropped_down: u64,
    pub dropped_full: u64,
    pub dropped_events: u64,
}

impl PeerIdentity {
    pub(super) fn new(cluster_id: u64, place: Peer) -> Self {
        let mut cluster = [0; 16];
        cluster[..8].copy_from_slice(&cluster_id.to_le_bytes());
        Self { cluster, place }
    }
}

impl Peers {
    pub(super) fn new(identity: Option<PeerIdentity>, events: flume::Sender<CoreEvent>) -> Self {
        Self {
            identity,
            events,
            known: BTreeMap::new(),
            links: BTreeMap::new(),
            jitter: RandomState::new(),
            counters: PeerCounters::default(),
        }
    }

    /// The slot of the outgoing link to `peer`, if frames can be sent over it.
    pub(super) fn slot_of(&self, peer: Peer) -> Option<u32> {
        match self.links.get(&peer)?.state {
            LinkState::Up { slot } => Some(slot),
            LinkState::Connecting { .. } | LinkState::Down { .. } => None,
        }
    }

    /// Whether `peer` may be talked to.
    pub(super) fn knows(&self, peer: Peer) -> bool {
        self.known.get(&peer.node).is_some_and(|known| peer.core < known.cores)
    }

    /// Outgoing links over which frames can be sent.
    pub(super) fn up(&self) -> usize {
        self.links.values().filter(|link| matches!(link.state, LinkState::Up { .. })).count()
    }

    /// A connection of an outgoing link is over: the next attempt waits the longer, the more have failed.
    pub(super) fn on_closed(&mut self, slot: u32, place: Peer, now: Reading) {
        let random = self.jitter.hash_one((slot, now.nanos_since(Reading::default())));
        let Some(link) = self.links.get_mut(&place) else { return };
        match link.state {
            LinkState::Connecting { slot: own, .. } | LinkState::Up { slot: own } if own == slot => {
                let doubled = PEER_BACKOFF_FIRST * 2u32.saturating_pow(link.failures.min(16));
                let longest = doubled.min(PEER_BACKOFF_MAX);
                let wait = longest / 2 + longest.mul_f64((random % 1024) as f64 / 2048.0);
                link.failures = link.failures.saturating_add(1);
                link.state = LinkState::Down { since: now, wait };
                self.counters.failed += 1;
            }
            LinkState::Connecting { .. } | LinkState::Up { .. } | LinkState::Down { .. } => {}
        }
    }

    /// What this core says first on a link to `to`.
    pub(super) fn hello(identity: PeerIdentity, to: Peer) -> PeerHello {
        PeerHello {
            magic: PeerHello::MAGIC,
            version: PeerHello::VERSION,
            core: identity.place.core,
            to_core: to.core,
            cluster: identity.cluster,
            node: identity.place.node.id,
            incarnation: identity.place.node.incarnation,
            to_node: to.node.id,
            to_incarnation: to.node.incarnation,
        }
    }

    /// What keeps this core from talking to who says `hello`; `expected` is who it should be, where that is known.
    pub(super) fn objection(&self, hello: &PeerHello, expected: Option<Peer>) -> Option<&'static str> {
        let Some(identity) = self.identity else { return Some("this node is in no cluster") };
        let from = place_of(hello);
        let to = NodeRef { id: hello.to_node, incarnation: hello.to_incarnation };
        if hello.magic != PeerHello::MAGIC {
            Some("its first frame is no peer hello")
        } else if hello.version != PeerHello::VERSION {
            Some("it speaks another version of the peer protocol: bring all nodes to one version")
        } else if hello.cluster != identity.cluster {
            Some("it is a node of another cluster: do two clusters share addresses, or a name in two etcds?")
        } else if to != identity.place.node {
            Some("it looks for another node, or an earlier life of this one, at this address")
        } else if expected.is_some_and(|expected| from != expected) {
            Some("another node, or another life of the node, answers at its address")
        } else if from.node == identity.place.node {
            Some("it says that it is this node")
        } else {
            None
        }
    }
}

fn place_of(hello: &PeerHello) -> Peer {
    Peer { node: NodeRef { id: hello.node, incarnation: hello.incarnation }, core: hello.core }
}

/// Whether the first bytes of a connection are those of a peer: enough to tell from every client's.
pub(super) fn is_peer(bytes: &[u8]) -> bool {
    bytes.get(5..9).is_some_and(|magic| magic == PeerHello::MAGIC.to_le_bytes())
}

impl Core {
    /// Who may be talked to, from now on. Links to others are closed.
    pub(super) fn set_peers(&mut self, peers: &[PeerAddress]) {
        self.peers.known = peers.iter().map(|peer| (peer.node, *peer)).collect();
        let gone: Vec<(Peer, LinkState)> = self
            .peers
            .links
            .iter()
            .filter(|(place, _)| !self.peers.known.contains_key(&place.node))
            .map(|(place, link)| (*place, link.state))
            .collect();
        for (place, state) in gone {
            self.peers.links.remove(&place);
            if let LinkState::Connecting { slot, .. } | LinkState::Up { slot } = state {
                self.close_peer(slot, CloseCause::Ended);
            }
        }
        self.keep_control_links();
    }

    /// The first core of a node is ready to send to the first core of any other.
    fn keep_control_links(&mut self) {
        if self.options.core > 0 || self.draining_since.is_some() {
            return;
        }
        let nodes: Vec<NodeRef> = self.peers.known.keys().copied().collect();
        for node in nodes {
            self.link_to(Peer { node, core: 0 });
        }
    }

    /// Lets `put` append whole frames for the core at `place`, if its link takes them.
    pub(super) fn send_to_peer(&mut self, place: Peer, put: impl FnOnce(&mut Vec<u8>)) -> PeerSend {
        if !self.peers.knows(place) {
            return PeerSend::Unknown;
        }
        let Some(slot) = self.link_to(place) else {
            self.peers.counters.dropped_down += 1;
            return PeerSend::Down;
        };
        let Some(mut connection) = self.take(slot) else { return PeerSend::Down };
        let is_full = connection.unsent_bytes() > PEER_OUTPUT_BYTES_MAX;
        if is_full {
            self.peers.counters.dropped_full += 1;
        } else {
            if connection.output.bytes.capacity() == 0 {
                connection.output.bytes = self.spare.take();
            }
            put(&mut connection.output.bytes);
            self.peers.counters.sent += 1;
            self.recharge(&mut connection);
            self.mark_dirty(slot, &mut connection);
        }
        self.put(slot, connection);
        if is_full { PeerSend::Full } else { PeerSend::Queued }
    }

    /// The slot of the link to `place`; where there is none, one is being made as soon as it is time for it.
    pub(super) fn link_to(&mut self, place: Peer) -> Option<u32> {
        let address = self.peers.known.get(&place.node)?.address;
        let down = LinkState::Down { since: self.now, wait: Duration::ZERO };
        match self.peers.links.entry(place).or_insert(Link { state: down, failures: 0 }).state {
            LinkState::Up { slot } => return Some(slot),
            LinkState::Down { since, wait } if self.now.is_past(since, wait) => self.connect_to_peer(place, address),
            LinkState::Down { .. } | LinkState::Connecting { .. } => {}
        }
        None
    }

    fn connect_to_peer(&mut self, place: Peer, address: SocketAddr) {
        let failed = |core: &mut Self| {
            if let Some(link) = core.peers.links.get_mut(&place) {
                link.state = LinkState::Down { since: core.now, wait: PEER_BACKOFF_MAX };
            }
            core.peers.counters.failed += 1;
        };
        if self.draining_since.is_some() {
            return failed(self);
        }
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
        let Some(slot) = socket.ok().and_then(|socket| self.open(OwnedFd::from(socket))) else {
            return failed(self);
        };
        let Some(mut connection) = self.take(slot) else { return };
        let address = Box::new(socket2::SockAddr::from(address));
        connection.phase = Phase::Peer;
        // SAFETY: the address is boxed in the connection, whose slot is not freed while `is_connecting`.
        unsafe { self.ring.connect(connection.descriptor(), slot, address.as_ptr().cast(), address.len()) };
        let address = Some(address);
        let end = PeerEnd { side: Side::Outgoing, place, is_greeted: false, is_connecting: true, address };
        connection.peer = Some(Box::new(end));
        self.put(slot, connection);
        if let Some(link) = self.peers.links.get_mut(&place) {
            link.state = LinkState::Connecting { slot, since: self.now };
        }
    }

    /// A connect has completed.
    pub(super) fn on_connected(&mut self, completion: Completion) {
        let slot = completion.slot;
        let Some(mut connection) = self.take(slot) else { return };
        let place = connection.peer.as_mut().map(|peer| {
            peer.is_connecting = false;
            peer.place
        });
        match (place, self.peers.identity) {
            (Some(place), Some(identity)) if completion.result == 0 && connection.phase == Phase::Peer => {
                PeerMessage::push_hello(&Peers::hello(identity, place), &mut connection.output.bytes);
                connection.is_receiving = true;
                self.rearm.push(slot);
                self.mark_dirty(slot, &mut connection);
            }
            _ => self.close(slot, &mut connection, CloseCause::Failed),
        }
        self.put_or_free(slot, connection);
    }

    /// The first bytes of a connection are a peer's. Its hello may not be whole yet.
    pub(super) fn on_peer_hello(&mut self, slot: u32, mut connection: Box<Connection>) {
        let (hello, is_alone) = match PeerMessage::decode(&connection.carry) {
            Ok(Some((PeerMessage::Hello(hello), bytes))) => (hello, bytes == connection.carry.len()),
            Ok(None) => {
                self.put(slot, connection);
                self.receive_hello(slot);
                return;
            }
            Ok(Some(_)) | Err(_) => {
                self.refuse_peer(slot, connection, "its first frame is no peer hello");
                return;
            }
        };
        connection.carry = Vec::new();
        if let Some(objection) = self.peers.objection(&hello, None) {
            // Who called is told who answers, and can say by itself what is wrong.
            if let Some(identity) = self.peers.identity {
                PeerMessage::push_hello(&Peers::hello(identity, place_of(&hello)), &mut connection.output.bytes);
                connection.phase = Phase::Draining;
                connection.intake = super::connection::Intake::Skip(usize::MAX);
                self.mark_dirty(slot, &mut connection);
                self.put(slot, connection);
                self.peers.counters.refused += 1;
                self.complain(slot, objection);
            } else {
                self.refuse_peer(slot, connection, objection);
            }
            return;
        }
        if !is_alone {
            return self.refuse_peer(slot, connection, "more than a hello came before the hello was answered");
        }
        let wanted = usize::from(hello.to_core);
        if wanted >= usize::from(self.options.cores) {
            return self.refuse_peer(slot, connection, "it wants a core that this node does not have");
        }
        if wanted == usize::from(self.options.core) {
            self.welcome_peer(slot, &mut connection, &hello);
            self.put(slot, connection);
            return;
        }
        self.forget(slot, &connection);
        self.counters.handed_over += 1;
        let Connection { socket, .. } = *connection;
        if self.mesh.adopt(wanted, Box::new(Adoption { socket, greeting: Greeting::Peer(hello) })).is_err() {
            self.counters.closed[CloseCause::Limit as usize] += 1;
        }
    }

    fn refuse_peer(&mut self, slot: u32, mut connection: Box<Connection>, objection: &str) {
        self.peers.counters.refused += 1;
        self.counters.malformed += 1;
        self.put(slot, connection);
        self.complain(slot, objection);
        if let Some(taken) = self.take(slot) {
            connection = taken;
            self.close(slot, &mut connection, CloseCause::Malformed);
            self.put_or_free(slot, connection);
        }
    }

    /// Answers a peer's hello, which is in order.
    pub(super) fn welcome_peer(&mut self, slot: u32, connection: &mut Connection, hello: &PeerHello) {
        let Some(identity) = self.peers.identity else { return };
        let place = place_of(hello);
        PeerMessage::push_hello(&Peers::hello(identity, place), &mut connection.output.bytes);
        let end = PeerEnd { side: Side::Incoming, place, is_greeted: true, is_connecting: false, address: None };
        connection.peer = Some(Box::new(end));
        connection.phase = Phase::Peer;
        connection.is_receiving = true;
        self.peers.counters.accepted += 1;
        self.rearm.push(slot);
        self.mark_dirty(slot, connection);
    }

    /// Bytes have arrived on a peer link.
    pub(super) fn on_peer_bytes(&mut self, slot: u32, buffer: u16, bytes: usize) {
        let Some(mut connection) = self.take(slot) else { return };
        let mut carry = std::mem::take(&mut connection.carry);
        if carry.capacity() == 0 {
            carry = self.spare.take();
        }
        carry.extend_from_slice(self.ring.buffers.received(buffer, bytes));
        let mut at = 0;
        let fault = loop {
            match PeerMessage::decode(&carry[at..]) {
                Ok(None) => break None,
                Ok(Some((message, length))) => {
                    at += length;
                    self.peers.counters.received += 1;
                    if let Err(fault) = self.on_peer_message(slot, &mut connection, message) {
                        break Some(fault);
                    }
                }
                Err(error) => {
                    self.peers.counters.garbage += 1;
                    break Some(error.to_string());
                }
            }
        };
        carry.drain(..at);
        if carry.is_empty() {
            self.spare.give(carry);
        } else {
            connection.carry = carry;
        }
        self.recharge(&mut connection);
        self.touch_taken(slot, &mut connection);
        self.put(slot, connection);
        if let Some(fault) = fault {
            self.complain(slot, &fault);
            self.close_peer(slot, CloseCause::Malformed);
        }
    }

    fn on_peer_message(
        &mut self,
        slot: u32,
        connection: &mut Connection,
        message: PeerMessage<'_>,
    ) -> Result<(), String> {
        let Some(peer) = &mut connection.peer else { return Ok(()) };
        let place = peer.place;
        match message {
            PeerMessage::Hello(hello) if !peer.is_greeted => {
                if let Some(objection) = self.peers.objection(&hello, Some(place)) {
                    self.peers.counters.refused += 1;
                    return Err(objection.to_owned());
                }
                peer.is_greeted = true;
                self.peers.counters.made += 1;
                if let Some(link) = self.peers.links.get_mut(&place) {
                    *link = Link { state: LinkState::Up { slot }, failures: 0 };
                }
                Ok(())
            }
            _ if !peer.is_greeted => Err("a peer that says something else before its hello".to_owned()),
            _ if peer.side == Side::Outgoing => Err("a peer that answers on a link it was called on".to_owned()),
            PeerMessage::Hello(_) => Err("a peer that says hello twice".to_owned()),
            PeerMessage::Control(bytes) => {
                let event = CoreEvent::Control { from: place.node, bytes: bytes.to_vec() };
                if self.peers.events.try_send(event).is_err() {
                    self.peers.counters.dropped_events += 1;
                }
                Ok(())
            }
            message => {
                let (now, Some((copies, mut state))) = (self.now.instant(), self.shard.copies()) else { return Ok(()) };
                copies.handle_message(now, &mut state, place, &message).map_err(|breach| {
                    self.peers.counters.garbage += 1;
                    breach.to_string()
                })
            }
        }
    }

    /// Gives up connections that take too long. Called with every sweep.
    pub(super) fn sweep_peers(&mut self) {
        let late: Vec<u32> = self
            .peers
            .links
            .values()
            .filter_map(|link| match link.state {
                LinkState::Connecting { slot, since } if self.now.is_past(since, PEER_CONNECT_TIME_MAX) => Some(slot),
                _ => None,
            })
            .collect();
        late.into_iter().for_each(|slot| self.close_peer(slot, CloseCause::Failed));
        self.keep_control_links();
    }

    /// Closes every link: the core ends.
    pub(super) fn close_peers(&mut self) {
        let is_peer = |connection: &Option<Box<Connection>>| connection.as_ref().is_some_and(|it| it.peer.is_some());
        let links = self.connections.iter().filter(|(_, connection)| is_peer(connection));
        let slots: Vec<u32> = links.map(|(slot, _)| slot as u32).collect();
        slots.into_iter().for_each(|slot| self.close_peer(slot, CloseCause::Ended));
    }

    fn close_peer(&mut self, slot: u32, cause: CloseCause) {
        if let Some(mut connection) = self.take(slot) {
            self.close(slot, &mut connection, cause);
            self.put_or_free(slot, connection);
        }
    }
}
