//! What the kernel tells about this process, under the names that every Prometheus client library uses.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Clock ticks in a second in `/proc/self/stat`; part of Linux's binary interface (`USER_HZ`).
const TICKS_PER_SEC: f64 = 100.0;

/// The kernel counts socket memory in pages; 4 KiB on x86-64, and on most arm64.
const PAGE_BYTES: u64 = 4096;

/// This process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    start_time_secs: f64,
}

/// This process at one moment; what could not be read is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ProcessSample {
    /// Seconds from 1970 to the start.
    pub start_time_secs: f64,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Seconds of CPU, user and system, of all threads.
    pub cpu_secs: Option<f64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// Kernel memory in the buffers of all TCP sockets of this network namespace, which no limit of ours counts.
    pub socket_bytes: Option<u64>,
}

impl Process {
    /// A process that starts now.
    pub(super) fn started_now() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the wall clock at the start, for a metric")]
        let now = SystemTime::now();
        Self { start_time_secs: now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()) }
    }

    /// Looks at the process: four small files of `/proc`.
    pub(super) fn read(&self) -> ProcessSample {
        ProcessSample {
            start_time_secs: self.start_time_secs,
            resident_bytes: fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status)),
            cpu_secs: fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_secs(&stat)),
            socket_bytes: fs::read_to_string("/proc/net/sockstat").ok().and_then(|stat| socket_bytes(&stat)),
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
        }
    }
}

/// `VmRSS` of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The pages that `/proc/net/sockstat` counts for TCP, in bytes.
fn socket_bytes(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem").skip(1);
    Some(words.next()?.parse::<u64>().ok()? * PAGE_BYTES)
}

/// User and system time of `/proc/self/stat`: fields 14 and 15, counted past the name, which may hold anything.
fn cpu_secs(stat: &str) -> Option<f64> {
    let after_name = stat.rsplit_once(") ")?.1;
    let mut fields = after_name.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(resident_bytes("Name:\tquoit\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(resident_bytes("Name:\tquoit\n"), None);
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 1000 1 1";
        assert_eq!(cpu_secs(stat), Some(2.0));
        assert_eq!(cpu_secs("nonsense"), None);
        let stat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 7 mem 3\nUDP: inuse 1 mem 8\n";
        assert_eq!(socket_bytes(stat), Some(3 * PAGE_BYTES));
        assert_eq!(socket_bytes("UDP: inuse 1 mem 8\n"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let sample = Process::started_now().read();
        assert!(sample.resident_bytes.is_some_and(|bytes| bytes > 0), "{sample:?}");
        assert!(sample.open_files.is_some_and(|files| files > 2) && sample.cpu_secs.is_some(), "{sample:?}");
    }
}
