//! How busy the server was, as the kernel of this machine counts it.
//!
//! By process: `/proc/<pid>/task/*/schedstat` has nanoseconds on the processor per thread, so the busiest thread of a
//! thread-per-core server is its core. By core: `/proc/stat`, in ticks, whoever ran there. A process that listens on the
//! port is found by itself; a server on another machine is not seen.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::clock::now_ns;
use crate::cores::CoreList;

/// Where the server's use of the processor is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerProbe {
    /// A process and its threads.
    Process(u32),
    /// Cores, whatever runs there.
    Cores(CoreList),
}

/// Counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsageSample {
    at_ns: u64,
    /// Per thread or per core: its number, and busy time in nanoseconds.
    busy: Vec<(u64, u64)>,
    user_ticks: u64,
    system_ticks: u64,
    resident_bytes: u64,
}

/// What a server used between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ServerUsage {
    /// The busiest thread or core, of 100.
    pub(crate) busiest_percent: f64,
    /// Processor seconds over all threads or cores.
    pub(crate) cpu_s: f64,
    /// Of a process: seconds in user mode.
    pub(crate) user_s: f64,
    /// Of a process: seconds in the kernel.
    pub(crate) system_s: f64,
    /// Of a process: resident memory at the end.
    pub(crate) resident_bytes: u64,
}

/// Ticks per second of `/proc` (USER_HZ, fixed by Linux's ABI on every architecture we run on).
const TICKS_PER_SEC: f64 = 100.0;
const NS_PER_TICK: u64 = 10_000_000;

impl ServerProbe {
    /// The process of this machine that listens on `address`, if we may see it.
    pub(crate) fn find(address: SocketAddr) -> Option<Self> {
        let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .flat_map(|table| listening_inodes(&table, address.port()))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let descriptors = fs::read_dir(entry.path().join("fd")).ok()?;
            let listens = descriptors.flatten().any(|descriptor| {
                let target = fs::read_link(descriptor.path()).unwrap_or_default();
                inodes.iter().any(|inode| Path::new(inode) == target)
            });
            listens.then_some(Self::Process(pid))
        })
    }

    /// Reads the counters.
    pub(crate) fn sample(&self) -> io::Result<UsageSample> {
        match self {
            Self::Process(pid) => sample_process(*pid),
            Self::Cores(cores) => sample_cores(cores),
        }
    }
}

impl UsageSample {
    /// Nanoseconds from `self` to `later`.
    pub(crate) const fn ns_until(&self, later: &Self) -> u64 {
        later.at_ns.saturating_sub(self.at_ns)
    }

    /// What was used from `self` to `later`.
    pub(crate) fn until(&self, later: &Self) -> ServerUsage {
        let elapsed_ns = self.ns_until(later).max(1);
        let mut usage = ServerUsage {
            user_s: later.user_ticks.saturating_sub(self.user_ticks) as f64 / TICKS_PER_SEC,
            system_s: later.system_ticks.saturating_sub(self.system_ticks) as f64 / TICKS_PER_SEC,
            resident_bytes: later.resident_bytes,
            ..ServerUsage::default()
        };
        for &(number, busy_ns) in &later.busy {
            let before = self.busy.iter().find(|(known, _)| *known == number).map_or(0, |(_, busy_ns)| *busy_ns);
            let used_ns = busy_ns.saturating_sub(before);
            usage.cpu_s += used_ns as f64 / 1e9;
            // The two samples are not taken at one instant: a hundredth over full is full.
            let percent = (used_ns as f64 / elapsed_ns as f64 * 100.0).min(100.0);
            usage.busiest_percent = usage.busiest_percent.max(percent);
        }
        usage
    }
}

fn sample_process(pid: u32) -> io::Result<UsageSample> {
    let at_ns = now_ns();
    let mut busy = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        busy.extend(text.split_whitespace().next().and_then(|ns| ns.parse().ok()).map(|ns: u64| (thread, ns)));
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (user_ticks, system_ticks) = process_ticks(&stat).unwrap_or_default();
    let resident_bytes = fs::read_to_string(format!("/proc/{pid}/status")).map_or(0, |status| resident_bytes(&status));
    Ok(UsageSample { at_ns, busy, user_ticks, system_ticks, resident_bytes })
}

fn sample_cores(cores: &CoreList) -> io::Result<UsageSample> {
    let at_ns = now_ns();
    let stat = fs::read_to_string("/proc/stat")?;
    let busy =
        cores.0.iter().filter_map(|&core| Some((core as u64, core_busy_ticks(&stat, core)? * NS_PER_TICK))).collect();
    Ok(UsageSample { at_ns, busy, ..UsageSample::default() })
}

/// Fields 14 and 15 of `/proc/<pid>/stat`; the name before them may hold spaces and parentheses.
fn process_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn resident_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// All but idle and waiting for disks: fields user, nice, system, irq, softirq, steal.
fn core_busy_ticks(stat: &str, core: usize) -> Option<u64> {
    let name = format!("cpu{core}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    Some(ticks.iter().enumerate().filter(|(field, _)| [0, 1, 2, 5, 6, 7].contains(field)).map(|(_, ticks)| ticks).sum())
}

/// Inodes of the sockets that listen on `port`, out of a table like `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local_port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
            (local_port == port && *fields.get(3)? == LISTEN).then(|| fields.get(9)?.parse().ok()).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        let stat = "cpu  9 9 9 9\ncpu0 1 2 3 400 500 6 7 8 9 10\ncpu1 10 0 0 0 0 0 0 0 0 0\ncpu10 99 0 0\n";
        assert_eq!(core_busy_ticks(stat, 0), Some(1 + 2 + 3 + 6 + 7 + 8));
        assert_eq!(core_busy_ticks(stat, 1), Some(10));
        assert_eq!(core_busy_ticks(stat, 7), None);
        let process = "42 (a (odd) name) S 1 2 3 4 5 6 7 8 9 10 700 80 1 1";
        assert_eq!(process_ticks(process), Some((700, 80)));
        assert_eq!(resident_bytes("VmPeak: 9 kB\nVmRSS:\t  2048 kB\n"), 2 << 20);
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                   0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0\n   \
                   1: 0100007F:1CE8 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 777 1 0\n";
        assert_eq!(listening_inodes(tcp, 7400), vec![12345]);
    }

    #[test]
    fn usage_is_the_difference_and_the_busiest_is_named() {
        let before = UsageSample { at_ns: 0, busy: vec![(1, 100), (2, 0)], user_ticks: 10, ..UsageSample::default() };
        let after = UsageSample {
            at_ns: 1_000_000_000,
            busy: vec![(1, 960_000_100), (2, 40_000_000), (3, 0)],
            user_ticks: 30,
            ..UsageSample::default()
        };
        let usage = before.until(&after);
        assert!((usage.busiest_percent - 96.0).abs() < 1e-6 && (usage.cpu_s - 1.0).abs() < 1e-9, "{usage:?}");
        assert!((usage.user_s - 0.2).abs() < 1e-9);
    }

    #[test]
    fn a_process_that_listens_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let found = ServerProbe::find(listener.local_addr().expect("bound"));
        assert_eq!(found, Some(ServerProbe::Process(std::process::id())));
        let sample = found.expect("found").sample().expect("our own counters");
        assert!(!sample.busy.is_empty() && sample.resident_bytes > 0);
    }
}
