//! Where and with what a comparison ran: without it a figure says nothing.

use std::path::Path;
use std::process::Command;
use std::time::UNIX_EPOCH;
use std::{env, fs};

use super::servers::{Programs, ServerKind};
use super::tell;

/// Above it the machine is not ours alone.
const LOAD_AVERAGE_MAX: f64 = 0.5;

/// What the programs are built from, from the top of the tree.
const SOURCES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "src", "protocol", "loadgen"];

/// The machine, the programs, and the command that measures again.
#[derive(Clone, Debug, Default)]
pub(super) struct Circumstances {
    command: String,
    processor: String,
    kernel: String,
    congestion_control: String,
    load_average: String,
    versions: Vec<String>,
    tree: String,
}

impl Circumstances {
    /// As they are now.
    pub(super) fn now(programs: &Programs) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let processors = read("/proc/cpuinfo");
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let count = processors.lines().filter(|line| line.starts_with("processor")).count();
        let arguments = env::args().skip(1).collect::<Vec<_>>().join(" ");
        let kinds = [ServerKind::Quoit, ServerKind::Memcached, ServerKind::Redis];
        Self {
            command: format!("quoit-loadgen {arguments}"),
            processor: format!("{count} × {}", model.trim_start_matches([' ', '\t', ':'])),
            kernel: read("/proc/sys/kernel/osrelease"),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            load_average: read("/proc/loadavg").split_whitespace().next().unwrap_or("unknown").to_owned(),
            versions: kinds.into_iter().map(|kind| programs.version(kind)).collect(),
            tree: tree(&programs.quoit).unwrap_or_else(|| "none here".to_owned()),
        }
    }

    /// Tells when the machine is not ours alone: latencies and rates will say little then.
    pub(super) fn warn_of_load(&self) {
        if self.load_average.parse::<f64>().is_ok_and(|load| load > LOAD_AVERAGE_MAX) {
            let load = &self.load_average;
            tell(&format!("The load average is {load}: other programs use these cores, and speeds will say little."));
        }
    }

    /// The lines that stand above the figures.
    pub(super) fn to_text(&self) -> String {
        let Self { command, processor, kernel, congestion_control, load_average, versions, tree } = self;
        format!(
            "Command: `{command}`  \nMachine: {processor}; Linux {kernel}, TCP congestion control {congestion_control}; load \
             average before: {load_average}  \nVersions: {}  \nTree: {tree}\n",
            versions.join(" · ")
        )
    }
}

/// The commit of the tree that `program` lies in, as it does after `cargo build`, and how far its sources, and the program itself,
/// are from that commit.
fn tree(program: &Path) -> Option<String> {
    let top = git(program.parent()?, &["rev-parse", "--show-toplevel"])?;
    let ask = |arguments: &[&str]| git(Path::new(&top), arguments);
    let mut tree = format!("commit {}", ask(&["rev-parse", "--short", "HEAD"])?);
    if !ask(&[&["status", "--porcelain", "--"][..], &SOURCES].concat())?.is_empty() {
        tree += ", with changes since";
    }
    let built_at = fs::metadata(program).ok()?.modified().ok()?;
    let committed_at = ask(&[&["log", "-1", "--format=%ct", "--"][..], &SOURCES].concat())?;
    let committed_secs: u64 = committed_at.parse().ok()?;
    if built_at.duration_since(UNIX_EPOCH).ok()?.as_secs() < committed_secs {
        tree += ", the program built before its sources were committed";
    }
    Some(tree)
}

/// What git says to `arguments` in a folder.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
