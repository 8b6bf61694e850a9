//! The bench's clock: benches are the ones who measure.

use std::time::Instant;

/// The machine's monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}
