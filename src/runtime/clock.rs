//! The one place of the server's data path where a clock is read.
//!
//! `CLOCK_BOOTTIME` goes on while the machine sleeps, so a TTL or a lease never outlives a suspended machine. A turn reads
//! it once or twice and hands the result down; 25 ns by vDSO.

use crate::time::Instant;

/// The time by the clock that the cores go by, for whoever agrees on times with them.
pub fn boot_time() -> Instant {
    Reading::now().instant()
}

/// A reading of the machine's boot-time clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reading {
    nanos: u64,
}

impl Reading {
    /// The time now.
    pub(super) fn now() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid timespec for the call to fill; CLOCK_BOOTTIME exists since Linux 2.6.39.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        assert_eq!(result, 0, "CLOCK_BOOTTIME exists on every kernel that io_uring runs on");
        Self { nanos: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 }
    }

    /// The store's instant: whole milliseconds, rounded down, so nothing expires early and nothing a millisecond late.
    pub(super) const fn instant(self) -> Instant {
        Instant::from_millis(self.nanos / 1_000_000)
    }

    /// Nanoseconds from `earlier` to this reading.
    pub(super) const fn nanos_since(self, earlier: Self) -> u64 {
        self.nanos.saturating_sub(earlier.nanos)
    }

    /// The reading `nanos` nanoseconds after this one.
    #[cfg(test)]
    pub(super) const fn plus_nanos(self, nanos: u64) -> Self {
        Self { nanos: self.nanos + nanos }
    }

    /// Whether at least `time` has passed since `earlier`.
    pub(super) const fn is_past(self, earlier: Self, time: std::time::Duration) -> bool {
        self.nanos_since(earlier) as u128 >= time.as_nanos()
    }
}

/// Milliseconds since 1970, by the wall clock: for deadlines that outlive the process, and nothing else.
pub(super) fn wall_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill; CLOCK_REALTIME exists everywhere.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_REALTIME exists on every kernel");
    // A clock before 1970 is as good as one at its beginning.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + time.tv_nsec as u64 / 1_000_000
}
