//! The retry budget and the waits between attempts: what keeps a sick server from being knocked over by its clients.
//!
//! What a lost connection left unanswered is sent again from a token bucket that requests fill, so in the long run repeats
//! are a bounded share of the load; a trickle by time lets quiet clients repeat too. Refusals cost no tokens: `holds` sees to
//! it that they are few. (The design is Finagle's `RetryBudget`; the jitter is "equal jitter" of
//! the AWS Architecture Blog, "Exponential Backoff And Jitter".)

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::options::{REQUESTS_PER_RETRY, RETRIES_PER_SEC};
use crate::time::Instant;

/// Tokens for retries, counted in parts so that a request and a millisecond earn whole numbers.
#[derive(Debug)]
pub(super) struct RetryBudget {
    parts: u64,
    parts_max: u64,
    earned_until: Instant,
}

/// Parts of one retry: divisible by what a request and a millisecond earn.
const PARTS_PER_RETRY: u64 = 1000;

impl RetryBudget {
    /// A full bucket, of `burst_max` retries.
    pub(super) const fn new(burst_max: usize, now: Instant) -> Self {
        let parts_max = PARTS_PER_RETRY * burst_max as u64;
        Self { parts: parts_max, parts_max, earned_until: now }
    }

    /// Counts `requests` new requests.
    pub(super) fn earn(&mut self, requests: usize) {
        let earned = requests as u64 * (PARTS_PER_RETRY / u64::from(REQUESTS_PER_RETRY));
        self.parts = (self.parts + earned).min(self.parts_max);
    }

    /// Pays for one retry; `false` when there is nothing to pay with.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        // Whole milliseconds earn; the rest of a millisecond is kept for the next time.
        let elapsed_ms = now.since(self.earned_until).as_millis().min(u64::MAX.into()) as u64;
        if elapsed_ms > 0 {
            let earned = elapsed_ms.saturating_mul(PARTS_PER_RETRY * u64::from(RETRIES_PER_SEC) / 1000);
            self.parts = self.parts.saturating_add(earned).min(self.parts_max);
            self.earned_until = self.earned_until + Duration::from_millis(elapsed_ms);
        }
        let pays = self.parts >= PARTS_PER_RETRY;
        if pays {
            self.parts -= PARTS_PER_RETRY;
        }
        pays
    }
}

/// The wait before attempt `failures + 1`: `first` doubled with each failure after the first up to `longest`, half of it
/// random.
pub(super) fn backoff(first: Duration, longest: Duration, failures: u32, rng: &mut impl Rng) -> Duration {
    let doubled = first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let whole = doubled.min(longest);
    whole / 2 + jitter(whole / 2, rng)
}

/// A random duration of at most `longest`.
pub(super) fn jitter(longest: Duration, rng: &mut impl Rng) -> Duration {
    Duration::from_nanos(rng.random_range(0..=longest.as_nanos().min(u64::MAX.into()) as u64))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::options::RETRY_BURST_MIN;

    #[test]
    fn retries_are_a_tenth_of_the_load_beyond_the_burst() {
        let now = Instant::ORIGIN;
        let mut budget = RetryBudget::new(RETRY_BURST_MIN, now);
        let mut spent = 0;
        for _ in 0..100_000 {
            budget.earn(1);
            spent += u32::from(budget.spend(now));
        }
        // One less: what the first request earns does not fit a full bucket.
        assert_eq!(spent, RETRY_BURST_MIN as u32 + 100_000 / REQUESTS_PER_RETRY - 1);
    }

    #[test]
    fn time_alone_earns_a_trickle() {
        let mut now = Instant::ORIGIN;
        let mut budget = RetryBudget::new(RETRY_BURST_MIN, now);
        while budget.spend(now) {}
        let mut spent = 0;
        for _ in 0..10_000 {
            now = now + Duration::from_micros(700);
            spent += u32::from(budget.spend(now));
        }
        assert_eq!(spent, 7 * RETRIES_PER_SEC);
    }

    #[test]
    fn waits_double_with_jitter_up_to_their_limit() {
        let mut rng = StdRng::seed_from_u64(1);
        let (first, longest) = (Duration::from_millis(10), Duration::from_secs(1));
        for (failures, whole_ms) in
            [(0, 10), (1, 10), (2, 20), (3, 40), (7, 640), (8, 1000), (40, 1000), (u32::MAX, 1000)]
        {
            let whole = Duration::from_millis(whole_ms);
            for _ in 0..100 {
                let wait = backoff(first, longest, failures, &mut rng);
                assert!(wait >= whole / 2 && wait <= whole, "{failures}: {wait:?}");
            }
        }
    }
}
