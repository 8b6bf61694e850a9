//! Quoit's own time: an `Instant` that is handed in, never read.
//!
//! Floors 0 to 4 take `now` as an argument, so a whole cluster runs in one thread under a simulated clock. The runtime
//! reads the machine's boot-time clock once a turn (`src/runtime/clock.rs`) and passes it down. Nothing here does I/O.

use std::ops::{Add, Sub};

/// Milliseconds since an origin that the owner of the clock chose (the machine's boot, or a simulation's start).
///
/// 48 bits hold 8,900 years, so items keep an expiry in six bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    millis: u64,
}

/// A length of time in whole milliseconds, the unit of every TTL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    millis: u64,
}

impl Instant {
    /// The clock's origin.
    pub const ORIGIN: Self = Self { millis: 0 };

    /// The instant `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// Milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration { millis: self.millis.saturating_sub(earlier.millis) }
    }
}

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self { millis: 0 };

    /// A duration of `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// A duration of `secs` seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self { millis: secs.saturating_mul(1000) }
    }

    /// Whole milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates: an expiry past the end of time never comes.
    fn add(self, duration: Duration) -> Self {
        Self { millis: self.millis.saturating_add(duration.millis) }
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Saturates at the origin.
    fn sub(self, duration: Duration) -> Self {
        Self { millis: self.millis.saturating_sub(duration.millis) }
    }
}
