//! Floor 6: everything about a node that is not a request.
//!
//! One thread (tokio, current-thread) serves the admin HTTP and listens for signals. It reaches the cores by their
//! command channels only, never waits for one longer than a named time, and never touches a request.

mod admin;
pub mod cluster;
mod cores;
pub mod etcd;
mod handover;
pub mod json;
mod loads;
pub mod logs;
mod metrics;
mod operate;
mod process;
mod ring_log;
pub mod serve;
pub mod status;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use std::{fmt, io, thread};

use quoit_wire::topology::Topology;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::admin::{Admin, Operators};
use self::cluster::{ClusterTask, Joining};
use self::cores::Cores;
use self::handover::Handover;
use self::operate::QUESTIONS_MAX;
use self::ring_log::RingCounters;
use crate::runtime::{CoreEvent, CoreHandle, boot_time};

/// Time between two looks whether every core still lives. A core that has failed is noticed after at most this.
const CORE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two looks whether a node that waits for its place in its cluster is to stop.
const JOIN_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// What the control thread is given.
#[derive(Debug)]
pub struct ControlOptions {
    /// Bound and listening, so that a bad address is known before the node starts.
    pub listener: TcpListener,
    /// How the cores are reached.
    pub cores: Vec<CoreHandle>,
    /// What `/topology` shows, until there is a newer one.
    pub topology: Arc<Topology>,
    /// The cluster that the node is to join, if it is to.
    pub cluster: Option<ClusterControl>,
    /// The CPU to stay on; `None` where the cores leave none free, and the kernel places the thread as it likes.
    pub cpu: Option<usize>,
}

/// What the control thread needs to keep the node in its cluster.
#[derive(Debug)]
pub struct ClusterControl {
    /// Which cluster, and who in it.
    pub joining: Joining,
    /// Where clients and other nodes reach the node.
    pub address: String,
    /// `--memory`.
    pub memory_bytes: u64,
    /// What the cores tell by themselves.
    pub events: flume::Receiver<CoreEvent>,
}

/// The control thread, as the rest of the process sees it.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    phase: Arc<SharedPhase>,
    cores: Vec<CoreHandle>,
    stop_requests: flume::Receiver<StopSignal>,
    /// Says when the node has its place in its cluster.
    joined: flume::Receiver<()>,
    /// Says that the node is to leave its cluster, and when it has.
    leave: watch::Sender<bool>,
    /// How far that is.
    handover: flume::Receiver<Handover>,
    /// Of a node of a cluster.
    drain_timeout: Option<Duration>,
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Serving.
    Serving = 0,
    /// Told to stop; requests in flight are still answered.
    Stopping = 1,
    /// Not yet serving: a saved state may still be loaded.
    Starting = 2,
}

/// The phase, told by the main thread to the control thread.
#[derive(Debug)]
struct SharedPhase(AtomicU8);

/// Why a node is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody asked for it.
    Signal(StopSignal),
    /// A core takes no commands any more: it has failed, and its part of the keys is gone.
    CoreEnded(u16),
}

/// A signal that asks the node to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// `SIGINT`, as Ctrl-C sends it.
    Interrupt,
    /// `SIGTERM`.
    Terminate,
}

impl Control {
    /// Starts the control thread; when this returns, signals no longer end the process by themselves.
    pub fn start(options: ControlOptions) -> io::Result<Self> {
        let address = options.listener.local_addr()?;
        options.listener.set_nonblocking(true)?;
        let phase = Arc::new(SharedPhase(AtomicU8::new(Phase::Starting as u8)));
        let (stop, stopped) = watch::channel(false);
        let (stop_request_sender, stop_requests) = flume::bounded(1);
        let (started_sender, started) = flume::bounded(1);
        let (joined_sender, joined) = flume::bounded(1);
        let (leave, leaving) = watch::channel(false);
        let (handover_sender, handover) = flume::bounded(1);
        let drain_timeout = options.cluster.as_ref().map(|cluster| cluster.joining.drain_timeout());

        let thread_phase = Arc::clone(&phase);
        let cores = options.cores.clone();
        let thread = thread::Builder::new().name("quoit-control".to_owned()).spawn(move || {
            if let Some(cpu) = options.cpu {
                core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
            }
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started_sender.send(Err(error))),
            };
            runtime.block_on(async {
                let prepared = async { Ok((Signals::listen()?, tokio::net::TcpListener::from_std(options.listener)?)) };
                let (signals, listener) = match prepared.await {
                    Ok(prepared) => prepared,
                    Err(error) => return drop(started_sender.send(Err(error))),
                };
                let (topology, shown_topology) = watch::channel(options.topology);
                let (ask, questions) = flume::bounded(QUESTIONS_MAX);
                let counters = Arc::new(RingCounters::default());
                let operators = options.cluster.as_ref().map(|it| Operators::new(&it.joining, ask, counters.clone()));
                let cluster = options.cluster.map(|cluster| ClusterTask {
                    joining: cluster.joining,
                    address: cluster.address,
                    memory_bytes: cluster.memory_bytes,
                    cores: options.cores.clone(),
                    events: cluster.events,
                    topology,
                    questions,
                    counters,
                    joined: joined_sender,
                    leaving,
                    handover: handover_sender,
                });
                let admin = Arc::new(Admin::new(Cores::new(options.cores), shown_topology, thread_phase, operators));
                // The receiver waits below until this is sent.
                drop(started_sender.send(Ok(())));
                let stopped_cluster = stopped.clone();
                let keep_in_cluster = async {
                    if let Some(cluster) = cluster {
                        cluster::run(cluster, stopped_cluster).await;
                    }
                };
                tokio::join!(
                    keep_in_cluster,
                    admin::serve(listener, admin, stopped.clone()),
                    signals.watch(stop_request_sender, stopped)
                );
            });
        })?;
        match started.recv() {
            Ok(result) => result?,
            Err(flume::RecvError::Disconnected) => {
                return Err(io::Error::other("the control thread ended at its start"));
            }
        }
        Ok(Self { address, phase, cores, stop_requests, joined, leave, handover, drain_timeout, stop, thread })
    }

    /// Where the admin HTTP listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether somebody has asked the node to stop; [`Self::wait_for_stop`] tells who.
    pub fn is_asked_to_stop(&self) -> bool {
        !self.stop_requests.is_empty()
    }

    /// Waits until the node has its place in its cluster; false when it was asked to stop, or a core ended, before.
    pub fn wait_for_place(&self) -> bool {
        loop {
            match self.joined.recv_timeout(JOIN_CHECK_INTERVAL) {
                Ok(()) => return true,
                Err(flume::RecvTimeoutError::Disconnected) => return false,
                Err(flume::RecvTimeoutError::Timeout) => {}
            }
            if self.is_asked_to_stop() || self.cores.iter().any(|core| core.commands.is_disconnected()) {
                return false;
            }
        }
    }

    /// The node takes requests now: `/readyz` says so.
    pub fn begin_serving(&self) {
        self.phase.set(Phase::Serving);
    }

    /// Waits for a reason to stop. From then on `/readyz` says no, and a further signal ends the process at once.
    pub fn wait_for_stop(&self) -> StopReason {
        let reason = loop {
            match self.stop_requests.recv_timeout(CORE_CHECK_INTERVAL) {
                Ok(signal) => break StopReason::Signal(signal),
                // The control thread has ended, which it does not by itself; without it nobody could stop the node.
                Err(flume::RecvTimeoutError::Disconnected) => break StopReason::Signal(StopSignal::Terminate),
                Err(flume::RecvTimeoutError::Timeout) => {}
            }
            if let Some(ended) = self.cores.iter().find(|core| core.commands.is_disconnected()) {
                break StopReason::CoreEnded(ended.core);
            }
        };
        self.phase.set(Phase::Stopping);
        reason
    }

    /// Hands over what the node has to others of its cluster, as far as that goes within `--drain-timeout`.
    pub fn leave_cluster(&self) {
        let Some(timeout) = self.drain_timeout else { return };
        self.leave.send_replace(true);
        let began = boot_time();
        let passed = || Duration::from_millis(boot_time().since(began).as_millis());
        handover::wait(&self.handover, timeout, passed);
    }

    /// Ends the control thread: the last thing a node does.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the control thread had panicked");
        }
    }
}

impl SharedPhase {
    fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    fn get(&self) -> Phase {
        const PHASES: [Phase; 3] = [Phase::Serving, Phase::Stopping, Phase::Starting];
        let phase = self.0.load(Ordering::Acquire);
        PHASES.into_iter().find(|known| *known as u8 == phase).unwrap_or(Phase::Stopping)
    }
}

/// The signals that stop a node.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Passes the first signal on, and ends the process at the second.
    async fn watch(mut self, stop_requests: flume::Sender<StopSignal>, mut stopped: watch::Receiver<bool>) {
        let mut asked_before = false;
        loop {
            let signal = tokio::select! {
                _ = self.interrupt.recv() => StopSignal::Interrupt,
                _ = self.terminate.recv() => StopSignal::Terminate,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            if asked_before {
                tracing::warn!(%signal, "asked to stop a second time: ending at once, requests in flight are not answered");
                std::process::exit(signal.exit_code());
            }
            asked_before = true;
            // Nobody waits any more only when the process is already on its way out.
            let _ = stop_requests.try_send(signal);
        }
    }
}

impl StopSignal {
    /// What a shell sees of a process that this signal ended.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 128 + 2,
            Self::Terminate => 128 + 15,
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

#[cfg(test)]
mod tests {
    use quoit_wire::topology::Node;

    use super::*;

    #[test]
    fn a_core_that_takes_no_commands_any_more_is_a_reason_to_stop() {
        let (commands, inbox) = flume::bounded(1);
        drop(inbox);
        let (address, zone) = ("127.0.0.1:7400".to_owned(), String::new());
        let node = Node { id: 1, incarnation: 1, name: String::new(), address, zone, cores: 1, weight: 1 };
        let control = Control::start(ControlOptions {
            listener: TcpListener::bind("127.0.0.1:0").expect("a free port"),
            cores: vec![CoreHandle { core: 3, cpu: 0, commands }],
            topology: Arc::new(Topology::standalone(node, 0, 1, 1)),
            cluster: None,
            cpu: None,
        });
        let control = control.expect("the control thread starts");
        assert_eq!(control.wait_for_stop(), StopReason::CoreEnded(3));
        assert_eq!(control.phase.get(), Phase::Stopping);
        control.stop();
    }
}
