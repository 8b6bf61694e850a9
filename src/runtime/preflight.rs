//! Start-up checks: what this machine lacks is said at once, with what is needed and how to mend it.
//!
//! Every verdict is a pure function of what was read; the readers around them are thin. A ring is tried for real, with the
//! flags the sockets use, and settings are read only to explain a refusal. Limits are raised where the process may do so.
//! Addresses are tried by whoever listens; this puts what the kernel said into words.

use std::io;
use std::net::SocketAddr;
use std::{fmt, fs};

use io_uring::{IoUring, squeue};

use super::machine::{Limit, Resource};

/// Oldest kernel: 6.1 brought `IORING_SETUP_DEFER_TASKRUN`, and multishot receives are complete there.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Locked memory that glommio asks for before it starts an executor, root or not.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// File descriptors of a core beside its connections: four rings, their eventfds, a listener, timers; with room to spare.
const FILES_PER_CORE: u64 = 32;

/// File descriptors of the process: standard streams, log, control thread, and the connections it serves.
const FILES_PER_PROCESS: u64 = 128;

/// Something about this machine that Quoit can't run with.
#[derive(Debug, thiserror::Error)]
#[error("{problem}\n  needed:  {needed}\n  to mend: {mend}", needed = self.needed(), mend = self.mend())]
pub struct Shortcoming {
    /// What is wrong.
    pub problem: Problem,
}

impl From<Problem> for Shortcoming {
    fn from(problem: Problem) -> Self {
        Self { problem }
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The kernel lacks what the socket rings are built on.
    #[error("the kernel is {release}")]
    KernelTooOld {
        /// As `uname -r` prints it.
        release: String,
    },
    /// An administrator has turned io_uring off.
    #[error("io_uring is disabled: kernel.io_uring_disabled is {setting}")]
    RingDisabled {
        /// 1: only for a group and for administrators. 2: for everybody.
        setting: String,
    },
    /// A filter forbids io_uring, as containers do by default.
    #[error("io_uring is not permitted here, though the kernel has it on: a seccomp filter refuses it")]
    RingFiltered,
    /// The kernel was built without io_uring.
    #[error("this kernel has no io_uring")]
    RingMissing,
    /// Setting up a ring failed in another way.
    #[error("the kernel refuses an io_uring: {0}")]
    RingRefused(io::Error),
    /// A resource limit is too low, and may not be raised.
    #[error("the limit of {} is {limit}", .resource.noun())]
    LimitTooLow {
        /// What is limited.
        resource: Resource,
        /// The hard limit.
        limit: u64,
        /// The least that works.
        needed: u64,
    },
    /// A CPU that the machine does not have.
    #[error("there is no CPU {cpu}")]
    NoSuchCpu {
        /// The CPU asked for.
        cpu: usize,
        /// Those the process may run on.
        allowed: Vec<usize>,
    },
    /// A CPU that the process may not run on.
    #[error("CPU {cpu} exists, but this process may not run on it")]
    CpuNotAllowed {
        /// The CPU asked for.
        cpu: usize,
        /// Those the process may run on.
        allowed: Vec<usize>,
    },
    /// An address can't be listened on.
    #[error("can't listen on {address} (--{option}): {source}")]
    Listen {
        /// The option that named it: `listen` or `admin`.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a node is about to ask of the machine.
#[derive(Clone, Debug)]
pub struct Requirements {
    /// Executors that will be started.
    pub cores: usize,
    /// Connections of all cores together; `None`: as many as the machine grants, up to `connections_wanted`.
    pub connections: Option<u64>,
    /// What to aim for when `connections` does not say.
    pub connections_wanted: u64,
}

/// Checks everything that can be known before the first executor starts, and raises limits.
///
/// Returns how many connections, of all cores together, the limit of open files leaves room for. Finds every shortcoming
/// at once, so that a machine is mended in one go.
pub fn check(requirements: &Requirements) -> Result<u64, Vec<Shortcoming>> {
    let mut shortcomings = Vec::new();
    let mut note = |result: Result<(), Problem>| shortcomings.extend(result.err().map(Shortcoming::from));

    note(fs::read_to_string("/proc/sys/kernel/osrelease").map_or(Ok(()), |release| kernel_verdict(release.trim())));
    note(try_ring());
    note(raise(Resource::LockedMemory, MEMLOCK_BYTES_MIN, MEMLOCK_BYTES_MIN).map(drop));

    let own_files = FILES_PER_PROCESS + FILES_PER_CORE * requirements.cores as u64;
    let needed = own_files + requirements.connections.unwrap_or(requirements.cores as u64);
    let wanted = own_files + requirements.connections.unwrap_or(requirements.connections_wanted);
    match raise(Resource::OpenFiles, needed, wanted) {
        Ok(granted) if shortcomings.is_empty() => Ok(granted.min(wanted) - own_files),
        Ok(_) => Err(shortcomings),
        Err(problem) => {
            shortcomings.push(problem.into());
            Err(shortcomings)
        }
    }
}

/// Checks one CPU asked for against those that exist and those this process may use.
pub fn cpu_verdict(cpu: usize, online: &[usize], allowed: &[usize]) -> Result<(), Shortcoming> {
    let allowed_list = || allowed.to_vec();
    if allowed.contains(&cpu) {
        Ok(())
    } else if online.contains(&cpu) {
        Err(Problem::CpuNotAllowed { cpu, allowed: allowed_list() }.into())
    } else {
        Err(Problem::NoSuchCpu { cpu, allowed: allowed_list() }.into())
    }
}

/// Why `address`, named by `option`, could not be listened on.
pub fn listen_shortcoming(option: &'static str, address: SocketAddr, source: io::Error) -> Shortcoming {
    Problem::Listen { option, address, source }.into()
}

/// Sets up a ring as the sockets' rings are set up, and drops it.
fn try_ring() -> Result<(), Problem> {
    let attempt =
        IoUring::<squeue::Entry>::builder().setup_single_issuer().setup_defer_taskrun().setup_submit_all().build(8);
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    ring_verdict(attempt.map(drop), setting.trim())
}

fn ring_verdict(attempt: io::Result<()>, disabled_setting: &str) -> Result<(), Problem> {
    let Err(error) = attempt else { return Ok(()) };
    Err(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if matches!(disabled_setting, "1" | "2") => {
            Problem::RingDisabled { setting: disabled_setting.to_owned() }
        }
        Some(libc::EPERM | libc::EACCES) => Problem::RingFiltered,
        Some(libc::ENOSYS) => Problem::RingMissing,
        _ => Problem::RingRefused(error),
    })
}

/// Judges a kernel by its release. One that can't be read is let through: the trial of a ring decides.
fn kernel_verdict(release: &str) -> Result<(), Problem> {
    match kernel_version(release) {
        Some(version) if version < KERNEL_MIN => Err(Problem::KernelTooOld { release: release.to_owned() }),
        _ => Ok(()),
    }
}

/// Major and minor version of a release such as `6.1.0-13-amd64`, `6.10-rc1` or `5.15.0+`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Sees to it that a limit is at least `needed`, and `wanted` if that is granted; returns the limit in force.
fn raise(resource: Resource, needed: u64, wanted: u64) -> Result<u64, Problem> {
    let Ok(before) = Limit::read(resource) else {
        // A limit that can't be read is no reason to refuse; what it forbids will say so itself.
        return Ok(wanted);
    };
    // A privileged process may raise the hard limit as well; others are refused and keep what they have.
    let attempts = raise_steps(before, wanted);
    let after = attempts.into_iter().find(|limit| limit.set(resource).is_ok()).unwrap_or(before);
    if after.soft >= needed {
        Ok(after.soft)
    } else {
        Err(Problem::LimitTooLow { resource, limit: after.soft, needed })
    }
}

/// What to try in turn for a soft limit of `wanted`: it alone, with the hard limit, or the soft one up to the hard one.
fn raise_steps(before: Limit, wanted: u64) -> Vec<Limit> {
    if before.soft >= wanted {
        Vec::new()
    } else if before.hard >= wanted {
        vec![Limit { soft: wanted, ..before }]
    } else {
        vec![Limit { soft: wanted, hard: wanted }, Limit { soft: before.hard, ..before }]
    }
}

impl Shortcoming {
    /// What Quoit needs instead.
    fn needed(&self) -> String {
        match &self.problem {
            Problem::KernelTooOld { .. } => {
                format!(
                    "Linux {}.{} or newer, for the io_uring features of the socket rings",
                    KERNEL_MIN.0, KERNEL_MIN.1
                )
            }
            Problem::RingDisabled { .. } | Problem::RingFiltered | Problem::RingMissing | Problem::RingRefused(_) => {
                "io_uring: all network and disk traffic of a node runs on it".to_owned()
            }
            Problem::LimitTooLow { resource: Resource::LockedMemory, needed, .. } => {
                format!("{needed} bytes, which glommio asks for before it starts an executor")
            }
            Problem::LimitTooLow { resource: Resource::OpenFiles, needed, .. } => {
                format!("{needed}: one per connection, and some for each core")
            }
            Problem::NoSuchCpu { allowed, .. } | Problem::CpuNotAllowed { allowed, .. } => {
                format!("CPUs this process may run on: {}", DisplayCpus(allowed))
            }
            Problem::Listen { .. } => "an address of this machine with a free port".to_owned(),
        }
    }

    /// What to do about it, as commands where there are any.
    pub fn mend(&self) -> String {
        match &self.problem {
            Problem::KernelTooOld { .. } => {
                "boot a newer kernel (Debian 12 has 6.1; Debian 11: apt-get install -t bullseye-backports linux-image-amd64)"
                    .to_owned()
            }
            Problem::RingDisabled { .. } => {
                "as root: sysctl -w kernel.io_uring_disabled=0 (for good: in /etc/sysctl.d/60-quoit.conf)".to_owned()
            }
            Problem::RingFiltered => {
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile (to try: \
                 docker run --security-opt seccomp=unconfined); under systemd: SystemCallFilter=@aio"
                    .to_owned()
            }
            Problem::RingMissing => "boot a kernel with CONFIG_IO_URING=y, as Debian's are".to_owned(),
            Problem::RingRefused(error) => match error.raw_os_error() {
                Some(libc::EINVAL) => "boot Linux 6.1 or newer: this one does not know a flag of the socket rings".to_owned(),
                Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l), or the memory of the cgroup".to_owned(),
                _ => "look the error up in io_uring_setup(2)".to_owned(),
            },
            Problem::LimitTooLow { resource: Resource::LockedMemory, needed, .. } => format!(
                "ulimit -l {} as root, then start Quoit from that shell; systemd: LimitMEMLOCK={needed}; docker run \
                 --ulimit memlock={needed}",
                needed.div_ceil(1024)
            ),
            Problem::LimitTooLow { resource: Resource::OpenFiles, needed, .. } => format!(
                "a smaller --connections-max; or ulimit -n {needed} as root, then start Quoit from that shell; systemd: \
                 LimitNOFILE={needed}; docker run --ulimit nofile={needed}"
            ),
            Problem::NoSuchCpu { allowed, .. } => format!("--cores {}", DisplayCpus(allowed)),
            Problem::CpuNotAllowed { cpu, allowed } => {
                format!("--cores {}; or start Quoit with CPU {cpu} in its mask (taskset, cpuset)", DisplayCpus(allowed))
            }
            Problem::Listen { option, address, source } => match source.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "ss -ltnp 'sport = :{}' names the process that has the port; or choose another with --{option} {}:0",
                    address.port(),
                    DisplayHost(*address)
                ),
                io::ErrorKind::PermissionDenied => format!("a port from 1024 on; port {} is for root", address.port()),
                io::ErrorKind::AddrNotAvailable => "ip address lists the addresses of this machine".to_owned(),
                _ => format!("another address with --{option}"),
            },
        }
    }
}

/// CPUs as a list that `--cores` takes: `0-3,8`.
#[derive(Clone, Copy, Debug)]
pub struct DisplayCpus<'a>(pub &'a [usize]);

impl fmt::Display for DisplayCpus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs = self.0.chunk_by(|left, right| left + 1 == *right).peekable();
        while let Some(run) = runs.next() {
            match run {
                [] => {}
                [one] => write!(f, "{one}")?,
                [first, .., last] => write!(f, "{first}-{last}")?,
            }
            if runs.peek().is_some() {
                f.write_str(",")?;
            }
        }
        Ok(())
    }
}

/// An address's host as it stands before a port.
struct DisplayHost(SocketAddr);

impl fmt::Display for DisplayHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SocketAddr::V4(address) => write!(f, "{}", address.ip()),
            SocketAddr::V6(address) => write!(f, "[{}]", address.ip()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_major_and_minor_version() {
        for release in ["6.1.0-13-amd64", "6.18.44-fc-v669", "6.1", "6.10-rc1", "7.0.0", "10.2.3+", "unheard-of", ""] {
            assert!(kernel_verdict(release).is_ok(), "{release}");
        }
        for release in ["6.0.19", "5.15.0-1051-aws", "4.18.0-513.el8.x86_64", "3.10.0"] {
            assert!(matches!(kernel_verdict(release), Err(Problem::KernelTooOld { .. })), "{release}");
        }
    }

    #[test]
    fn a_refused_ring_is_explained_by_its_cause() {
        let refused = |errno| Err(io::Error::from_raw_os_error(errno));
        assert!(ring_verdict(Ok(()), "2").is_ok());
        assert!(matches!(ring_verdict(refused(libc::EPERM), "2"), Err(Problem::RingDisabled { .. })));
        assert!(matches!(ring_verdict(refused(libc::EPERM), "0"), Err(Problem::RingFiltered)));
        assert!(matches!(ring_verdict(refused(libc::EPERM), ""), Err(Problem::RingFiltered)));
        assert!(matches!(ring_verdict(refused(libc::ENOSYS), "0"), Err(Problem::RingMissing)));
        assert!(matches!(ring_verdict(refused(libc::EINVAL), "0"), Err(Problem::RingRefused(_))));
    }

    #[test]
    fn limits_are_raised_as_far_as_needed_and_allowed() {
        let limit = |soft, hard| Limit { soft, hard };
        assert_eq!(raise_steps(limit(1024, 4096), 1024), []);
        assert_eq!(raise_steps(limit(1024, 4096), 2000), [limit(2000, 4096)]);
        assert_eq!(raise_steps(limit(1024, 4096), 5000), [limit(5000, 5000), limit(4096, 4096)]);
    }

    #[test]
    fn a_cpu_must_exist_and_be_allowed() {
        assert!(cpu_verdict(1, &[0, 1, 2], &[1, 2]).is_ok());
        let not_allowed = cpu_verdict(0, &[0, 1, 2], &[1, 2]).expect_err("masked out").to_string();
        assert!(not_allowed.contains("CPU 0 exists") && not_allowed.contains("--cores 1-2"), "{not_allowed}");
        let missing = cpu_verdict(7, &[0, 1, 2], &[1, 2]).expect_err("no such CPU").to_string();
        assert!(missing.contains("there is no CPU 7") && missing.contains("--cores 1-2"), "{missing}");
    }

    #[test]
    fn cpus_are_shown_as_they_are_written() {
        for (cpus, shown) in [(&[0, 1, 2, 5][..], "0-2,5"), (&[3], "3"), (&[0, 0, 1, 1], "0,0-1,1"), (&[], "")] {
            assert_eq!(DisplayCpus(cpus).to_string(), shown);
        }
    }

    #[test]
    fn every_shortcoming_says_what_is_needed_and_how_to_mend_it() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let listen = |kind: io::ErrorKind| Problem::Listen { option: "admin", address, source: kind.into() };
        for (problem, mend) in [
            (Problem::KernelTooOld { release: "5.10.0".to_owned() }, "boot a newer kernel"),
            (Problem::RingDisabled { setting: "2".to_owned() }, "sysctl -w kernel.io_uring_disabled=0"),
            (Problem::RingFiltered, "seccomp=unconfined"),
            (Problem::RingFiltered, "SystemCallFilter=@aio"),
            (Problem::RingMissing, "CONFIG_IO_URING"),
            (Problem::RingRefused(io::Error::from_raw_os_error(libc::EINVAL)), "6.1 or newer"),
            (
                Problem::LimitTooLow { resource: Resource::LockedMemory, limit: 65536, needed: 524_288 },
                "ulimit -l 512 ",
            ),
            (Problem::LimitTooLow { resource: Resource::OpenFiles, limit: 1024, needed: 4096 }, "ulimit -n 4096 "),
            (listen(io::ErrorKind::AddrInUse), "ss -ltnp 'sport = :80'"),
            (listen(io::ErrorKind::PermissionDenied), "port 80 is for root"),
            (listen(io::ErrorKind::AddrNotAvailable), "ip address"),
        ] {
            let text = Shortcoming::from(problem).to_string();
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines.len() == 3 && lines[1].starts_with("  needed:  "), "{text}");
            assert!(lines[2].starts_with("  to mend: ") && lines[2].contains(mend), "{text}");
        }
    }
}
