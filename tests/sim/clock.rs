//! A node's clock: it begins anywhere, and runs a little faster or slower than the world's.

use crate::time::Instant;

/// Rates may differ by under a twentieth (C5): two clocks at these limits do by less.
pub(super) const DRIFT_MAX_PPM: i64 = 22_000;

/// A clock that never goes back and never jumps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The world's time, and the clock's own, in microseconds, when its rate was last changed.
    world_us: u64,
    own_us: u64,
    drift_ppm: i64,
}

impl Clock {
    pub(super) fn new(world_us: u64, own_us: u64, drift_ppm: i64) -> Self {
        Self { world_us, own_us, drift_ppm }
    }

    pub(super) fn now(&self, world_us: u64) -> Instant {
        Instant::from_millis(self.own_us(world_us) / 1000)
    }

    pub(super) fn set_drift(&mut self, world_us: u64, drift_ppm: i64) {
        *self = Self { world_us, own_us: self.own_us(world_us), drift_ppm };
    }

    fn own_us(&self, world_us: u64) -> u64 {
        let passed_us = (world_us - self.world_us).cast_signed();
        self.own_us + (passed_us + passed_us * self.drift_ppm / 1_000_000).cast_unsigned()
    }
}
