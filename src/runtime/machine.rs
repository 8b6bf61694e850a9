//! What this machine is: its CPUs, its memory, and the limits this process runs under.
//!
//! Parsing is pure; the readers around it are thin. Nothing here judges: that is `preflight.rs`.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// CPUs a list may name; more than any machine has, and few enough that `0-4294967295` is refused at once.
const CPU_LIST_MAX: usize = 4096;

/// The parts of a machine that a node is given shares of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that are there.
    pub cpus_online: Vec<usize>,
    /// CPUs this process may run on, in order.
    pub cpus_allowed: Vec<usize>,
    /// Memory this process may use: the machine's, or less if its cgroup says so.
    pub memory_bytes: u64,
}

/// Why the machine could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The scheduler did not say where this process may run.
    #[error("can't tell which CPUs this process may run on")]
    Affinity,
    /// A file of the kernel's is missing or unreadable.
    #[error("can't read {path}: {source}; is /proc mounted?")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of the kernel's does not say what it should.
    #[error("{path} does not say how much memory there is")]
    Memory {
        /// The file.
        path: PathBuf,
    },
}

impl Machine {
    /// Looks at the machine. The calling thread must not have been pinned yet.
    pub fn read() -> Result<Self, MachineError> {
        let mut cpus_allowed: Vec<usize> =
            core_affinity::get_core_ids().ok_or(MachineError::Affinity)?.into_iter().map(|core| core.id).collect();
        cpus_allowed.sort_unstable();
        let cpus_online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
        let cpus_online = cpus_online.and_then(|list| parse_cpus(list.trim()).ok());

        let meminfo_path = Path::new("/proc/meminfo");
        let meminfo = fs::read_to_string(meminfo_path)
            .map_err(|source| MachineError::Read { path: meminfo_path.to_owned(), source })?;
        let total_bytes =
            memory_total_bytes(&meminfo).ok_or_else(|| MachineError::Memory { path: meminfo_path.to_owned() })?;
        Ok(Self {
            cpus_online: cpus_online.unwrap_or_else(|| cpus_allowed.clone()),
            cpus_allowed,
            memory_bytes: total_bytes.min(cgroup_limit_bytes().unwrap_or(u64::MAX)),
        })
    }
}

/// Why a text is no list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    /// A part is no number and no range.
    #[error("\"{0}\" is neither a CPU's number nor a range of them")]
    Part(String),
    /// A range that ends before it begins.
    #[error("the range \"{0}\" ends before it begins")]
    Backwards(String),
    /// More CPUs than any machine has.
    #[error("the list names more than {CPU_LIST_MAX} CPUs")]
    TooMany,
}

/// Reads a list of CPUs: numbers and ranges with commas between them, in the order given, repeats kept (`0-1,0`).
pub fn parse_cpus(list: &str) -> Result<Vec<usize>, CpuListError> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<usize>().ok().filter(|_| digits).ok_or_else(|| CpuListError::Part(part.to_owned()))
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(CpuListError::Backwards(part.to_owned()));
        }
        if last - first >= CPU_LIST_MAX - cpus.len() {
            return Err(CpuListError::TooMany);
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// Something the kernel limits per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `RLIMIT_MEMLOCK`, in bytes.
    LockedMemory,
    /// `RLIMIT_NOFILE`.
    OpenFiles,
}

impl Resource {
    /// What is limited, in words.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::LockedMemory => "locked memory in bytes (ulimit -l)",
            Self::OpenFiles => "open files (ulimit -n)",
        }
    }

    const fn code(self) -> libc::__rlimit_resource_t {
        match self {
            Self::LockedMemory => libc::RLIMIT_MEMLOCK,
            Self::OpenFiles => libc::RLIMIT_NOFILE,
        }
    }
}

/// A resource limit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is in force.
    pub soft: u64,
    /// How far the process may raise it by itself.
    pub hard: u64,
}

impl Limit {
    /// The limit in force.
    pub fn read(resource: Resource) -> io::Result<Self> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid rlimit for the call to fill.
        match unsafe { libc::getrlimit(resource.code(), &raw mut limit) } {
            0 => Ok(Self { soft: limit.rlim_cur, hard: limit.rlim_max }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Puts the limit in force.
    pub fn set(self, resource: Resource) -> io::Result<()> {
        let limit = libc::rlimit { rlim_cur: self.soft, rlim_max: self.hard };
        // SAFETY: `limit` is a valid rlimit that the call only reads.
        match unsafe { libc::setrlimit(resource.code(), &raw const limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// `MemTotal` of `/proc/meminfo`.
fn memory_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The least `memory.max` of this process's cgroup (version 2) and those above it; `None` when nothing limits it.
fn cgroup_limit_bytes() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = cgroup_path(&membership)?;
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join(group.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    let limits = groups.filter_map(|group| fs::read_to_string(group.join("memory.max")).ok());
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

/// The version 2 cgroup in `/proc/self/cgroup`.
fn cgroup_path(membership: &str) -> Option<&str> {
    membership.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_lists_keep_their_order_and_repeats() {
        for (list, cpus) in [
            ("0", vec![0]),
            ("0-1", vec![0, 1]),
            ("0,0,1,1", vec![0, 0, 1, 1]),
            ("8,0-2", vec![8, 0, 1, 2]),
            ("3-3", vec![3]),
        ] {
            assert_eq!(parse_cpus(list), Ok(cpus), "{list}");
        }
    }

    #[test]
    fn what_is_no_cpu_list_is_refused() {
        for list in ["", ",", "0,", "a", "-1", "0-", "0--1", "0 1", "1.5", "+1", "0-1-2"] {
            assert!(matches!(parse_cpus(list), Err(CpuListError::Part(_))), "{list}");
        }
        assert_eq!(parse_cpus("3-1"), Err(CpuListError::Backwards("3-1".to_owned())));
        assert_eq!(parse_cpus("0-18446744073709551615"), Err(CpuListError::TooMany));
        assert_eq!(parse_cpus(&["0-4095", "0"].join(",")), Err(CpuListError::TooMany));
    }

    #[test]
    fn memory_is_read_from_the_kernels_files() {
        assert_eq!(memory_total_bytes("MemTotal:       24609288 kB\nMemFree: 1 kB\n"), Some(24_609_288 << 10));
        assert_eq!(memory_total_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(
            cgroup_path("9:name=systemd:/\n0::/system.slice/quoit.service\n"),
            Some("/system.slice/quoit.service")
        );
        assert_eq!(cgroup_path("4:memory:/x\n"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read().expect("a machine");
        assert!(!machine.cpus_allowed.is_empty());
        assert!(machine.cpus_allowed.iter().all(|cpu| machine.cpus_online.contains(cpu)), "{machine:?}");
        assert!(machine.memory_bytes > 16 << 20, "{machine:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_a_panic(list in "[0-9,-]{0,40}|\\PC{0,12}") {
            if let Ok(cpus) = parse_cpus(&list) {
                prop_assert!(cpus.len() <= CPU_LIST_MAX);
            }
        }
    }
}
