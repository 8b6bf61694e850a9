//! The bench's clock: benches are the ones who measure.

use std::time::Instant;

/// The machine's monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds that this thread has been running on a processor: rates by it hold on a machine that others use too.
pub(crate) fn busy_secs() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with schedstats");
    let nanos: u64 = text.split_whitespace().next().and_then(|text| text.parse().ok()).expect("nanoseconds");
    nanos as f64 / 1e9
}
