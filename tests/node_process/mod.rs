//! The real `quoit` binary as a child process: started on free ports, asked over its admin HTTP, ended with the test.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::children;
use crate::watchdog::{self, Watch, within};

/// Longest silence of an admin HTTP before it counts as one that does not answer.
const ADMIN_TIME_MAX: Duration = Duration::from_secs(30);

/// The binary, without any option of the environment this test runs in.
pub(crate) fn quoit(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quoit"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUOIT_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A node in a process of its own, ended with the test.
pub(crate) struct NodeProcess {
    child: Child,
    log: Box<dyn BufRead + Send>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    _watch: Watch,
}

impl NodeProcess {
    /// Starts a node of 128 MiB on free ports and waits until it says that it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", &[&["--memory", "128MiB"], arguments].concat())
    }

    /// Starts a node that listens on `listen`, with its admin HTTP on a free port, and waits until it is ready.
    pub(crate) fn start_on(listen: &str, arguments: &[&str]) -> Self {
        let mut command = quoit(&["serve", "--listen", listen, "--admin", "127.0.0.1:0"]);
        command.args(arguments);
        Self::start_as(command)
    }

    /// Starts the node that `command` is, and waits until it is ready.
    pub(crate) fn start_as(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = children::spawn(command).expect("the binary runs");
        let log = Box::new(BufReader::new(child.stderr.take().expect("it is piped")));
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut ready = String::new();
        within("a node is ready", || output.read_line(&mut ready)).expect("text");
        let watch = watchdog::watch("a node of this test", watchdog::LIFE_MAX, String::new);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self { child, log, address: nowhere, admin: nowhere, _watch: watch };
        let Some((address, admin)) = ready_line(&ready) else {
            panic!("the node is not ready: {ready:?}, log: {}", node.wait().1);
        };
        (node.address, node.admin) = (address, admin);
        node
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: libc::c_int) {
        // SAFETY: no memory is passed; the process is this test's own child and has not been waited for.
        let sent = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(sent, 0, "the node lives");
    }

    /// Takes the log as it is written from here on, so that a node which says much never waits for a reader.
    pub(crate) fn drain_log(&mut self) -> Arc<Mutex<String>> {
        let drained = Arc::new(Mutex::new(String::new()));
        let (mut log, into) = (std::mem::replace(&mut self.log, Box::new(io::empty())), Arc::clone(&drained));
        thread::spawn(move || {
            let mut line = String::new();
            while log.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
                line.clear();
            }
        });
        drained
    }

    /// Waits for a line of the log that holds `text`; the line.
    pub(crate) fn await_log(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let bytes = within("the next line of a node's log", || self.log.read_line(&mut line)).expect("text");
            assert_ne!(bytes, 0, "the log ends without \"{text}\"");
        }
        line
    }

    /// Waits for the node's end; exit code, and the rest of the log.
    pub(crate) fn wait(&mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        within("a node ends", || {
            self.log.read_to_string(&mut log).expect("text");
            (self.child.wait().expect("it is a child").code(), log)
        })
    }

    /// Tells the node to end, and asserts that it ends well.
    pub(crate) fn stop(mut self) {
        self.signal(libc::SIGTERM);
        let (code, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
    }

    /// Asks the admin HTTP; the whole answer.
    pub(crate) fn http_get(&self, path: &str) -> String {
        http(self.admin, "GET", path).expect("the admin HTTP answers")
    }

    /// The sum of a metric over all its cores and labels. Fails the test when there is no such metric.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let metrics = self.http_get("/metrics");
        metric_of(&metrics, name).unwrap_or_else(|| panic!("{name} is missing in\n{metrics}"))
    }

    /// The most memory the process has had resident since its start: the kernel's `VmHWM`, which misses no moment.
    pub(crate) fn resident_bytes_peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the node lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
        let kibibytes: u64 = line.trim().strip_suffix(" kB").expect("kibibytes").parse().expect("a number");
        kibibytes * 1024
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // It has mostly ended by now; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `ready listen=… admin=…`.
fn ready_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (listen, admin) = line.trim_end().strip_prefix("ready listen=")?.split_once(" admin=")?;
    Some((listen.parse().ok()?, admin.parse().ok()?))
}

/// Asks an admin HTTP; the whole answer.
pub(crate) fn http(admin: SocketAddr, method: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, ADMIN_TIME_MAX)?;
    stream.set_read_timeout(Some(ADMIN_TIME_MAX))?;
    stream.set_write_timeout(Some(ADMIN_TIME_MAX))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: quoit\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of a metric over all its cores and labels, in what `/metrics` says; nothing where no core has answered in time.
pub(crate) fn metric_of(metrics: &str, name: &str) -> Option<u64> {
    let value_of = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let value = rest.strip_prefix(' ').or_else(|| rest.strip_prefix('{')?.split_once("} ").map(|it| it.1))?;
        value.parse::<f64>().ok()
    };
    let values: Vec<f64> = metrics.lines().filter_map(value_of).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}
