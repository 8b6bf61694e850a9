//! The one place of the load generator that reads a clock.
//!
//! Time is nanoseconds since the process began: one `u64` that fits beside a request, and arithmetic that tests can do
//! with made-up numbers. On Linux a reading costs about 25 ns and no system call.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process; the same origin on every thread.
#[inline]
#[expect(clippy::disallowed_methods, reason = "the load generator measures time; this is where")]
pub(crate) fn now_ns() -> u64 {
    let origin = *ORIGIN.get_or_init(Instant::now);
    Instant::now().duration_since(origin).as_nanos() as u64
}

/// The moment `at_ns` as milliseconds since 1970, to be compared with other programs' logs.
#[expect(clippy::disallowed_methods, reason = "the load generator measures time; this is where")]
pub(crate) fn unix_ms(at_ns: u64) -> u64 {
    let ago_ms = now_ns().saturating_sub(at_ns) / 1_000_000;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    now_ms.saturating_sub(ago_ms)
}
