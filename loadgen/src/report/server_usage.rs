//! How busy the server was, as the kernel of this machine counts it.
//!
//! By process: `/proc/<pid>/task/*/schedstat` has nanoseconds on the processor per thread. Threads that ran on the same core
//! add up: memcached pinned to one core fills it with several. By core: `/proc/stat`, in ticks, whoever ran there. A
//! process that listens on the port is found by itself; a server on another machine is not seen.
//!
//! A Quoit node that waits awake counts as running to the kernel. What its cores have spun for nothing it tells itself, and that
//! is taken off: a core that looked for work in vain had time to spare.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use quoit_wire::stats::CoreStats;

use crate::clock::now_ns;
use crate::cores::CoreList;
use crate::protocol::fetch_stats;

/// Where the server's use of the processor is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerProbe {
    /// Processes and their threads.
    Processes(Vec<ProcessProbe>),
    /// Cores, whatever runs there.
    Cores(CoreList),
}

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessProbe {
    /// Its number.
    pub(crate) pid: u32,
    /// Of a Quoit node: where it is asked how long its cores have spun.
    pub(crate) node: Option<SocketAddr>,
}

/// Counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsageSample {
    at_ns: u64,
    /// Per thread, or per core.
    busy: Vec<Busy>,
    user_ticks: u64,
    system_ticks: u64,
    resident_bytes: u64,
}

/// What one thread, or one core, has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Busy {
    /// The thread's number, or the core's.
    number: u64,
    /// The core it ran on last.
    core: u64,
    busy_ns: u64,
    /// Of these, awake for nothing, by its own account.
    spun_ns: u64,
}

/// What a server used between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ServerUsage {
    /// The busiest core at work, of 100.
    pub(crate) busiest_percent: f64,
    /// That core awake and without work, of 100.
    pub(crate) spinning_percent: f64,
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
/// What a Quoit node calls the time that a core was awake for nothing.
const SPUN_NAME: &str = "spinning_nanoseconds_total";

impl ServerProbe {
    /// The processes of this machine that listen on `addresses`, if we may see them all; whether they are Quoit nodes, to be asked
    /// as well.
    pub(crate) fn find(addresses: &[SocketAddr], are_nodes: bool) -> Option<Self> {
        let probe = |&address: &SocketAddr| {
            Some(ProcessProbe { pid: process_at(address)?, node: are_nodes.then_some(address) })
        };
        let mut processes: Vec<ProcessProbe> = addresses.iter().map(probe).collect::<Option<_>>()?;
        processes.sort_unstable_by_key(|process| process.pid);
        processes.dedup_by_key(|process| process.pid);
        Some(Self::Processes(processes))
    }

    /// Reads the counters.
    pub(crate) fn sample(&self) -> io::Result<UsageSample> {
        match self {
            Self::Processes(processes) => {
                let spun: Vec<BTreeMap<u64, u64>> = processes.iter().map(|process| spun_ns(process.node)).collect();
                let mut sum = UsageSample { at_ns: now_ns(), ..UsageSample::default() };
                processes
                    .iter()
                    .zip(&spun)
                    .try_for_each(|(process, spun)| sample_process(process.pid, spun, &mut sum))?;
                Ok(sum)
            }
            Self::Cores(cores) => sample_cores(cores),
        }
    }
}

/// The process of this machine that listens on `address`.
fn process_at(address: SocketAddr) -> Option<u32> {
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
        listens.then_some(pid)
    })
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
        // Of each core: at work, and awake for nothing.
        let mut of_cores: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for now in &later.busy {
            let known = self.busy.iter().find(|known| known.number == now.number);
            let (busy_before, spun_before) = known.map_or((0, 0), |known| (known.busy_ns, known.spun_ns));
            let used_ns = now.busy_ns.saturating_sub(busy_before);
            let spun_ns = now.spun_ns.saturating_sub(spun_before).min(used_ns);
            usage.cpu_s += used_ns as f64 / 1e9;
            let core = of_cores.entry(now.core).or_default();
            *core = (core.0 + used_ns - spun_ns, core.1 + spun_ns);
        }
        let (busiest_ns, spun_ns) = of_cores.into_values().max().unwrap_or((0, 0));
        // The two samples are not taken at one instant: a hundredth over full is full.
        let percent = |ns: u64| (ns as f64 / elapsed_ns as f64 * 100.0).min(100.0);
        usage.busiest_percent = percent(busiest_ns);
        usage.spinning_percent = percent(spun_ns);
        usage
    }
}

/// Resident memory of a process.
pub(crate) fn resident_bytes_of(pid: u32) -> io::Result<u64> {
    fs::read_to_string(format!("/proc/{pid}/status")).map(|status| resident_bytes(&status))
}

/// How long each core of a node has spun so far. One that does not tell is taken at the kernel's word.
fn spun_ns(node: Option<SocketAddr>) -> BTreeMap<u64, u64> {
    let stats = node.and_then(|node| fetch_stats(&mut TcpStream::connect(node).ok()?).ok());
    let value = |core: &CoreStats| core.values.iter().find(|(name, _)| name == SPUN_NAME).map(|(_, value)| *value);
    let of_cores = stats.iter().flat_map(|stats| &stats.cores);
    of_cores.filter_map(|core| Some((u64::from(core.core), value(core)?))).collect()
}

/// Adds what a process has used, of which its cores have `spun` for nothing.
fn sample_process(pid: u32, spun: &BTreeMap<u64, u64>, sum: &mut UsageSample) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let busy_ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
        let spun_ns = node_core(&stat).and_then(|core| spun.get(&core).copied()).unwrap_or(0);
        let core = last_core(&stat).unwrap_or(0);
        sum.busy.extend(busy_ns.map(|busy_ns| Busy { number: thread, core, busy_ns, spun_ns }));
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (user_ticks, system_ticks) = process_ticks(&stat).unwrap_or_default();
    sum.user_ticks += user_ticks;
    sum.system_ticks += system_ticks;
    sum.resident_bytes += fs::read_to_string(format!("/proc/{pid}/status")).map_or(0, |status| resident_bytes(&status));
    Ok(())
}

fn sample_cores(cores: &CoreList) -> io::Result<UsageSample> {
    let at_ns = now_ns();
    let stat = fs::read_to_string("/proc/stat")?;
    let busy = |&core: &usize| {
        let busy_ns = core_busy_ticks(&stat, core)? * NS_PER_TICK;
        Some(Busy { number: core as u64, core: core as u64, busy_ns, spun_ns: 0 })
    };
    let busy = cores.0.iter().filter_map(busy).collect();
    Ok(UsageSample { at_ns, busy, ..UsageSample::default() })
}

/// Fields 14 and 15 of `/proc/<pid>/stat`; the name before them may hold spaces and parentheses.
fn process_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Which of a Quoit node's cores the thread is, by its name in `/proc/<pid>/task/<thread>/stat`.
fn node_core(stat: &str) -> Option<u64> {
    let (_, name) = stat.rsplit_once(')')?.0.split_once('(')?;
    name.strip_prefix("quoit-core-")?.parse().ok()
}

/// Field 39 of `/proc/<pid>/task/<thread>/stat`: the core it ran on last.
fn last_core(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(36)?.parse().ok()
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
    fn usage_is_the_difference_and_the_busiest_core_is_named() {
        let busy = |number, core, busy_ns| Busy { number, core, busy_ns, spun_ns: 0 };
        let before = UsageSample {
            at_ns: 0,
            busy: vec![busy(1, 0, 100), busy(2, 0, 0), busy(3, 1, 0)],
            user_ticks: 10,
            ..UsageSample::default()
        };
        let after = UsageSample {
            at_ns: 1_000_000_000,
            busy: vec![busy(1, 0, 800_000_100), busy(2, 0, 160_000_000), busy(3, 1, 40_000_000), busy(4, 1, 0)],
            user_ticks: 30,
            ..UsageSample::default()
        };
        let usage = before.until(&after);
        assert!((usage.busiest_percent - 96.0).abs() < 1e-6 && (usage.cpu_s - 1.0).abs() < 1e-9, "{usage:?}");
        assert!((usage.user_s - 0.2).abs() < 1e-9);

        let (mut before, mut after) = (before, after);
        (before.busy[0].spun_ns, after.busy[0].spun_ns) = (500, 360_000_500);
        let usage = before.until(&after);
        assert!((usage.busiest_percent - 60.0).abs() < 1e-6, "what it spun is no work: {usage:?}");
        assert!((usage.spinning_percent - 36.0).abs() < 1e-6 && (usage.cpu_s - 1.0).abs() < 1e-9, "{usage:?}");
    }

    #[test]
    fn the_core_of_a_thread_is_read() {
        let here = fs::read_to_string("/proc/thread-self/stat").expect("our own thread");
        assert!(last_core(&here).is_some(), "{here}");
        let fields: Vec<String> = (3..=52).map(|field: u32| (field * 10).to_string()).collect();
        assert_eq!(last_core(&format!("42 (a (odd) name) {}", fields.join(" "))), Some(390));
        assert_eq!(node_core("42 (quoit-core-12) S 1"), Some(12));
        assert_eq!(node_core("42 (quoit-core-x) S 1"), None);
        assert_eq!(node_core("42 (a (odd) name) S 1"), None);
    }

    #[test]
    fn a_process_that_listens_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let found = ServerProbe::find(&[listener.local_addr().expect("bound")], false);
        assert_eq!(found, Some(ServerProbe::Processes(vec![ProcessProbe { pid: std::process::id(), node: None }])));
        let sample = found.expect("found").sample().expect("our own counters");
        assert!(!sample.busy.is_empty() && sample.resident_bytes > 0);
    }
}
