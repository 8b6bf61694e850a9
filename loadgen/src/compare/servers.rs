//! The servers under comparison: started on one core, frozen while another is measured, ended with the work.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::CompareError;
use crate::cli::ProtocolName;
use crate::clock::now_ns;
use crate::connect::connect_idle;
use crate::cores::{self, CoreList};
use crate::echo::open_files_limit;
use crate::report;

/// How long a server may take until it accepts a connection.
const START_NS_MAX: u64 = 20_000_000_000;
/// Between two tries to connect.
const TRY_INTERVAL: Duration = Duration::from_millis(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A server to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerSpec {
    /// Which program.
    pub(super) kind: ServerKind,
    /// Options beside address, core and what keeps it comparable.
    pub(super) options: Vec<String>,
    /// Options of `quoit-loadgen fill` that fill it; `None` leaves it empty.
    pub(super) fill: Option<String>,
    /// The cores it runs on.
    pub(super) cores: Cores,
    /// Connections that are opened when it has been filled, kept, and never used.
    pub(super) idle_connections: u32,
}

impl ServerSpec {
    /// A server on its core, empty.
    pub(super) fn new(kind: ServerKind, options: &str) -> Self {
        Self { kind, options: words(options), fill: None, cores: Cores::Own, idle_connections: 0 }
    }
}

/// The cores a server gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    /// The servers' core.
    Own,
    /// That and the generator's.
    Shared,
}

/// The programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ServerKind {
    /// The server of this repository
    Quoit,
    /// The echo of this program
    Echo,
    /// Debian's memcached
    Memcached,
    /// Debian's redis-server
    Redis,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The program is missing or can't run.
    #[error("can't start {program}: {error}; `make bench` installs what is missing")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        error: io::Error,
    },
    /// It ended, or accepts no connection.
    #[error("{program} did not accept a connection on {address}; started as: {command}")]
    NotReady {
        /// The program.
        program: String,
        /// Where it should listen.
        address: SocketAddr,
        /// How it was started.
        command: String,
    },
    /// No free port, or no process to ask.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Where the programs are, and the core they run on.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// The `quoit` under test.
    pub(super) quoit: PathBuf,
    /// The core all servers are pinned to.
    pub(super) core: usize,
    /// The core of the generator, which some servers share with it.
    pub(super) generator_core: usize,
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Which program it is.
    pub(super) kind: ServerKind,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// How it was started, for the table.
    pub(super) command: String,
    /// Kept open, and never used.
    idle: Vec<TcpStream>,
}

impl ServerKind {
    /// Its name in tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Quoit => "quoit",
            Self::Echo => "echo",
            Self::Memcached => "memcached",
            Self::Redis => "redis",
        }
    }

    /// The protocol the generator speaks with it.
    pub(super) const fn protocol(self) -> ProtocolName {
        match self {
            Self::Quoit => ProtocolName::Quoit,
            Self::Echo => ProtocolName::Echo,
            Self::Memcached => ProtocolName::Memcache,
            Self::Redis => ProtocolName::Resp,
        }
    }
}

impl Programs {
    fn program(&self, kind: ServerKind) -> io::Result<PathBuf> {
        Ok(match kind {
            ServerKind::Quoit => self.quoit.clone(),
            ServerKind::Echo => std::env::current_exe()?,
            ServerKind::Memcached => on_path("memcached"),
            ServerKind::Redis => on_path("redis-server"),
        })
    }

    /// Whether the program is there.
    pub(super) fn has(&self, kind: ServerKind) -> bool {
        self.program(kind).is_ok_and(|program| Command::new(program).arg("--version").output().is_ok())
    }

    /// What the program says of its version, in one line.
    pub(super) fn version(&self, kind: ServerKind) -> String {
        let output = self.program(kind).and_then(|program| Command::new(program).arg("--version").output());
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or("not installed").trim().to_owned()
    }

    /// Starts a server and waits until it accepts connections.
    pub(super) fn start(&self, spec: &ServerSpec) -> Result<Server, ServerError> {
        let program = self.program(spec.kind)?;
        let (port, admin_port) = (free_port()?, free_port()?);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let cores = match spec.cores {
            Cores::Own => CoreList(vec![self.core]),
            Cores::Shared => CoreList(vec![self.core, self.generator_core]),
        };
        let mut arguments: Vec<String> = match spec.kind {
            ServerKind::Quoit => {
                words(&format!("serve --listen {address} --admin 127.0.0.1:{admin_port} --cores {cores}"))
            }
            ServerKind::Echo => words(&format!("echo --listen {address} --cores {cores}")),
            ServerKind::Memcached => words(&format!("-l 127.0.0.1 -p {port} -U 0 -t 1 -c 16384")),
            ServerKind::Redis => words(&format!("--bind 127.0.0.1 --port {port} --appendonly no --save")),
        };
        match spec.kind {
            // redis: save never, an empty argument. memcached: refuses to run as root unless it is told to stay so.
            ServerKind::Redis => arguments.push(String::new()),
            ServerKind::Memcached if is_root() => arguments.extend(words("-u root")),
            _ => {}
        }
        arguments.extend(spec.options.iter().cloned());
        let command = format!("{} {}", spec.kind.name(), arguments.join(" "));
        let child = self
            .spawn_pinned(&program, &arguments, &cores)
            .map_err(|error| ServerError::Start { program: program.display().to_string(), error })?;
        let mut server = Server { child, kind: spec.kind, address, command, idle: Vec::new() };
        if server.accepts_connections() {
            return Ok(server);
        }
        Err(ServerError::NotReady { program: program.display().to_string(), address, command: server.command.clone() })
    }

    /// A child inherits the affinity of the thread that starts it.
    fn spawn_pinned(&self, program: &Path, arguments: &[String], cores: &CoreList) -> io::Result<Child> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = thread::scope(|scope| {
            scope
                .spawn(move || {
                    cores::pin_to_any_of(cores);
                    command.spawn()
                })
                .join()
        });
        spawned.unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
    }
}

impl Server {
    /// The process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory.
    pub(super) fn resident_bytes(&self) -> io::Result<u64> {
        report::resident_bytes_of(self.pid())
    }

    /// Opens connections that stay open with it; returns what they cost of its own memory, each.
    pub(super) fn hold_idle(&mut self, count: u32) -> Result<f64, CompareError> {
        open_files_limit();
        let before = self.resident_bytes()?;
        self.idle = connect_idle(&[self.address], self.kind.protocol(), count as usize)
            .map_err(|error| CompareError::Idle { server: self.command.clone(), error })?;
        Ok(self.resident_bytes()?.saturating_sub(before) as f64 / f64::from(count.max(1)))
    }

    /// Stops it from running until [`Self::thaw`]: what is not measured takes no time from what is.
    pub(super) fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it run again.
    pub(super) fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill takes no pointer; the child is ours and has not been waited for, so its number is still its own.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    #[expect(clippy::disallowed_methods, reason = "another program's port gives no signal when it opens")]
    fn accepts_connections(&mut self) -> bool {
        let end_ns = now_ns() + START_NS_MAX;
        while now_ns() < end_ns && matches!(self.child.try_wait(), Ok(None)) {
            if TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT).is_ok() {
                return true;
            }
            thread::sleep(TRY_INTERVAL);
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        // It holds nothing worth saving, and may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and can't fail.
    unsafe { libc::geteuid() == 0 }
}

/// Debian's daemons lie in directories that are not on everybody's path.
fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file()).unwrap_or_else(|| program.into())
}
