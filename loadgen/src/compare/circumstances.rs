//! Where and with what a comparison ran: without it a figure says nothing.

use std::fs;

use super::servers::{Programs, ServerKind};
use super::tell;

/// Above it the machine is not ours alone.
const LOAD_AVERAGE_MAX: f64 = 0.5;

/// The machine, the programs, and the command that measures again.
#[derive(Clone, Debug, Default)]
pub(super) struct Circumstances {
    command: String,
    processor: String,
    kernel: String,
    congestion_control: String,
    load_average: String,
    versions: Vec<String>,
}

impl Circumstances {
    /// As they are now.
    pub(super) fn now(programs: &Programs) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let processors = read("/proc/cpuinfo");
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let count = processors.lines().filter(|line| line.starts_with("processor")).count();
        let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let kinds = [ServerKind::Quoit, ServerKind::Memcached, ServerKind::Redis];
        Self {
            command: format!("quoit-loadgen {arguments}"),
            processor: format!("{count} × {}", model.trim_start_matches([' ', '\t', ':'])),
            kernel: read("/proc/sys/kernel/osrelease"),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            load_average: read("/proc/loadavg").split_whitespace().next().unwrap_or("unknown").to_owned(),
            versions: kinds.into_iter().map(|kind| programs.version(kind)).collect(),
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
        let Self { command, processor, kernel, congestion_control, load_average, versions } = self;
        format!(
            "Command: `{command}`  \nMachine: {processor}; Linux {kernel}, TCP congestion control {congestion_control}; load \
             average before: {load_average}  \nVersions: {}\n",
            versions.join(" · ")
        )
    }
}
