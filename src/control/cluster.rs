//! The node's place in its cluster: carries the agent's requests to etcd, and its news to the cores.
//!
//! ```text
//!  etcd ◄── request ── Agent ── news: ring, lease, leader, orders ──► the cores concerned
//!       ── answer, watch ──►   ◄── "it turns", reports ────────────── every core
//!                              ◄── message ──► core 0 ◄── peer link ──► core 0 of other nodes
//! ```
//! All decisions are `cluster::agent`'s, and those of each core's copies; what operators ask is answered by `operate.rs`, and
//! what the other nodes have to say to that is gathered by `loads.rs`. Nothing here waits for a core: what does not fit a
//! core's queue is kept for it, the newest of what has a newest one, and given again soon.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quoit_wire::topology::{Seat, Topology};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::cores::Cores;
use super::etcd::{Etcd, EtcdOptionsError, Silence};
use super::handover::Handover;
use super::operate::{Desk, Question};
use super::ring_log::{RingCounters, RingLog};
use crate::cluster::agent::{Agent, AgentOptions, News};
use crate::cluster::etcd::{Compare, EtcdFailure, EtcdRequest, EtcdResponse, Put};
use crate::cluster::load::Load;
use crate::cluster::records::{Identity, Keys, RecordError};
use crate::cluster::{ControlMessage, NodeRef, Registration, Ring};
use crate::config::{ClusterConfig, write_mode_name};
use crate::runtime::{ClusterNews, ClusterPlace, Command, CoreEvent, CoreHandle, PeerAddress, SignOfLife, boot_time};
use crate::time::Instant;

/// Pause between two attempts to reach an etcd that does not answer at the start.
const START_PAUSE: Duration = Duration::from_millis(500);
/// Attempts between two complaints about it.
const START_ATTEMPTS_PER_COMPLAINT: u32 = 20;
/// Time to look up another node's host name. Its address is tried again with the next ring.
const LOOKUP_TIME_MAX: Duration = Duration::from_millis(500);
/// The cores are asked for a sign of life this many times in a lease, and the agent stops keeping the lease alive when one
/// gives none for a third of it.
const SIGNS_PER_LEASE: u32 = 12;
/// A core whose queue was full is told again after this long.
const TELL_AGAIN: Duration = Duration::from_millis(5);
/// Orders, and messages to other nodes, that are kept for a core whose queue is full. What is past it is repeated by whoever
/// waits for it.
const NEWS_WAITING_MAX: usize = 4096;
/// Reports and messages of the cores that are taken in before the agent is asked what follows.
const EVENTS_PER_ROUND: usize = 256;
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
    pub topology: watch::Sender<Arc<Topology>>,
    /// What operators ask.
    pub questions: flume::Receiver<Question>,
    /// What `/metrics` shows of the ring's changes.
    pub counters: Arc<RingCounters>,
    /// Told once, when the node has its place.
    pub joined: flume::Sender<()>,
    /// Turns true when the node is to give away what it has.
    pub leaving: watch::Receiver<bool>,
    /// Told how far that is, whenever it has changed.
    pub handover: flume::Sender<Handover>,
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

    /// How long the node may take to hand over what it has when it is told to stop.
    pub const fn drain_timeout(&self) -> Duration {
        self.config.drain_timeout
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
            on_etcd_loss: self.config.on_etcd_loss,
            move_bandwidth: self.config.move_bandwidth,
        }
    }
}

async fn identity(config: &ClusterConfig, wanted: &Identity) -> Result<Identity, JoinError> {
    let key = Keys::new(&config.name).identity();
    let mut attempts = 0;
    loop {
        let etcd = match Etcd::connect(&config.etcd).await? {
            Ok(etcd) => etcd,
            Err(silence) => {
                complain(&mut attempts, &silence).await;
                continue;
            }
        };
        let found = match etcd.clone().carry_out(EtcdRequest::Range { prefix: key.clone() }).await {
            EtcdResponse::Range { entries, .. } => entries.into_iter().find(|entry| entry.key == key),
            EtcdResponse::Failed(EtcdFailure::Refused(why)) => return Err(JoinError::Refused(why)),
            _ => {
                complain(&mut attempts, &etcd.silence().await).await;
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
    }
}

async fn complain(attempts: &mut u32, Silence(why): &Silence) {
    if attempts.is_multiple_of(START_ATTEMPTS_PER_COMPLAINT) {
        tracing::warn!(
            why,
            "etcd does not answer: this node waits for it (is it running, reachable at --etcd, and of the authority of --etcd-ca?)"
        );
    }
    *attempts += 1;
    sleep(START_PAUSE).await;
}

/// Keeps the node in its cluster until `stopped` turns true.
pub(super) async fn run(task: ClusterTask, mut stopped: watch::Receiver<bool>) {
    let etcd = loop {
        // The options were good for reading the identity.
        if let Ok(Ok(etcd)) = Etcd::connect(&task.joining.config.etcd).await {
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
    /// What each core is still to be told.
    untold: Vec<ClusterNews>,
    addresses: BTreeMap<NodeRef, SocketAddr>,
    cores: Arc<Cores>,
    desk: Desk,
    ring_log: RingLog,
    has_joined: bool,
    /// Others can't connect to the address that this node has told them.
    was_unreachable: bool,
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
                leaving: false,
            },
            lease_secs: config.lease.as_secs() as i64,
            identity: identity.clone(),
            replicas: config.replicas,
            write_mode: config.write_mode,
        };
        let agent = Agent::new(boot_time(), options);
        let ring_log = RingLog::new(*node, Arc::clone(&task.counters));
        let untold = task.cores.iter().map(|_| ClusterNews::default()).collect();
        let (cores, desk) = (Arc::new(Cores::new(task.cores.clone())), Desk::new(*node, config.on_etcd_loss));
        Self {
            task,
            etcd,
            agent,
            lease: None,
            untold,
            addresses: BTreeMap::new(),
            cores,
            desk,
            ring_log,
            has_joined: false,
            was_unreachable: false,
        }
    }

    async fn live(&mut self, mut stopped: watch::Receiver<bool>) {
        let (answer, answers) = flume::unbounded();
        let (alive, signs) = flume::bounded(2 * self.task.cores.len());
        let (own_load, own_loads) = flume::bounded(1);
        let mut watched: Option<flume::Receiver<_>> = None;
        let mut ask_cores = interval(self.task.joining.config.lease / SIGNS_PER_LEASE);
        ask_cores.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let events = self.task.events.clone();
        let questions = self.task.questions.clone();
        let mut leaving = self.task.leaving.clone();
        let (mut is_leaving, mut told) = (false, None);
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
            while let Some((to, message)) = self.desk.loads.poll_message(boot_time()) {
                self.send(to, &message);
            }
            if self.desk.loads.wants_cores() {
                let (cores, own_load) = (Arc::clone(&self.cores), own_load.clone());
                // One at a time; nobody waits for it any more at the node's end.
                tokio::spawn(async move { drop(own_load.try_send(cores.ask_load().await)) });
            }
            self.desk.answer_status(boot_time(), &self.agent);
            while let Some(news) = self.agent.poll_news() {
                self.take(news).await;
            }
            let all_told = self.tell_cores();
            let handover = is_leaving.then(|| self.handover());
            // Where there is no room, or nobody listens any more, it is told with the next event.
            if handover != told && handover.clone().is_some_and(|it| self.task.handover.try_send(it).is_ok()) {
                told = handover;
            }

            let now = boot_time();
            let until = self.desk.loads.timeout().into_iter().fold(self.agent.poll_timeout(now), Instant::min);
            let wait = Duration::from_millis(until.since(now).as_millis().max(1));
            let wait = if all_told { wait } else { wait.min(TELL_AGAIN) };
            tokio::select! {
                Ok((ticket, response)) = answers.recv_async() => {
                    if let EtcdResponse::LeaseGranted { lease, ttl_secs } = response {
                        self.take_lease(lease, ttl_secs);
                    }
                    self.agent.handle_response(boot_time(), ticket, response);
                }
                changes = next(watched.as_ref()) => match changes {
                    Some(changes) => {
                        self.agent.handle_watch(boot_time(), changes);
                        self.ring_log.look(boot_time(), &self.agent.known());
                    }
                    None => watched = None,
                },
                Ok(event) = events.recv_async() => {
                    self.hear(event);
                    events.try_iter().take(EVENTS_PER_ROUND).for_each(|event| self.hear(event));
                }
                Ok(question) = questions.recv_async() => self.desk.take(boot_time(), &mut self.agent, question),
                Ok(load) = own_loads.recv_async() => self.desk.loads.handle_own(boot_time(), self.of_members(load)),
                Ok(SignOfLife { core, streamed_bytes }) = signs.recv_async() => {
                    self.agent.handle_core_alive(boot_time(), core);
                    self.desk.loads.handle_streamed(boot_time(), core, streamed_bytes);
                }
                _ = ask_cores.tick() => {
                    for core in &self.task.cores {
                        // A core whose queue is full does not turn.
                        let _ = core.commands.try_send(Command::Alive(alive.clone()));
                    }
                }
                () = sleep(wait) => {}
                _ = leaving.wait_for(|leaving| *leaving), if !is_leaving => {
                    is_leaving = true;
                    self.agent.leave();
                }
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
        }
        if let Some(lease) = self.lease {
            // The others need not wait for it to run out.
            let leave = self.etcd.clone().carry_out(EtcdRequest::LeaseRevoke { lease });
            let _ = timeout(LEAVE_TIME_MAX, leave).await;
        }
    }

    fn handover(&self) -> Handover {
        Handover {
            vnodes_left: self.agent.vnodes_to_give(),
            has_taker: self.agent.has_taker(),
            trouble: self.agent.trouble().cloned(),
        }
    }

    /// The first core carries the messages to other nodes.
    fn send(&mut self, to: NodeRef, message: &ControlMessage) {
        if let Some(first) = self.untold.first_mut() {
            keep(&mut first.messages, (to, message.to_bytes()));
        }
    }

    /// A core has something to tell.
    fn take_lease(&mut self, lease: i64, granted_secs: i64) {
        let asked_secs = self.task.joining.config.lease.as_secs() as i64;
        if granted_secs != asked_secs {
            tracing::warn!(
                asked_secs,
                granted_secs,
                "etcd grants another lease than --lease: it has a least, by its own timers"
            );
        }
        self.lease = Some(lease);
    }

    fn hear(&mut self, event: CoreEvent) {
        match event {
            CoreEvent::Control { from, bytes } => self.receive(from, &bytes),
            CoreEvent::Reports { core, reports } => {
                // A node without a slot has no copies.
                let slot = self.agent.ring().and_then(|ring| ring.slot_of(self.task.joining.node));
                let Some(node) = slot else { return };
                for (election, report) in reports {
                    self.agent.handle_report(boot_time(), election, Seat { node, core }, report);
                }
            }
        }
    }

    fn receive(&mut self, from: NodeRef, bytes: &[u8]) {
        let now = boot_time();
        match ControlMessage::from_bytes(bytes) {
            Ok(ControlMessage::AskLoad { number }) => self.desk.loads.handle_asked(now, from, number),
            Ok(ControlMessage::Load { number, load }) => self.desk.loads.handle_told(from, number, load),
            Ok(message) => self.agent.handle_message(now, from, message),
            Err(error) => {
                tracing::warn!(from = self.name_of(from), %error, "a message of another node is not understood");
            }
        }
    }

    /// What this node's cores have told, without nodes that are gone: there are no more of them than a message takes.
    fn of_members(&self, load: Load) -> Load {
        match self.agent.ring() {
            Some(ring) => load.of_members(ring),
            None => Load::default(),
        }
    }

    /// What people call a node; its number, where nobody knows.
    fn name_of(&self, node: NodeRef) -> String {
        let ring = self.agent.ring();
        let mut members = ring.iter().flat_map(|ring| ring.slots.iter().flatten());
        let member = members.find(|member| member.node.id == node.id).map(|member| member.name.clone());
        // Before there is a ring, and for who has no slot in it.
        let registered = || self.agent.known().registrations.get(&node.id).map(|it| it.name.clone());
        member.or_else(registered).unwrap_or_else(|| format!("{:016x}", node.id))
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
                self.untold.iter_mut().for_each(|news| news.election = Some(election));
            }
            News::Leader(None) => tracing::info!("no node leads"),
            News::Trouble(trouble) => tracing::error!(%trouble, "trouble with the cluster"),
            News::Lease(until) => self.untold.iter_mut().for_each(|news| news.lease_until = Some(until)),
            News::Order(election, seat, order) => {
                // An order for a core that there is not is for an earlier life's seat: it concerns nobody.
                if let Some(news) = self.untold.get_mut(usize::from(seat.core)) {
                    keep(&mut news.orders, (election, order));
                }
            }
            News::Wish(number, is_kept) => self.desk.settle(boot_time(), &self.agent, number, is_kept),
        }
    }

    async fn take_ring(&mut self, ring: &Arc<Ring>) {
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
        self.look_at_own_options(ring);
        let now = boot_time();
        let leads = self.agent.leads(now);
        let known = self.agent.known();
        self.ring_log.take(now, ring, &known, leads);
        self.desk.look(now, &known);
        self.task.topology.send_replace(Arc::new(topology));
        let peers: Arc<[PeerAddress]> = peers.into();
        self.untold.iter_mut().for_each(|news| news.ring = Some((ring.clone(), peers.clone())));
        if !self.has_joined && ring.slot_of(own).is_some() {
            self.has_joined = true;
            // Whoever waits for it may have been told to stop.
            let _ = self.task.joined.try_send(());
        }
    }

    /// Tells, when it begins, where this node's options are not what its cluster is.
    fn look_at_own_options(&mut self, ring: &Ring) {
        let config = &self.task.joining.config;
        let is_local = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
        let is_unreachable =
            self.task.address.parse().is_ok_and(|own| is_local(&own)) && !self.addresses.values().all(is_local);
        if is_unreachable && !self.was_unreachable {
            let address = &self.task.address;
            tracing::warn!(
                address,
                "other nodes are on other machines, and this one has told them an address that only its own can connect \
                 to: listen on another one, or name it with --advertise HOST:PORT"
            );
        }
        self.was_unreachable = is_unreachable;
        if self.has_joined {
            return;
        }
        let asked = config.asked;
        if asked.replicas.is_some_and(|asked| asked != ring.replicas) {
            let (asked, cluster) = (asked.replicas, ring.replicas);
            tracing::warn!(asked, cluster, "the cluster keeps other --replicas: what its first node said counts");
        }
        if let Some(asked) = asked.write_mode.filter(|asked| *asked != ring.write_mode) {
            let (asked, cluster) = (write_mode_name(asked), write_mode_name(ring.write_mode));
            tracing::warn!(
                asked,
                cluster,
                "the cluster has another default for --write: what its first node said counts"
            );
        }
    }

    /// Tells the cores what they have not been told; whether all have room for it.
    fn tell_cores(&mut self) -> bool {
        let mut all_told = true;
        for (core, untold) in self.task.cores.iter().zip(&mut self.untold).filter(|(_, news)| !news.is_empty()) {
            let news = Command::Cluster(Box::new(std::mem::take(untold)));
            if let Err(flume::TrySendError::Full(Command::Cluster(news))) = core.commands.try_send(news) {
                *untold = *news;
                all_told = false;
            }
        }
        all_told
    }
}

/// Keeps what is to be told, as long as there is room.
fn keep<T>(waiting: &mut Vec<T>, news: T) {
    if waiting.len() < NEWS_WAITING_MAX {
        waiting.push(news);
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
