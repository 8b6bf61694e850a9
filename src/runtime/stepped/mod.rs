//! Cores without executors: a test steps them by hand and so decides what arrives in which turn.
//!
//! Everything is real but the waiting: the ring, the sockets, the mesh, the shard. A core's turn is called, in this one
//! thread, whenever the test says so. Every test ends in [`Stepped::end`], which holds that nothing was left behind.

mod budget;
mod cluster;
mod flow;
mod life;
mod limits;
mod peers;
mod topology;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use quoit_wire::topology::{Node, Seat, Topology};
use quoit_wire::{HelloParameters, Reply, RequestBody, RequestOptions, Status};

use super::clock::Reading;
use super::core::{Core, CoreOptions};
use super::limits::TimeLimits;
use super::mesh::{CoreShared, Mesh};
use super::park::new_eventfd;
use super::peers::{CoreEvent, PeerIdentity, Peers};
use super::ring::Ring;
use crate::cluster::NodeRef;
use crate::cluster::copies::{Copies, OnEtcdLoss, Peer};
use crate::shard::Shard;
use crate::store::{PolicyKind, StoreOptions};

/// What a test waits for comes within this time, or the test has failed. It never decides how long something takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of a core's buffers.
pub(super) const BUFFER_BYTES: usize = 8 << 20;

/// Cores of one node in one thread.
pub(super) struct Stepped {
    pub(super) cores: Vec<Core>,
    addresses: Vec<SocketAddr>,
    topology: Arc<Topology>,
    events: flume::Receiver<CoreEvent>,
}

/// The id of the cluster that the stepped nodes are of.
const CLUSTER: u64 = 77;
const VNODE_BITS: u8 = 6;
const HASH_SEED: u64 = 1;

/// The id and status of a reply, and its value.
pub(super) type Answer = (u32, Status, Vec<u8>);

/// A client that never blocks: the cores are stepped whenever it would.
pub(super) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    next_id: u32,
    /// Of the topology that its requests name.
    epoch: u32,
    /// The version in the last reply.
    last_version: u64,
}

impl Stepped {
    /// `cores` cores that accept, each on a port of its own; `adjust` changes what is fixed for their lives.
    pub(super) fn new(cores: usize, adjust: impl Fn(&mut CoreOptions)) -> Self {
        Self::with_id(7, cores, adjust)
    }

    /// The same, of a node with this id.
    pub(super) fn with_id(id: u64, cores: usize, adjust: impl Fn(&mut CoreOptions)) -> Self {
        Self::make(Topology::standalone(topology_node(id, cores), VNODE_BITS, HASH_SEED, 1), adjust, |_, _| {})
    }

    /// The same, of a node of a cluster, which owns nothing until it is told a ring.
    pub(super) fn in_cluster(id: u64, cores: usize) -> Self {
        let topology = Topology::unassigned(topology_node(id, cores), VNODE_BITS, HASH_SEED, "demo".to_owned());
        Self::make(
            topology,
            |_| {},
            |shard, own| {
                shard.join_cluster(Copies::new(own, VNODE_BITS, 4 << 20, OnEtcdLoss::Fence));
            },
        )
    }

    fn make(topology: Topology, adjust: impl Fn(&mut CoreOptions), join: impl Fn(&mut Shard, Peer)) -> Self {
        let value_bytes_max = 6 << 20;
        let id = topology.nodes[0].id;
        let cores = usize::from(topology.nodes[0].cores);
        let node_ref = NodeRef { id, incarnation: 1 };
        let (events_sender, events) = flume::bounded(16);
        let topology = Arc::new(topology);
        let shared: Arc<[CoreShared]> = (0..cores).map(|_| CoreShared::new(new_eventfd().unwrap())).collect();
        let mut addresses = Vec::new();
        let cores = Mesh::connect(&shared, BUFFER_BYTES).into_iter().enumerate().map(|(core, mesh)| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            addresses.push(listener.local_addr().unwrap());
            let mut options = CoreOptions {
                core: core as u16,
                cores: cores as u16,
                cpu: 0,
                node_id: id,
                value_bytes_max,
                connections_max: 1000,
                buffer_bytes_max: BUFFER_BYTES,
                prefault: false,
                time_limits: TimeLimits::default(),
                started: Reading::now(),
            };
            adjust(&mut options);
            let store = StoreOptions {
                memory_bytes: 64 << 20,
                value_bytes_max,
                policy: PolicyKind::None,
                vnode_bits: VNODE_BITS,
                hash_seed: HASH_SEED,
            };
            let ring = Ring::new(mesh.own().eventfd(), options.connections_max).unwrap();
            let mut shard = Shard::new(core as u16, 0, topology.clone(), store).unwrap();
            let own = Peer { node: node_ref, core: core as u16 };
            join(&mut shard, own);
            let identity = PeerIdentity::new(CLUSTER, own);
            let peers = Peers::new(Some(identity), events_sender.clone());
            let mut core = Core::new(options, ring, mesh, shard, peers, listener);
            core.start_accepting();
            core
        });
        let cores = cores.collect();
        Self { cores, addresses, topology, events }
    }

    /// One turn of every core.
    pub(super) fn turn(&mut self) {
        for core in &mut self.cores {
            core.turn().unwrap();
        }
    }

    /// Takes turns until `done` says something.
    pub(super) fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Reading::now();
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(!Reading::now().is_past(start, PATIENCE), "never: {what}");
            self.turn();
        }
    }

    /// A number of turns in which whatever is on its way gets where it goes.
    pub(super) fn rest(&mut self) {
        (0..64).for_each(|_| self.turn());
    }

    /// A client of `core`'s own listener that has sent nothing.
    pub(super) fn stranger(&self, core: usize) -> Client {
        let stream = TcpStream::connect(self.addresses[core]).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, received: Vec::new(), next_id: 1, epoch: self.topology.epoch, last_version: 0 }
    }

    /// A client that `core` keeps and has greeted.
    pub(super) fn client(&mut self, core: usize) -> Client {
        let mut client = self.stranger(core);
        let (_, status, _) = client.call(self, &hello(HelloParameters::ANY_CORE));
        assert_eq!(status, Status::Ok);
        client
    }

    /// Key number `number` among those that `core` owns.
    pub(super) fn key(&self, core: usize, number: usize) -> Vec<u8> {
        let keys = (0..).map(|number: u32| format!("key-{number}").into_bytes());
        keys.filter(|key| self.topology.owner(key) == Seat { node: 0, core: core as u16 }).nth(number).unwrap()
    }

    /// Ends the test: all clients being gone, nothing may be left of them.
    pub(super) fn end(mut self) {
        self.until("every connection is gone", |node| {
            node.cores.iter().all(|core| core.connections.is_empty() && core.mesh.inflight() == 0).then_some(())
        });
        for core in &self.cores {
            let left = (core.budget.held_bytes(), core.gathers.len(), core.held.len(), core.waiting.len());
            assert_eq!(left, (0, 0, 0, 0), "core {}", core.options.core);
        }
    }
}

impl Client {
    /// Sends bytes, the cores taking turns while the socket is full.
    pub(super) fn send_bytes(&mut self, node: &mut Stepped, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.try_send(bytes)..];
            if !bytes.is_empty() {
                node.turn();
            }
        }
    }

    /// Sends what the socket takes now.
    pub(super) fn try_send(&mut self, bytes: &[u8]) -> usize {
        match self.stream.write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("the node closed the connection: {error}"),
        }
    }

    /// The frame of a request, and its id.
    pub(super) fn frame(&mut self, body: &RequestBody<'_>) -> (u32, Vec<u8>) {
        let id = self.next_id;
        self.next_id += 1;
        let mut frame = Vec::new();
        body.encode(id, RequestOptions { epoch: self.epoch, ..RequestOptions::default() }, &mut frame);
        (id, frame)
    }

    /// Sends a request and waits for its reply.
    pub(super) fn call(&mut self, node: &mut Stepped, body: &RequestBody<'_>) -> Answer {
        let (id, frame) = self.frame(body);
        self.send_bytes(node, &frame);
        let answer = self.receive(node).expect("an answer");
        assert_eq!(answer.0, id);
        answer
    }

    /// The next reply; `None` when the node has ended the connection in good order.
    pub(super) fn receive(&mut self, node: &mut Stepped) -> Option<Answer> {
        let start = Reading::now();
        loop {
            if let Some(answer) = self.decode() {
                return Some(answer);
            }
            match self.read() {
                Some(0) => return None,
                Some(_) => {}
                None => {
                    assert!(!Reading::now().is_past(start, PATIENCE), "no reply");
                    node.turn();
                }
            }
        }
    }

    /// Lets its kernel take little of what it has not read.
    pub(super) fn narrow(&self) {
        socket2::SockRef::from(&self.stream).set_recv_buffer_size(128 << 10).unwrap();
    }

    /// The next reply; `None` when the connection has ended, in good order or by a reset.
    pub(super) fn answer_or_end(&mut self, node: &mut Stepped) -> Option<Answer> {
        node.until("an answer or the end", |_| {
            if let Some(answer) = self.decode() {
                return Some(Some(answer));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => Some(None),
                Ok(bytes) => {
                    self.received.extend_from_slice(&buffer[..bytes]);
                    None
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(None),
                Err(_) => None,
            }
        })
    }

    /// The replies that are there now.
    pub(super) fn received_now(&mut self) -> Vec<Answer> {
        self.read();
        std::iter::from_fn(|| self.decode()).collect()
    }

    /// The next `count` replies by id.
    pub(super) fn receive_all(&mut self, node: &mut Stepped, count: usize) -> HashMap<u32, (Status, Vec<u8>)> {
        let answers = (0..count).map(|at| self.receive(node).unwrap_or_else(|| panic!("only {at} of {count} replies")));
        let answers: HashMap<_, _> = answers.map(|(id, status, value)| (id, (status, value))).collect();
        assert_eq!(answers.len(), count, "a reply came twice");
        answers
    }

    /// Waits until the connection has ended, in good order or by a reset.
    pub(super) fn ended(mut self, node: &mut Stepped) {
        node.until("the connection ends", |_| match self.stream.read(&mut [0; 4096]) {
            Ok(0) => Some(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(()),
            Ok(_) | Err(_) => None,
        });
    }

    /// Says that nothing more will be sent.
    pub(super) fn half_close(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Bytes read now, zero at the end of the stream; `None` when there is nothing yet.
    fn read(&mut self) -> Option<usize> {
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(bytes) => {
                self.received.extend_from_slice(&buffer[..bytes]);
                Some(bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("the connection did not end in good order: {error}"),
        }
    }

    fn decode(&mut self) -> Option<Answer> {
        let (reply, bytes) = Reply::decode(&self.received).expect("a reply")?;
        let answer = (reply.id, reply.status, reply.value.to_vec());
        self.last_version = reply.version.as_u64();
        self.received.drain(..bytes);
        Some(answer)
    }
}

fn topology_node(id: u64, cores: usize) -> Node {
    Node {
        id,
        incarnation: 1,
        name: String::new(),
        address: String::new(),
        zone: String::new(),
        cores: cores as u16,
        weight: 1,
    }
}

/// A hello that asks for `core`.
pub(super) fn hello(core: u16) -> RequestBody<'static> {
    let parameters = HelloParameters {
        magic: HelloParameters::MAGIC,
        version_min: HelloParameters::VERSION,
        version_max: HelloParameters::VERSION,
        features: HelloParameters::FEATURES,
        core,
        security: 0,
    };
    RequestBody::Hello { parameters, credentials: &[] }
}

/// An unconditional set.
pub(super) fn set<'a>(key: &'a [u8], value: &'a [u8]) -> RequestBody<'a> {
    RequestBody::Set { key, parameters: Default::default(), condition: Default::default(), value }
}
