//! The node's place in its cluster: carries the agent's requests to etcd, and its news to the cores.
//!
//! ```text
//!  etcd ◄── request ── Agent ── news: ring ──► topology, peers ──► every core
//!       ── answer, watch ──►   ◄── "it turns" ─────────────────── every core
//!                              ◄── message ──► core 0 ◄── peer link ──► core 0 of other nodes
//! ```
//! All decisions are `cluster::agent`'s. Nothing here waits for a core: what does not fit a core's queue is given again
//! with the next turn of the loop.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quoit_wire::topology::Topology;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::admin::Shown;
use super::etcd::{Etcd, EtcdOptionsError};
use super::operate::{Desk, Question};
use crate::cluster::agent::{Agent, AgentOptions, News};
use crate::cluster::etcd::{Compare, EtcdFailure, EtcdRequest, EtcdResponse, Put};
use crate::cluster::records::{Identity, Keys, RecordError};
use crate::cluster::{ControlMessage, NodeRef, Registration, Ring};
use crate::config::ClusterConfig;
use crate::runtime::{ClusterPlace, Command, CoreEvent, CoreHandle, PeerAddress, PeerPlace, boot_time};

/// Pause between two attempts to reach an etcd that does not answer at the start.
const START_PAUSE: Duration = Duration::from_millis(500);
/// Attempts between two complaints about it.
const START_ATTEMPTS_PER_COMPLAINT: u32 = 20;
/// Time to look up another node's host name. Its address is tried again with the next ring.
const LOOKUP_TIME_MAX: Duration = Duration::from_millis(500);
/// The cores are asked for a sign of life this many times in a lease, and the agent stops keeping the lease alive when one
/// gives none for a third of it.
const SIGNS_PER_LEASE: u32 = 12;
/// Time for giving the lease up at the end.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(1);

/// Why a node can't begin to join its cluster.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The options for etcd.
    #[error(transparent)]
    Options(#[from] EtcdOptionsError),
    /// etcd refused to be read, or written to.
    #[error("etcd refuses: {0}; check --etcd-user, its password and its rights on the keys under /quoit/")]
    Refused(String),
    /// What is there is not a cluster of this version.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The thread could not wait for etcd.
    #[error("can't wait for etcd: {0}")]
    Wait(std::io::Error),
}

/// A node of a cluster before its cores are started: what it is, and what its cluster is.
#[derive(Clone, Debug)]
pub struct Joining {
    config: ClusterConfig,
    identity: Identity,
    node: NodeRef,
}

/// What the cluster's task is given beside.
pub(super) struct ClusterTask {
    pub joining: Joining,
    /// Where clients and peers reach the node.
    pub address: String,
    pub memory_bytes: u64,
    pub cores: Vec<CoreHandle>,
    pub events: flume::Receiver<CoreEvent>,
    /// What `/topology` shows.
    pub topology: watch::Sender<Shown>,
    /// What operators ask.
    pub questions: flume::Receiver<Question>,
    /// Told once, when the node has its place.
    pub joined: flume::Sender<()>,
}

impl Joining {
    /// Reads what the cluster is from etcd, or has it be what this node would have; waits as long as etcd does not answer.
    pub fn begin(config: &ClusterConfig, vnode_bits: u8) -> Result<Self, JoinError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(JoinError::Wait)?;
        let random = || RandomState::new().build_hasher().finish();
        let node = NodeRef { id: NodeRef::id_of(&config.node), incarnation: random() };
        let wanted = Identity { cluster_id: random(), seed: random(), vnode_bits };
        let identity = runtime.block_on(identity(config, &wanted))?;
        if identity.vnode_bits != vnode_bits {
            let vnodes = 1usize << identity.vnode_bits;
            tracing::info!(vnodes, "the cluster has another number of vnodes than --vnodes: its own counts");
        }
        Ok(Self { config: config.clone(), identity, node })
    }

    /// `2^vnode_bits` vnodes are in the cluster.
    pub const fn vnode_bits(&self) -> u8 {
        self.identity.vnode_bits
    }

    /// The node's id, which stands for its name.
    pub const fn node_id(&self) -> u64 {
        self.node.id
    }

    /// The cluster's name.
    pub fn cluster_name(&self) -> &str {
        &self.config.name
    }

    /// The node's name.
    pub fn node_name(&self) -> &str {
        &self.config.node
    }

    /// What the cores are told at their start.
    pub fn place(&self) -> ClusterPlace {
        ClusterPlace {
            name: self.config.name.clone(),
            cluster_id: self.identity.cluster_id,
            seed: self.identity.seed,
            incarnation: self.node.incarnation,
            zone: self.config.zone.clone(),
            weight: self.config.weight,
        }
    }
}

async fn identity(config: &ClusterConfig, wanted: &Identity) -> Result<Identity, JoinError> {
    let key = Keys::new(&config.name).identity();
    let mut attempts = 0;
    loop {
        if let Some(etcd) = Etcd::connect(&config.etcd).await? {
            let found = match etcd.clone().carry_out(EtcdRequest::Range { prefix: key.clone() }).await {
                EtcdResponse::Range { entries, .. } => entries.into_iter().find(|entry| entry.key == key),
                EtcdResponse::Failed(EtcdFailure::Refused(why)) => return Err(JoinError::Refused(why)),
                _ => {
                    complain(&mut attempts).await;
                    continue;
                }
            };
            if let Some(entry) = found {
                return Ok(Identity::from_bytes(&entry.value)?);
            }
            let compares = vec![Compare::CreateRevision { key: key.clone(), revision: 0 }];
            let puts = vec![Put { key: key.clone(), value: wanted.to_bytes(), lease: 0 }];
            // Whether it is ours that counts, or another node's, the next look says.
            if let EtcdResponse::Failed(EtcdFailure::Refused(why)) =
                etcd.carry_out(EtcdRequest::Transaction { compares, puts }).await
            {
                return Err(JoinError::Refused(why));
            }
        } else {
            complain(&mut attempts).await;
        }
    }
}

async fn complain(attempts: &mut u32) {
    if attempts.is_multiple_of(START_ATTEMPTS_PER_COMPLAINT) {
        tracing::warn!("etcd does not answer: this node waits for it (is it running, and reachable at --etcd?)");
    }
    *attempts += 1;
    sleep(START_PAUSE).await;
}

/// Keeps the node in its cluster until `stopped` turns true.
pub(super) async fn run(task: ClusterTask, mut stopped: watch::Receiver<bool>) {
    let etcd = loop {
        // The options were good for reading the identity.
        if let Ok(Some(etcd)) = Etcd::connect(&task.joining.config.etcd).await {
            break etcd;
        }
        tokio::select! {
            () = sleep(START_PAUSE) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    };
    let mut node = ClusterNode::new(task, etcd);
    node.live(stopped).await;
}

/// The loop's state.
struct ClusterNode {
    task: ClusterTask,
    etcd: Etcd,
    agent: Agent,
    /// For the end: what it is under is given up.
    lease: Option<i64>,
    /// What is to be told the cores, and which of them have not been told.
    ring: Option<(Arc<Topology>, Arc<[PeerAddress]>)>,
    untold: Vec<usize>,
    addresses: BTreeMap<NodeRef, SocketAddr>,
    desk: Desk,
    has_joined: bool,
}

impl ClusterNode {
    fn new(task: ClusterTask, etcd: Etcd) -> Self {
        let Joining { config, identity, node } = &task.joining;
        let options = AgentOptions {
            cluster: config.name.clone(),
            registration: Registration {
                node: *node,
                name: config.node.clone(),
                address: task.address.clone(),
                zone: config.zone.clone(),
                cores: task.cores.len() as u16,
                weight: config.weight,
                memory_bytes: task.memory_bytes,
            },
            lease_secs: config.lease.as_secs() as i64,
            identity: identity.clone(),
            replicas: config.replicas,
            write_mode: config.write_mode,
        };
        let agent = Agent::new(boot_time(), options);
        let (lease, ring, untold) = (None, None, Vec::new());
        Self {
            task,
            etcd,
            agent,
            lease,
            ring,
            untold,
            addresses: BTreeMap::new(),
            desk: Desk::default(),
            has_joined: false,
        }
    }

    async fn live(&mut self, mut stopped: watch::Receiver<bool>) {
        let (answer, answers) = flume::unbounded();
        let (alive, signs) = flume::bounded(2 * self.task.cores.len());
        let mut watched: Option<flume::Receiver<_>> = None;
        let mut ask_cores = interval(self.task.joining.config.lease / SIGNS_PER_LEASE);
        ask_cores.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let events = self.task.events.clone();
        let questions = self.task.questions.clone();
        loop {
            while let Some((ticket, request)) = self.agent.poll_request(boot_time()) {
                if let EtcdRequest::Watch { prefix, from_revision } = request {
                    watched = Some(self.etcd.watch(prefix, from_revision));
                    continue;
                }
                let (etcd, answer) = (self.etcd.clone(), answer.clone());
                // At most two are under way: the agent waits for its answers.
                tokio::spawn(async move {
                    let response = etcd.carry_out(request).await;
                    // Nobody waits any more at the node's end.
                    let _ = answer.send((ticket, response));
                });
            }
            while let Some((to, message)) = self.agent.poll_message(boot_time()) {
                self.send(to, &message);
            }
            while let Some(news) = self.agent.poll_news() {
                self.take(news).await;
            }
            self.tell_cores();

            let now = boot_time();
            let wait_ms = self.agent.poll_timeout(now).since(now).as_millis().max(1);
            tokio::select! {
                Ok((ticket, response)) = answers.recv_async() => {
                    if let EtcdResponse::LeaseGranted { lease, .. } = &response {
                        self.lease = Some(*lease);
                    }
                    self.agent.handle_response(boot_time(), ticket, response);
                }
                changes = next(watched.as_ref()) => match changes {
                    Some(changes) => self.agent.handle_watch(boot_time(), changes),
                    None => watched = None,
                },
                Ok(CoreEvent::Control { from, bytes }) = events.recv_async() => self.receive(from, &bytes),
                Ok(question) = questions.recv_async() => self.desk.take(boot_time(), &mut self.agent, question),
                Ok(core) = signs.recv_async() => self.agent.handle_core_alive(boot_time(), core),
                _ = ask_cores.tick() => {
                    for core in &self.task.cores {
                        // A core whose queue is full does not turn.
                        let _ = core.commands.try_send(Command::Alive(alive.clone()));
                    }
                }
                () = sleep(Duration::from_millis(wait_ms)) => {}
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
        }
        if let Some(lease) = self.lease {
            // The others need not wait for it to run out.
            let leave = self.etcd.clone().carry_out(EtcdRequest::LeaseRevoke { lease });
            let _ = timeout(LEAVE_TIME_MAX, leave).await;
        }
    }

    fn send(&self, to: NodeRef, message: &ControlMessage) {
        let Some(first) = self.task.cores.first() else { return };
        let to = PeerPlace { node: to, core: 0 };
        // A message that is lost is repeated.
        let _ = first.commands.try_send(Command::SendControl { to, bytes: message.to_bytes() });
    }

    fn receive(&mut self, from: NodeRef, bytes: &[u8]) {
        match ControlMessage::from_bytes(bytes) {
            Ok(message) => self.agent.handle_message(boot_time(), from, message),
            Err(error) => {
                tracing::warn!(from = self.name_of(from), %error, "a message of another node is not understood");
            }
        }
    }

    /// What people call a node; its number, where nobody knows.
    fn name_of(&self, node: NodeRef) -> String {
        let ring = self.agent.ring();
        let mut members = ring.iter().flat_map(|ring| ring.slots.iter().flatten());
        let member = members.find(|member| member.node.id == node.id).map(|member| member.name.clone());
        member.unwrap_or_else(|| format!("{:016x}", node.id))
    }

    async fn take(&mut self, news: News) {
        match news {
            News::Ring(ring) => self.take_ring(&ring).await,
            News::Leader(Some((node, election))) => {
                tracing::info!(
                    leader = self.name_of(node),
                    election,
                    is_own = node == self.task.joining.node,
                    "leader"
                );
            }
            News::Leader(None) => tracing::info!("no node leads"),
            News::Trouble(trouble) => tracing::error!(%trouble, "trouble with the cluster"),
            // Copies are to act on these; a node without has no promise to keep by them.
            News::Lease(_) | News::Order(..) => {}
            News::Wish(number, is_kept) => self.desk.settle(&self.agent, number, is_kept),
        }
    }

    async fn take_ring(&mut self, ring: &Ring) {
        let topology = ring.to_topology();
        if let Err(error) = topology.check() {
            tracing::error!(%error, epoch = ring.epoch, "the ring makes no topology: the last good one stays");
            return;
        }
        let own = self.task.joining.node;
        let members = || ring.slots.iter().flatten();
        let mut peers = Vec::new();
        for member in members().filter(|member| member.node != own) {
            let known = self.addresses.get(&member.node).copied();
            let found = if known.is_some() { known } else { look_up(&member.address).await };
            let Some(address) = found else {
                tracing::warn!(node = member.name, address = member.address, "its address can't be found");
                continue;
            };
            self.addresses.insert(member.node, address);
            peers.push(PeerAddress { node: member.node, address, cores: member.cores });
        }
        self.addresses.retain(|node, _| members().any(|member| member.node == *node));
        let vnodes = topology.vnodes.len();
        tracing::info!(epoch = ring.epoch, nodes = topology.nodes.len(), vnodes, "a new ring");
        let topology = Arc::new(topology);
        let names = members().map(|member| member.name.clone()).collect();
        self.task.topology.send_replace(Shown { topology: topology.clone(), names });
        self.ring = Some((topology, peers.into()));
        self.untold = (0..self.task.cores.len()).collect();
        if !self.has_joined && ring.slot_of(own).is_some() {
            self.has_joined = true;
            // Whoever waits for it may have been told to stop.
            let _ = self.task.joined.try_send(());
        }
    }

    /// Tells the cores that have not been told of the newest ring.
    fn tell_cores(&mut self) {
        let Some((topology, peers)) = &self.ring else { return };
        let cores = &self.task.cores;
        self.untold.retain(|core| {
            let commands = &cores[*core].commands;
            let is_told = commands.try_send(Command::Peers(peers.clone())).is_ok()
                && commands.try_send(Command::Topology(topology.clone())).is_ok();
            !is_told
        });
    }
}

/// The next changes of a watch, if there is one; `None` when it has ended.
async fn next<T>(watched: Option<&flume::Receiver<T>>) -> Option<T> {
    match watched {
        Some(watched) => watched.recv_async().await.ok(),
        None => std::future::pending().await,
    }
}

async fn look_up(address: &str) -> Option<SocketAddr> {
    timeout(LOOKUP_TIME_MAX, tokio::net::lookup_host(address)).await.ok()?.ok()?.next()
}
