//! The real `quoit-loadgen` as a child process, and its report.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use serde_json::Value;

use crate::children;
use crate::watchdog::{self, Watch};

/// A generator that runs; ended with the test.
pub(crate) struct Generator {
    child: Option<Child>,
    command_line: String,
    json: PathBuf,
    _watch: Watch,
}

/// What a generator has found.
pub(crate) struct Report {
    /// Whether it said by its exit status that all was well.
    pub(crate) is_clean: bool,
    /// All it printed, and how it was called.
    pub(crate) text: String,
    json: Value,
}

impl Generator {
    /// Starts `quoit-loadgen COMMAND` against a server.
    pub(crate) fn start(command: &str, server: SocketAddr, arguments: &[&str]) -> Self {
        Self::start_as(command, &server.to_string(), arguments, |line| line)
    }

    /// Starts it against several servers, as the command that `wrap` makes of its own.
    pub(crate) fn start_as(
        command: &str,
        servers: &str,
        arguments: &[&str],
        wrap: impl FnOnce(Command) -> Command,
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let json = std::env::temp_dir().join(format!("quoit-e2e-{}-{number}.json", std::process::id()));
        let mut line = Command::new(binary());
        // The last CPU: a node on a machine with several has the first ones.
        let last = thread::available_parallelism().map_or(1, usize::from) - 1;
        line.args([command, "--server", servers, "--cores", &last.to_string(), "--json"]);
        line.arg(&json).args(arguments);
        let mut line = wrap(line);
        let command_line = format!("{line:?}");
        line.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = children::spawn(line);
        let watch = watchdog::watch("a generator of this test", watchdog::LIFE_MAX, String::new);
        Self { child: Some(child.expect("the generator starts")), command_line, json, _watch: watch }
    }

    /// Tells it that this is enough, and waits for its end.
    pub(crate) fn stop(self) -> Report {
        let child = self.child.as_ref().expect("it is waited for once");
        // SAFETY: no memory is passed; the process is this test's own child and has not been waited for.
        let sent = unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        assert_eq!(sent, 0, "the generator runs");
        self.finish()
    }

    /// Waits for its end, which comes by itself.
    pub(crate) fn finish(mut self) -> Report {
        let child = self.child.take().expect("it is waited for once");
        let output = child.wait_with_output().expect("it is a child");
        let text = [&output.stdout[..], b"\n", &output.stderr].concat();
        let text = format!("{}\n{}", self.command_line, String::from_utf8_lossy(&text));
        let json = std::fs::read(&self.json).unwrap_or_else(|error| panic!("no report ({error}):\n{text}"));
        let json = serde_json::from_slice(&json).unwrap_or_else(|error| panic!("no JSON ({error}):\n{text}"));
        Report { is_clean: output.status.success(), text, json }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The test has failed already; what matters is that nothing of it is left.
            let _ = child.kill();
            let _ = child.wait();
        }
        // Not there when the generator did not come so far.
        let _ = std::fs::remove_file(&self.json);
    }
}

impl Report {
    /// A number of the report, by its path: `requests`, `error_kinds/wrong`.
    pub(crate) fn number(&self, path: &str) -> u64 {
        self.at(path).as_u64().unwrap_or_else(|| panic!("{path} is no whole number in:\n{}", self.text))
    }

    /// A fraction of the report, by its path.
    pub(crate) fn fraction(&self, path: &str) -> f64 {
        self.at(path).as_f64().unwrap_or_else(|| panic!("{path} is no number in:\n{}", self.text))
    }

    fn at(&self, path: &str) -> &Value {
        self.json.pointer(&format!("/{path}")).unwrap_or_else(|| panic!("{path} is missing in:\n{}", self.text))
    }
}

/// The generator's binary. It belongs to another package, so cargo does not tell where it is: beside this test's folder.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    let binary = folder.join("quoit-loadgen");
    assert!(
        binary.exists(),
        "there is no {}: `cargo test --workspace` and `make test` build it; for this test alone run \
         `cargo test -p quoit -p quoit-loadgen --test e2e --test command_line`",
        binary.display()
    );
    binary
}
