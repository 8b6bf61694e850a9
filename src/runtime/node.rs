//! A node: its listeners, its cores' executors, and the handles by which the control thread reaches them.
//!
//! Each core is one glommio executor pinned to one CPU. Its main task loads what was saved, takes turns until the core is
//! told to end, and saves. Before and after, it waits for its disk in glommio; between turns, in its own ring.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};
use quoit_wire::Version;
use quoit_wire::topology::{Node as TopologyNode, Topology};

use super::clock::Reading;
use super::commands::{Command, CoreHandle, Inbox};
use super::core::{Core, CoreOptions, Turn};
use super::limits::{
    BACKLOG_BYTES_MIN, BACKLOG_SHARE, BUFFER_BYTES_MIN, BUFFER_SHARE, COMMANDS_MAX, CORE_EVENTS_MAX, PREEMPT_NEVER,
    RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, RESERVED_BUFFERS, TimeLimits,
};
use super::listen::listen;
use super::mesh::{CoreShared, Mesh};
use super::park::{Idle, Patience, new_eventfd};
use super::peers::{CoreEvent, PeerIdentity, Peers};
use super::ring::Ring;
use super::stages::{CoreStages, Stages};
use super::state::{NodeState, StateFolderError};
use crate::cluster::NodeRef;
use crate::cluster::copies::{Copies, OnEtcdLoss, Peer};
use crate::shard::Shard;
use crate::store::{PolicyKind, StoreError, StoreOptions};

/// How a node is started.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Where clients connect; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// What the topology names as the node's address; `None` is the address listened on.
    pub advertise: Option<String>,
    /// The CPU of each core; repeats put several cores on one CPU.
    pub cpus: Vec<usize>,
    /// What the node may use for items, index and buffers together, in bytes.
    pub memory_bytes: usize,
    /// Touch all of that before the first request.
    pub prefault: bool,
    /// Who has to go when memory is full.
    pub policy: PolicyKind,
    /// What a core does when it finds nothing to do.
    pub idle: Idle,
    /// Largest value; by default the smaller of 16 MiB and 1/8 of a core's arena.
    pub value_bytes_max: Option<usize>,
    /// Connections each core keeps open; further ones are closed at once.
    pub connections_max: usize,
    /// The hash space is cut into `2^vnode_bits` vnodes.
    pub vnode_bits: u8,
    /// The node's id; drawn at random when `None`, or what the state folder says.
    pub node_id: Option<u64>,
    /// The cluster it is a node of; `None` makes it a cluster of one, which owns every vnode.
    pub cluster: Option<ClusterPlace>,
    /// Where items are saved at the end and loaded from at the start; `None`: a node starts empty. Not used in a cluster.
    pub state_dir: Option<PathBuf>,
    /// When the node gives up on a client.
    pub time_limits: TimeLimits,
}

/// What a node knows of its cluster before it starts. It owns nothing until it is told a topology that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPlace {
    /// The cluster's name.
    pub name: String,
    /// Drawn when the cluster was created; tells it from another one of its name.
    pub cluster_id: u64,
    /// Seed of the cluster's key hash.
    pub seed: u64,
    /// Which life of the node this is.
    pub incarnation: u64,
    /// Where copies should not share fate; may be empty.
    pub zone: String,
    /// Share of the vnodes relative to other nodes.
    pub weight: u16,
    /// What the node does that can't be sure of being in the cluster any more (C15).
    pub on_etcd_loss: OnEtcdLoss,
    /// Bytes a second that all cores together move of vnodes; `None`: the default of each.
    pub move_bandwidth: Option<u64>,
}

/// How a node's memory is divided. Every core gets the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySplit {
    /// For items, index and the eviction policy, per core.
    pub store_bytes: usize,
    /// For receiving, replies and the mesh, per core.
    pub buffer_bytes: usize,
    /// For records that copies on other nodes lack, per core; none without a cluster.
    pub backlog_bytes: usize,
    /// The largest value.
    pub value_bytes_max: usize,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The list of CPUs is empty, or longer than vnodes allow.
    #[error(
        "{cores} cores can't share {vnodes} vnodes: give --cores at least one core, and no more than there are vnodes"
    )]
    Cores {
        /// Cores asked for.
        cores: usize,
        /// Vnodes there are.
        vnodes: usize,
    },
    /// Less memory than the cores need.
    #[error(
        "{given_bytes} bytes of memory for {cores} cores are too few: --memory must be at least {needed_bytes} bytes"
    )]
    Memory {
        /// Bytes given.
        given_bytes: usize,
        /// Cores asked for.
        cores: usize,
        /// The least that works.
        needed_bytes: usize,
    },
    /// The largest value would not fit a core's arena.
    #[error(
        "a largest value of {given_bytes} bytes is too large: with this memory and these cores it is at most {limit_bytes} bytes"
    )]
    ValueMax {
        /// Bytes given.
        given_bytes: usize,
        /// The most that works.
        limit_bytes: usize,
    },
    /// The address could not be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The state folder can't be used.
    #[error(transparent)]
    State(#[from] StateFolderError),
    /// A core's store could not be made.
    #[error("core {core}: {source}")]
    Store {
        /// The core.
        core: u16,
        /// Why.
        source: StoreError,
    },
    /// A core's ring or descriptors could not be made.
    #[error("core {core}: the kernel refused an io_uring or eventfd: {source}")]
    Ring {
        /// The core.
        core: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// glommio could not start an executor.
    #[error("core {core} on CPU {cpu}: its executor did not start: {message}")]
    Executor {
        /// The core.
        core: u16,
        /// The CPU.
        cpu: usize,
        /// What glommio said.
        message: String,
    },
}

/// A core that did not end well.
#[derive(Debug, thiserror::Error)]
#[error("core {core}: {source}")]
pub struct CoreFailure {
    /// The core.
    pub core: u16,
    /// What went wrong in it.
    pub source: io::Error,
}

/// A running node.
pub struct Node {
    address: SocketAddr,
    topology: Arc<Topology>,
    memory: MemorySplit,
    handles: Vec<CoreHandle>,
    pub(super) stages: Stages,
    events: flume::Receiver<CoreEvent>,
    executors: Vec<ExecutorJoinHandle<io::Result<()>>>,
}

/// A core's receive buffers, rings and descriptors: what is spent whatever the traffic.
const CORE_FIXED_BYTES: usize = RECEIVE_BUFFER_BYTES * (RECEIVE_BUFFERS + RESERVED_BUFFERS) as usize + (1 << 20);
/// Least bytes of a core's store: a few hundred segments, so that eviction has something to choose from.
const STORE_BYTES_MIN: usize = 16 << 20;
/// Bytes glommio registers for direct I/O on each executor: its minimum. Only a state is read and written so, in chunks
/// for which it takes memory and gives it back.
const GLOMMIO_IO_BYTES: usize = 64 << 10;
/// A sleeping core wakes this often to expire items.
const BACKGROUND_INTERVAL: Duration = Duration::from_millis(100);
/// A core that loads or saves looks this often for commands.
const COMMAND_INTERVAL: Duration = Duration::from_millis(5);
/// In a cluster sooner, where more is due sooner, but not sooner than this.
const BACKGROUND_INTERVAL_MIN: Duration = Duration::from_millis(1);

impl RuntimeOptions {
    /// How the memory is divided among cores and uses.
    pub fn split_memory(&self) -> Result<MemorySplit, StartError> {
        let cores = self.cpus.len();
        let vnodes = 1 << self.vnode_bits;
        if cores == 0 || cores > vnodes {
            return Err(StartError::Cores { cores, vnodes });
        }
        let core_bytes = self.memory_bytes / cores;
        let buffer_share_bytes = (core_bytes / BUFFER_SHARE).max(BUFFER_BYTES_MIN);
        let is_in_cluster = self.cluster.is_some();
        let (backlog_share_bytes, backlog_bytes_min) = match is_in_cluster {
            true => ((core_bytes / BACKLOG_SHARE).max(BACKLOG_BYTES_MIN), BACKLOG_BYTES_MIN),
            false => (0, 0),
        };
        let core_bytes_min = CORE_FIXED_BYTES + BUFFER_BYTES_MIN + backlog_bytes_min + STORE_BYTES_MIN;
        // Whole MiB: it is told to people.
        let needed_bytes = (core_bytes_min * cores).next_multiple_of(1 << 20);
        if self.memory_bytes < needed_bytes {
            return Err(StartError::Memory { given_bytes: self.memory_bytes, cores, needed_bytes });
        }
        let room_bytes = core_bytes - CORE_FIXED_BYTES;
        // A value on its way to or from another core lies in the buffers: they hold the largest one, and a quarter more. So
        // does the backlog, or no copy could ever follow a write of that size.
        let fits = |taken_bytes: usize, holders: usize| (room_bytes - taken_bytes) * 4 / (4 * 8 + 5 * holders);
        let limit_bytes = match is_in_cluster {
            true => fits(buffer_share_bytes + backlog_share_bytes, 0).min(fits(buffer_share_bytes, 1)).min(fits(0, 2)),
            false => fits(buffer_share_bytes, 0).min(fits(0, 1)),
        };
        let limit_bytes = limit_bytes.min(quoit_wire::limits::VALUE_BYTES_MAX);
        let value_bytes_max = self.value_bytes_max.unwrap_or(limit_bytes);
        if value_bytes_max > limit_bytes {
            return Err(StartError::ValueMax { given_bytes: value_bytes_max, limit_bytes });
        }
        let buffer_bytes = buffer_share_bytes.max(value_bytes_max * 5 / 4);
        let backlog_bytes = if is_in_cluster { backlog_share_bytes.max(value_bytes_max * 5 / 4) } else { 0 };
        let store_bytes = room_bytes - buffer_bytes - backlog_bytes;
        Ok(MemorySplit { store_bytes, buffer_bytes, backlog_bytes, value_bytes_max })
    }
}

impl Node {
    /// Starts a node; returns when every core serves, or, where a saved state is to be loaded first, when they have
    /// begun to: then [`Self::restore`] waits for the rest.
    pub fn start(options: &RuntimeOptions) -> Result<Self, StartError> {
        let memory = options.split_memory()?;
        let cores = options.cpus.len();
        let listeners =
            listen(options.listen, cores).map_err(|source| StartError::Listen { address: options.listen, source })?;
        let address = listeners.first().and_then(|listener| listener.local_addr().ok()).unwrap_or(options.listen);
        // What a node of a cluster owns it learns from the others, and gets from them.
        let state_dir = options.state_dir.as_deref().filter(|_| options.cluster.is_none());
        let state = state_dir
            .map(|folder| NodeState::open(folder, cores, options.vnode_bits, options.policy, options.node_id))
            .transpose()?;
        let topology = Arc::new(first_topology(options, address, state.as_ref()));
        let shared = (0..cores).map(|_| new_eventfd().map(CoreShared::new)).collect::<io::Result<Arc<[_]>>>();
        let shared = shared.map_err(|source| StartError::Ring { core: 0, source })?;

        let (started, starts) = flume::bounded(cores);
        let (stages, cores_stages) = Stages::new(cores, state);
        let (handles, executors) = (Vec::new(), Vec::new());
        let (events_sender, events) = flume::bounded(CORE_EVENTS_MAX);
        let mut node = Self { address, topology: topology.clone(), memory, handles, stages, events, executors };
        let start_time = Reading::now();
        let meshes = Mesh::connect(&shared, memory.buffer_bytes).into_iter().enumerate();
        for (((core, mesh), listener), stages) in meshes.zip(listeners).zip(cores_stages) {
            let (core, cpu) = (core as u16, options.cpus[core]);
            let (commands, queue) = flume::bounded(COMMANDS_MAX);
            let inbox = Inbox::new(queue, &shared, core);
            let core_options = CoreOptions {
                core,
                cores: cores as u16,
                cpu,
                node_id: topology.nodes[0].id,
                value_bytes_max: memory.value_bytes_max,
                connections_max: options.connections_max,
                buffer_bytes_max: memory.buffer_bytes,
                prefault: options.prefault,
                time_limits: options.time_limits,
                started: start_time,
            };
            let store_options = StoreOptions {
                memory_bytes: memory.store_bytes,
                value_bytes_max: memory.value_bytes_max,
                policy: options.policy,
                vnode_bits: options.vnode_bits,
                hash_seed: topology.seed,
            };
            let identity = options.cluster.as_ref().map(|cluster| {
                let node = NodeRef { id: topology.nodes[0].id, incarnation: cluster.incarnation };
                PeerIdentity::new(cluster.cluster_id, Peer { node, core })
            });
            let copies = options.cluster.as_ref().zip(identity).map(|(cluster, identity)| {
                let place = identity.place;
                let mut copies = Copies::new(place, options.vnode_bits, memory.backlog_bytes, cluster.on_etcd_loss);
                let bandwidth = cluster.move_bandwidth.map(|bytes| bytes / options.cpus.len() as u64);
                bandwidth.into_iter().for_each(|bytes_per_sec| copies.set_move_bandwidth(bytes_per_sec));
                copies
            });
            let peers = Peers::new(identity, events_sender.clone());
            let (topology, started, idle) = (topology.clone(), started.clone(), options.idle);
            let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu))
                .name(&format!("quoit-core-{core}"))
                .io_memory(GLOMMIO_IO_BYTES)
                .preempt_timer(PREEMPT_NEVER)
                .spawn(move || async move {
                    let made = make_core(core_options, store_options, topology, mesh, copies, peers, listener);
                    match made {
                        Ok(made) => {
                            let _ = started.send((core, Ok(())));
                            drop(started);
                            live(made, inbox, idle, stages).await
                        }
                        Err(error) => {
                            let _ = started.send((core, Err(error)));
                            Ok(())
                        }
                    }
                })
                .map_err(|error: GlommioError<()>| StartError::Executor { core, cpu, message: error.to_string() })?;
            node.handles.push(CoreHandle { core, cpu, commands });
            node.executors.push(executor);
        }
        drop(started);
        let mut silent: BTreeSet<u16> = (0..cores as u16).collect();
        while let Some(&core) = silent.first() {
            let failed = match starts.recv() {
                Ok((core, Ok(()))) => {
                    silent.remove(&core);
                    continue;
                }
                Ok((_, Err(error))) => error,
                // All that would have reported have: those left ended without a word.
                Err(_) => {
                    let (cpu, message) = (options.cpus[usize::from(core)], "it ended early".to_owned());
                    StartError::Executor { core, cpu, message }
                }
            };
            node.begin_shutdown();
            return Err(failed);
        }
        Ok(node)
    }

    /// The address clients connect to.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The topology the node has started with.
    pub const fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// How the node's memory is divided.
    pub const fn memory(&self) -> MemorySplit {
        self.memory
    }

    /// The ways to the cores.
    pub fn handles(&self) -> &[CoreHandle] {
        &self.handles
    }

    /// What the cores tell by themselves, in a bounded queue.
    pub const fn events(&self) -> &flume::Receiver<CoreEvent> {
        &self.events
    }

    /// Asks every core to answer what it was asked, close its connections and end. [`Self::join`] waits for it.
    pub fn begin_shutdown(&self) {
        for handle in &self.handles {
            // A core that has ended takes no commands and needs none.
            let _ = handle.commands.send(Command::Shutdown);
        }
    }

    /// Waits until every core has ended; returns what went wrong in the first that did not end well, if one did not. With
    /// a state folder, what they have saved is what the next node finds there, if they all have.
    pub fn join(self) -> Result<(), CoreFailure> {
        let saved = self.stages.collect_saved();
        let mut result = Ok(());
        for (handle, executor) in self.handles.iter().zip(self.executors) {
            let ended = executor.join().map_err(|error| io::Error::other(error.to_string())).and_then(|ended| ended);
            result = result.and(ended.map_err(|source| CoreFailure { core: handle.core, source }));
        }
        self.stages.finish(saved, self.handles.len());
        result
    }
}

/// The topology a node starts with: it owns everything, as who it was before where its state folder tells; or, in a
/// cluster, nothing.
fn first_topology(options: &RuntimeOptions, address: SocketAddr, state: Option<&NodeState>) -> Topology {
    let random = || RandomState::new().build_hasher().finish();
    let node = TopologyNode {
        id: state.map(NodeState::node_id).or(options.node_id).unwrap_or_else(random),
        incarnation: random(),
        name: String::new(),
        address: options.advertise.clone().unwrap_or_else(|| address.to_string()),
        zone: String::new(),
        cores: options.cpus.len() as u16,
        weight: 1,
    };
    if let Some(cluster) = &options.cluster {
        let ClusterPlace { name, seed, incarnation, zone, weight, .. } = cluster.clone();
        return Topology::unassigned(
            TopologyNode { incarnation, zone, weight, ..node },
            options.vnode_bits,
            seed,
            name,
        );
    }
    // A random term: a version from before a restart is never taken for one from after it.
    let term = (random() as u32 % Version::TERM_MAX) + 1;
    let seed = state.map_or_else(random, NodeState::seed);
    let mut topology = Topology::standalone(node, options.vnode_bits, seed, term);
    for (placement, term) in topology.vnodes.iter_mut().zip(state.iter().flat_map(|state| state.terms())) {
        placement.term = term;
    }
    topology
}

fn make_core(
    options: CoreOptions,
    store_options: StoreOptions,
    topology: Arc<Topology>,
    mesh: Mesh,
    copies: Option<Copies>,
    peers: Peers,
    listener: TcpListener,
) -> Result<Core, StartError> {
    let core = options.core;
    let eventfd = mesh.own().eventfd();
    let refused = |source| StartError::Ring { core, source };
    let ring = Ring::new(eventfd, options.connections_max).map_err(refused)?;
    let shard = Shard::new(core, 0, topology, store_options);
    let mut shard = shard.map_err(|source| StartError::Store { core, source })?;
    shard.populate();
    if options.prefault {
        tracing::info!(core, "touching the memory");
        shard.prefault().map_err(|source| StartError::Store { core, source })?;
    }
    copies.into_iter().for_each(|copies| shard.join_cluster(copies));
    Ok(Core::new(options, ring, mesh, shard, peers, listener))
}

/// A core's life: what was saved is loaded; turns, until the core is told to end; what there is is saved.
async fn live(core: Core, inbox: Inbox, idle: Idle, mut stages: CoreStages) -> io::Result<()> {
    let (core, inbox) = (Rc::new(RefCell::new(core)), Rc::new(RefCell::new(inbox)));
    if !beside_commands(&core, &inbox, stages.begin(&core)).await {
        return Ok(());
    }
    core.borrow_mut().start_accepting();
    stages.serving();
    take_turns(&mut core.borrow_mut(), &mut inbox.borrow_mut(), idle)?;
    beside_commands(&core, &inbox, stages.end(&core)).await;
    Ok(())
}

/// Does what waits for the disk, and serves commands meanwhile.
async fn beside_commands<T>(core: &Rc<RefCell<Core>>, inbox: &Rc<RefCell<Inbox>>, work: impl Future<Output = T>) -> T {
    let (core, inbox) = (Rc::clone(core), Rc::clone(inbox));
    let commands = glommio::spawn_local(async move {
        loop {
            inbox.borrow_mut().serve(&mut core.borrow_mut());
            Timer::new(COMMAND_INTERVAL).await;
        }
    });
    let result = work.await;
    commands.cancel().await;
    result
}

/// Turns without end, and a sleep when there is nothing to do.
///
/// Nothing is awaited here: a core that serves never sleeps in glommio, which can oversleep. When a timer fires between a
/// round's look at the rings and the round's first task (the machine held the thread up for so long), glommio 0.9 takes the
/// round for an empty one and sleeps although tasks can run: `LocalExecutor::run_task_queues` returns false, and
/// `Reactor::wait` does not ask. If no timer is left, nobody wakes it.
fn take_turns(core: &mut Core, inbox: &mut Inbox, idle: Idle) -> io::Result<()> {
    let mut patience = Patience::new(idle);
    loop {
        inbox.serve(core);
        let turn = core.turn()?;
        core.counters.spinning_nanos += patience.spun_nanos(core.now);
        match turn {
            Turn::Over => return Ok(()),
            Turn::Busy => {
                patience.found_work(core.now);
                core.let_others_run(idle);
            }
            Turn::Background => {}
            Turn::Idle if patience.shall_park(core.now) => core.sleep(inbox)?,
            Turn::Idle => std::hint::spin_loop(),
        }
    }
}

impl Core {
    /// Between two turns, while replies wait for other nodes: those may share this core's processor, as they do where cores
    /// sleep as soon as they can, and what the replies wait for comes when they run. Else a node would go on for as long as
    /// its share lasts, with a few requests a turn, and the others' turn would come after milliseconds.
    fn let_others_run(&self, idle: Idle) {
        if idle == Idle::Park && self.held.len() > 0 {
            std::thread::yield_now();
        }
    }

    /// Sleeps until there is something to do, but never longer than until items may have expired, or its cluster waits for a
    /// heartbeat. A wake-up that is lost, or a clock that does not go on, costs no more than that.
    fn sleep(&mut self, inbox: &Inbox) -> io::Result<()> {
        self.mesh.own().announce_sleep();
        // Who came before the announcement has not rung.
        if !inbox.is_rung() && self.turn()? == Turn::Idle {
            let pause = self.cluster_pause(self.now.instant());
            let pause = pause.map_or(BACKGROUND_INTERVAL, |pause| Duration::from_millis(pause.as_millis()));
            let pause = pause.clamp(BACKGROUND_INTERVAL_MIN, BACKGROUND_INTERVAL);
            let pause = self.together.pause(self.now).map_or(pause, |together| together.min(pause));
            let is_over = self.ring.wait(pause)?;
            self.counters.parks += 1;
            self.counters.background_ticks += u64::from(is_over);
        }
        self.mesh.own().announce_awake();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::limits::UNFINISHED_LEAVE;

    #[test]
    fn the_largest_value_fits_the_store_and_the_buffers_that_carry_it_between_cores() {
        let cluster = ClusterPlace {
            name: "demo".to_owned(),
            cluster_id: 1,
            seed: 1,
            incarnation: 1,
            zone: String::new(),
            weight: 1,
            on_etcd_loss: OnEtcdLoss::Fence,
            move_bandwidth: None,
        };
        let sizes = [32, 64, 100, 128, 160, 200, 256, 512, 1024, 65_536];
        let clusters = [None, Some(cluster)];
        for (core_mib, cluster) in sizes.iter().flat_map(|size| clusters.iter().map(move |cluster| (size, cluster))) {
            let options = RuntimeOptions {
                listen: "127.0.0.1:0".parse().unwrap(),
                advertise: None,
                cpus: vec![0; 2],
                memory_bytes: 2 * (core_mib << 20),
                prefault: false,
                policy: PolicyKind::None,
                idle: Idle::Park,
                value_bytes_max: None,
                connections_max: 1,
                vnode_bits: 4,
                node_id: None,
                cluster: cluster.clone(),
                state_dir: None,
                time_limits: TimeLimits::default(),
            };
            let split = options.split_memory().unwrap();
            let frame_bytes = split.value_bytes_max + quoit_wire::limits::KEY_BYTES_MAX + 256;
            assert!(split.value_bytes_max <= split.store_bytes / 8, "{core_mib} MiB: {split:?}");
            let frames_bytes_max = split.buffer_bytes - split.buffer_bytes / UNFINISHED_LEAVE;
            assert!(frame_bytes <= frames_bytes_max, "{core_mib} MiB: {split:?}");
            let backlog_bytes_min = if cluster.is_some() { split.value_bytes_max * 5 / 4 } else { 0 };
            assert!(split.backlog_bytes >= backlog_bytes_min, "{core_mib} MiB: {split:?}");
            let sum = split.store_bytes + split.buffer_bytes + split.backlog_bytes + CORE_FIXED_BYTES;
            assert_eq!(sum, core_mib << 20, "{split:?}");
        }
    }
}
