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

/// One moment by two clocks: the one that [`Instant`]s count by, and the wall clock. Deadlines that outlive the process
/// are kept by the wall clock, which goes on while it is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// The moment.
    pub now: Instant,
    /// The same moment in milliseconds since 1970.
    pub wall_ms: u64,
}

impl WallClock {
    /// What the wall clock will show, or has shown, at `instant`.
    pub const fn wall_ms_at(self, instant: Instant) -> u64 {
        if instant.millis >= self.now.millis {
            self.wall_ms.saturating_add(instant.millis - self.now.millis)
        } else {
            self.wall_ms.saturating_sub(self.now.millis - instant.millis)
        }
    }

    /// When the wall clock will show, or has shown, `wall_ms`; the origin if that was before it.
    pub const fn instant_at(self, wall_ms: u64) -> Instant {
        let millis = if wall_ms >= self.wall_ms {
            self.now.millis.saturating_add(wall_ms - self.wall_ms)
        } else {
            self.now.millis.saturating_sub(self.wall_ms - wall_ms)
        };
        Instant { millis }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_keeps_its_place_on_the_wall_clock_when_the_own_clock_starts_anew() {
        let before = WallClock { now: Instant::from_millis(90_000), wall_ms: 1_700_000_000_000 };
        let deadline = before.now + Duration::from_secs(60);
        // Twenty seconds later, on a machine that has just booted.
        let after = WallClock { now: Instant::from_millis(3_000), wall_ms: before.wall_ms + 20_000 };
        assert_eq!(after.instant_at(before.wall_ms_at(deadline)), Instant::from_millis(43_000));
        // What has ended lies in the past, at the origin at most.
        assert_eq!(after.instant_at(before.wall_ms_at(before.now)), Instant::ORIGIN);
        assert_eq!(before.instant_at(before.wall_ms_at(Instant::ORIGIN)), Instant::ORIGIN);
        assert_eq!(after.instant_at(u64::MAX).as_millis(), u64::MAX - after.wall_ms + 3_000);
    }
}
