//! When requests are due.
//!
//! Closed loop: whenever a connection has room. Open loop: request n is due at `start + n / rate`, whatever the server
//! does, and its latency counts from then. A server that stalls for a second is thereby charged with everything that
//! should have happened in that second, and not only with the one request that waited (no coordinated omission).

/// The pace of one generator thread. Times are nanoseconds of one clock, given by the caller.
#[derive(Clone, Debug)]
pub(crate) enum Pace {
    /// As fast as replies come.
    Closed,
    /// At a rate of its own.
    Open {
        /// When request 0 is due.
        start_ns: u64,
        /// Between two requests; a fraction, so that no rate drifts.
        interval_ns: f64,
        /// Requests that were sent.
        sent: u64,
    },
}

impl Pace {
    /// `rate` requests per second from `start_ns` on.
    pub(crate) fn open(start_ns: u64, rate: f64) -> Self {
        Self::Open { start_ns, interval_ns: 1e9 / rate, sent: 0 }
    }

    /// When the next request should be sent: `None` when that is after `now_ns`.
    #[inline]
    pub(crate) fn due(&self, now_ns: u64) -> Option<u64> {
        match self {
            Self::Closed => Some(now_ns),
            Self::Open { start_ns, interval_ns, sent } => {
                let intended_ns = start_ns + (*sent as f64 * interval_ns) as u64;
                (intended_ns <= now_ns).then_some(intended_ns)
            }
        }
    }

    /// Nanoseconds until the next request is due; `None` in a closed loop.
    pub(crate) fn next_due(&self, now_ns: u64) -> Option<u64> {
        let Self::Open { start_ns, interval_ns, sent } = self else { return None };
        Some((start_ns + (*sent as f64 * interval_ns) as u64).saturating_sub(now_ns))
    }

    /// Takes note that the request that was due has been sent.
    #[inline]
    pub(crate) fn sent(&mut self) {
        if let Self::Open { sent, .. } = self {
            *sent += 1;
        }
    }

    /// Requests that are due and not sent.
    pub(crate) fn behind(&self, now_ns: u64) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Open { start_ns, interval_ns, sent } => {
                let due = (now_ns.saturating_sub(*start_ns) as f64 / interval_ns) as u64;
                due.saturating_sub(*sent)
            }
        }
    }

    /// Whether requests are due by the clock.
    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Latencies in ms of 1000 requests per second for three virtual seconds, one at a time, against a server that
    /// answers within 100 µs but stalls from 1.0 s to 2.0 s.
    fn latencies_of_a_stalling_server(mut pace: Pace) -> Vec<u64> {
        let mut latencies = Vec::new();
        let mut now = 0;
        while now < 3000 * MS {
            let Some(intended) = pace.due(now) else {
                now += MS / 10;
                continue;
            };
            pace.sent();
            let stalls = (1000 * MS..2000 * MS).contains(&now);
            now = if stalls { 2000 * MS } else { now + MS / 10 };
            latencies.push((now - intended) / MS);
        }
        latencies.sort_unstable();
        latencies
    }

    #[test]
    fn a_stall_is_charged_to_every_request_that_was_due_in_it() {
        let latencies = latencies_of_a_stalling_server(Pace::open(0, 1000.0));
        assert_eq!(latencies.len(), 3000, "the server catches up");
        // A third of the requests fell into the stall, and those that came after it waited in line.
        assert!(latencies[1900] >= 1 && latencies[2400] > 300, "{} {}", latencies[1900], latencies[2400]);
        assert!((990..=1000).contains(&latencies[2999]));
    }

    #[test]
    fn a_closed_loop_would_have_hidden_it() {
        let latencies = latencies_of_a_stalling_server(Pace::Closed);
        let stalled = latencies.iter().filter(|&&latency| latency > 0).count();
        assert_eq!(stalled, 1, "that is why latency is measured with a rate");
    }

    #[test]
    fn requests_are_due_at_their_time_and_not_before() {
        let mut pace = Pace::open(5 * MS, 2000.0);
        assert_eq!(pace.due(5 * MS - 1), None);
        assert_eq!(pace.due(5 * MS), Some(5 * MS));
        pace.sent();
        assert_eq!(pace.due(5 * MS + 499_999), None);
        assert_eq!(pace.due(9 * MS), Some(5 * MS + 500_000), "a late request keeps its intended time");
        assert_eq!(pace.behind(9 * MS), 7);
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let mut pace = Pace::open(0, 3_000_000.0);
        for _ in 0..3_000_000 {
            pace.sent();
        }
        assert_eq!(pace.due(u64::MAX), Some(1_000_000_000));
    }
}
