//! `quoit serve`: a node's life from its options to its end.
//!
//! ```text
//! options ─► log ─► start-up checks ─► admin address ─► cores ─► control thread ─► saved state ─► "ready"
//!         ─► signal ─► vnodes handed over, in a cluster ─► drain ─► state saved ─► end
//! ```
//! Exit codes: 0 after a graceful end, 1 when the node could not start or a core ended by itself, 2 for options that can't
//! be, 130 and 143 when a second SIGINT or SIGTERM cut the end short.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use super::cluster::{JoinError, Joining};
use super::{ClusterControl, Control, ControlOptions, StopReason, logs};
use crate::config::{Config, ConfigErrors, ServeFlags};
use crate::runtime::limits::CONNECTIONS_MAX_DEFAULT;
use crate::runtime::machine::{Machine, MachineError};
use crate::runtime::preflight::{self, DisplayCpus, Requirements, Shortcoming};
use crate::runtime::{Node, RuntimeOptions, StartError};
use crate::units::{DisplayBytes, DisplayRoughly};

/// Runs a node until it is told to stop. What goes wrong is said on standard error.
pub fn run(flags: &ServeFlags) -> ExitCode {
    match serve(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; then nobody wants to know.
            let _ = writeln!(io::stderr(), "quoit: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Why a node did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Options(#[from] ConfigErrors),
    #[error("this machine is not ready:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Shortcomings(Vec<Shortcoming>),
    #[error("the node can't join its cluster: {0}")]
    Join(#[from] JoinError),
    #[error("the node does not start: {0}")]
    Start(#[from] StartError),
    #[error("the control thread does not start: {0}")]
    Control(io::Error),
    #[error("core {core} ended by itself: {message}")]
    CoreEnded { core: u16, message: String },
}

impl ServeError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Options(_) => 2,
            _ => 1,
        }
    }
}

fn serve(flags: &ServeFlags) -> Result<(), ServeError> {
    let machine = Machine::read()?;
    let config = Config::load(flags, |name| std::env::var_os(name), &machine)?;
    // Only a second node in one process would find a log there already; there is none.
    let _ = logs::start(config.log, config.log_level.clone());

    let connections_max = check_machine(&config).map_err(ServeError::Shortcomings)?;
    let admin_listener = TcpListener::bind(config.admin).map_err(|source| {
        ServeError::Shortcomings(vec![preflight::listen_shortcoming("admin", config.admin, source)])
    })?;
    let joining = config.cluster.as_ref().map(|cluster| Joining::begin(cluster, config.vnode_bits)).transpose()?;
    let mut options = config.runtime_options(connections_max);
    if let Some(joining) = &joining {
        options.vnode_bits = joining.vnode_bits();
        options.node_id = Some(joining.node_id());
        options.cluster = Some(joining.place());
    }
    let mut node = Node::start(&options).map_err(|error| match error {
        StartError::Listen { address, source } => {
            ServeError::Shortcomings(vec![preflight::listen_shortcoming("listen", address, source)])
        }
        error => ServeError::Start(error),
    })?;
    let control_cpu = spare_cpu(&config.cpus, &machine);
    let control = Control::start(ControlOptions {
        listener: admin_listener,
        cores: node.handles().to_vec(),
        topology: Arc::clone(node.topology()),
        cluster: joining.map(|joining| ClusterControl {
            joining,
            address: node.topology().nodes[0].address.clone(),
            memory_bytes: options.memory_bytes as u64,
            events: node.events().clone(),
        }),
        cpu: control_cpu,
    });
    let control = match control {
        Ok(control) => control,
        Err(error) => {
            node.begin_shutdown();
            return Err(ServeError::Control(error));
        }
    };
    match node.restore(|| control.is_asked_to_stop()) {
        // A node of a cluster is ready when it has a place there.
        Ok(true) if options.cluster.is_some() && !control.wait_for_place() => {}
        Ok(true) => {
            control.begin_serving();
            announce(&node, &control, &options, control_cpu);
        }
        // The signal that said so is found below.
        Ok(false) => {}
        Err(error) => {
            node.begin_shutdown();
            control.stop();
            return Err(ServeError::Start(error));
        }
    }

    let reason = control.wait_for_stop();
    match reason {
        StopReason::Signal(signal) => {
            tracing::info!(%signal, "stopping: requests in flight are answered");
            control.leave_cluster();
        }
        StopReason::CoreEnded(core) => tracing::error!(core, "a core has ended by itself: stopping the others"),
    }
    node.begin_shutdown();
    let joined = node.join();
    control.stop();
    match (reason, joined) {
        (StopReason::Signal(_), Ok(())) => {
            tracing::info!("stopped");
            Ok(())
        }
        (StopReason::CoreEnded(core), joined) => {
            // The reason told is the failed core's own: one that failed while the others were stopped says its own number.
            let (core, message) = match joined {
                Err(failure) => (failure.core, failure.source.to_string()),
                Ok(()) => (core, "it gave no reason".to_owned()),
            };
            Err(ServeError::CoreEnded { core, message })
        }
        (StopReason::Signal(_), Err(failure)) => {
            // Everything that could be answered has been; that a core ended badly is still a failure.
            Err(ServeError::CoreEnded { core: failure.core, message: failure.source.to_string() })
        }
    }
}

/// Checks the machine and raises its limits; returns how many connections each core may keep.
fn check_machine(config: &Config) -> Result<usize, Vec<Shortcoming>> {
    let cores = config.cpus.len();
    let connections = preflight::check(&Requirements {
        cores,
        connections: config.connections_max.map(|per_core| (per_core * cores) as u64),
        connections_wanted: (CONNECTIONS_MAX_DEFAULT * cores) as u64,
    })?;
    Ok((connections as usize / cores).max(1))
}

/// A CPU that no core has, for the control thread.
fn spare_cpu(cpus: &[usize], machine: &Machine) -> Option<usize> {
    machine.cpus_allowed.iter().copied().rfind(|cpu| !cpus.contains(cpu))
}

/// Says that the node is ready: to people in the log, to scripts on standard output.
fn announce(node: &Node, control: &Control, options: &RuntimeOptions, control_cpu: Option<usize>) {
    let (address, admin) = (node.address(), control.address());
    let memory = node.memory();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, admin = %format_args!("http://{admin}"), "quoit serves");
    tracing::info!(
        cores = options.cpus.len(),
        cpus = %DisplayCpus(&options.cpus),
        control_cpu = control_cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string()),
        vnodes = 1usize << options.vnode_bits,
        connections_per_core = options.connections_max,
        idle = ?options.idle,
        "cores"
    );
    tracing::info!(
        total = %DisplayBytes(options.memory_bytes as u64),
        store_per_core = %DisplayRoughly(memory.store_bytes as u64),
        buffers_per_core = %DisplayRoughly(memory.buffer_bytes as u64),
        backlog_per_core = %DisplayRoughly(memory.backlog_bytes as u64),
        value_max = %DisplayRoughly(memory.value_bytes_max as u64),
        eviction = %options.policy,
        "memory"
    );
    if !is_address_for_others(options.advertise.as_deref(), address) {
        tracing::warn!(
            %address,
            "the topology names an address that no other machine can connect to: name one with --advertise HOST:PORT"
        );
    }
    tracing::info!("to try it: quoit set greeting hello --server {address}; quoit get greeting --server {address}");
    // Whoever started the node may have closed its output.
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "ready listen={address} admin={admin}").and_then(|()| output.flush());
}

/// Whether another machine could connect to the address that the topology names.
fn is_address_for_others(advertise: Option<&str>, address: SocketAddr) -> bool {
    advertise.is_some() || !address.ip().to_canonical().is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_on_all_addresses_is_told_to_advertise_one() {
        for listened in ["0.0.0.0:7400", "[::]:7400", "[::ffff:0.0.0.0]:7400"] {
            let listened = listened.parse().expect("an address");
            assert!(!is_address_for_others(None, listened));
            assert!(is_address_for_others(Some("cache-1:7400"), listened));
        }
        assert!(is_address_for_others(None, ([10, 1, 2, 3], 7400).into()));
    }

    #[test]
    fn the_control_thread_takes_a_cpu_that_no_core_has() {
        let machine = Machine { cpus_online: vec![0, 1, 2], cpus_allowed: vec![0, 1, 2], memory_bytes: 1 };
        assert_eq!(spare_cpu(&[0], &machine), Some(2));
        assert_eq!(spare_cpu(&[0, 2, 2], &machine), Some(1));
        assert_eq!(spare_cpu(&[0, 1, 2], &machine), None);
    }
}
