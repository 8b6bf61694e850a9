//! The goals of the data path, and how near the measurements are: ratios of medians within one run.

use super::Results;
use crate::report::Report;

/// One goal.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// What is compared.
    pub(super) text: &'static str,
    /// The bound on the ratio.
    pub(super) bound: Bound,
    /// The ratio measured; `None` where a part of it was not.
    pub(super) actual: Option<Measured>,
}

/// A figure, and what it says about the truth.
///
/// A server that had time to spare carries more than it was measured with. A ratio to such a server can only fall, so that
/// it proves a miss and no success; the other way round with a ratio of such a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// The figure.
    pub(super) value: f64,
    /// The truth may be more: the upper part had time to spare.
    pub(super) may_be_more: bool,
    /// The truth may be less: the lower part had time to spare.
    pub(super) may_be_less: bool,
}

/// How a goal was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Kept,
    Missed,
    /// The figure may be better or worse than the truth.
    Open,
    NotMeasured,
}

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
}

impl Measured {
    /// A figure that is what it is.
    pub(super) const fn exactly(value: f64) -> Self {
        Self { value, may_be_more: false, may_be_less: false }
    }
}

impl Bound {
    /// Whether a figure keeps to it.
    pub(super) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl Goal {
    /// Whether it was kept, as far as the figure proves it.
    pub(super) fn verdict(&self) -> Verdict {
        let Some(actual) = self.actual.filter(|actual| actual.value.is_finite()) else { return Verdict::NotMeasured };
        let (may_be_worse, may_be_better) = match self.bound {
            Bound::AtLeast(_) => (actual.may_be_less, actual.may_be_more),
            Bound::AtMost(_) => (actual.may_be_more, actual.may_be_less),
        };
        match self.bound.holds(actual.value) {
            true if !may_be_worse => Verdict::Kept,
            false if !may_be_better => Verdict::Missed,
            _ => Verdict::Open,
        }
    }
}

/// What makes a run valid: a weak echo would flatter whoever is measured against it.
pub(super) fn validity(results: &Results) -> Vec<Goal> {
    use Bound::AtLeast;
    let ops = |work, ours, theirs| results.throughput_ratio((work, ours), (work, theirs), |report| report.ops_per_s);
    vec![
        goal("echo / memcached, gets 64 × 1", AtLeast(1.1), ops("get-64x1", "echo", "memcached")),
        goal("echo / redis, gets 16 × 16", AtLeast(1.7), ops("get-16x16", "echo", "redis")),
    ]
}

/// Every goal that this comparison can speak about.
pub(super) fn goals(results: &Results) -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    let ops = |work, ours, theirs| results.throughput_ratio((work, ours), (work, theirs), |report| report.ops_per_s);
    let p50: fn(&Report) -> f64 = |report| report.latency.p50_us;
    let p999: fn(&Report) -> f64 = |report| report.latency.p999_us;
    let keys = |report: &Report| report.keys_per_s;
    let cpu: fn(&Report) -> f64 = |report| report.server_cpu_us_per_request.unwrap_or(f64::NAN);
    let p99: fn(&Report) -> f64 = |report| report.latency.p99_us;
    let ops_per_s: fn(&Report) -> f64 = |report| report.ops_per_s;
    let ratio = |work, ours, theirs, figure: fn(&Report) -> f64| {
        results.ratio(work, ours, theirs, figure).map(Measured::exactly)
    };
    vec![
        goal("get 64 × 1: quoit / echo", AtLeast(0.95), ops("get-64x1", "quoit", "echo")),
        goal("get 64 × 1: quoit / memcached", AtLeast(1.10), ops("get-64x1", "quoit", "memcached")),
        goal("get 64 × 1: quoit / redis", AtLeast(1.15), ops("get-64x1", "quoit", "redis")),
        goal("get 16 × 16: quoit / echo", AtLeast(0.92), ops("get-16x16", "quoit", "echo")),
        goal("get 16 × 16: quoit / redis", AtLeast(1.7), ops("get-16x16", "quoit", "redis")),
        goal(
            "get 16 × 16: quoit / memcached's single gets",
            AtLeast(8.0),
            results.throughput_ratio(("get-16x16", "quoit"), ("get-16x16", "memcached"), keys),
        ),
        goal(
            "multi-get of 16: keys per second, quoit / memcached",
            AtLeast(2.0),
            results.throughput_ratio(("multi-get", "quoit"), ("multi-get", "memcached"), keys),
        ),
        goal("10 % sets / pure gets, 64 × 1", AtLeast(0.9), ops("sets-64x1", "quoit, 10 % sets", "quoit, gets")),
        goal("10 % sets / pure gets, 16 × 16", AtLeast(0.9), ops("sets-16x16", "quoit, 10 % sets", "quoit, gets")),
        goal("10 M keys / 10 k keys, 16 × 16", AtLeast(0.85), ops("memory", "quoit, 10 M keys", "quoit, 10 k keys")),
        goal("one connection, p50: quoit / memcached", AtMost(0.45), ratio("latency", "quoit", "memcached", p50)),
        goal("one connection, p99.9: quoit / memcached", AtMost(0.6), ratio("latency", "quoit", "memcached", p999)),
        goal(
            "open loop at 70 %, p99.9: quoit / memcached",
            AtMost(1.0),
            ratio("open-loop", "quoit", "memcached", p999),
        ),
        goal("open loop at 70 %, p99.9: quoit / redis", AtMost(1.0), ratio("open-loop", "quoit", "redis", p999)),
        goal("values of 4 KiB: quoit / echo", AtLeast(0.9), ops("values-4KiB", "quoit", "echo")),
        goal("values of 64 KiB: quoit / echo", AtLeast(0.9), ops("values-64KiB", "quoit", "echo")),
        goal("values of 1 MiB: quoit / echo", AtLeast(0.9), ops("values-1MiB", "quoit", "echo")),
        goal("processor per get, 64 × 1: quoit / memcached", AtMost(1.0), ratio("get-64x1", "quoit", "memcached", cpu)),
        goal("processor per get, 64 × 1: quoit / redis", AtMost(1.0), ratio("get-64x1", "quoit", "redis", cpu)),
        goal(
            "processor per get, 16 × 16: quoit / memcached",
            AtMost(1.0),
            ratio("get-16x16", "quoit", "memcached", cpu),
        ),
        goal("processor per get, 16 × 16: quoit / redis", AtMost(1.0), ratio("get-16x16", "quoit", "redis", cpu)),
        goal("processor per multi-get: quoit / memcached", AtMost(1.0), ratio("multi-get", "quoit", "memcached", cpu)),
        goal("processor per multi-get: quoit / redis", AtMost(1.0), ratio("multi-get", "quoit", "redis", cpu)),
        goal(
            "processor per get, open loop at 70 %: quoit / memcached",
            AtMost(1.0),
            ratio("open-loop", "quoit", "memcached", cpu),
        ),
        goal(
            "processor per get, open loop at 70 %: quoit / redis",
            AtMost(1.0),
            ratio("open-loop", "quoit", "redis", cpu),
        ),
        goal(
            "processor per get, one connection, quoit spinning: quoit / memcached",
            AtMost(1.0),
            ratio("latency", "quoit", "memcached", cpu),
        ),
        goal(
            "processor per get, one connection, quoit spinning: quoit / redis",
            AtMost(1.0),
            ratio("latency", "quoit", "redis", cpu),
        ),
        goal(
            "user time per get, 16 × 16, 10 k keys, in ns",
            AtMost(100.0),
            results.median("get-16x16", "quoit", |report| user_ns(report).unwrap_or(f64::NAN)).map(Measured::exactly),
        ),
        goal(
            "wrong core / right core, two cores, 64 × 1",
            AtLeast(0.6),
            ratio("hops-64x1", "quoit, wrong core", "quoit, right core", ops_per_s),
        ),
        goal(
            "wrong core / right core, two cores, 16 × 16",
            AtLeast(0.6),
            ratio("hops-16x16", "quoit, wrong core", "quoit, right core", ops_per_s),
        ),
        goal(
            "own memory of an idle connection, in bytes",
            AtMost(4096.0),
            results.idle_connection_bytes("idle").map(Measured::exactly),
        ),
        goal("beside 10 000 idle connections / without", AtLeast(0.95), ops("idle", "quoit, 10 000 idle", "quoit")),
        goal(
            "p99 of small gets: beside 16 MiB values / without",
            AtMost(2.0),
            ratio("beside", "quoit, beside", "quoit", p99),
        ),
    ]
}

const fn goal(text: &'static str, bound: Bound, actual: Option<Measured>) -> Goal {
    Goal { text, bound, actual }
}

/// The server's time in user mode per request.
pub(super) fn user_ns(report: &Report) -> Option<f64> {
    report.server_user_s.map(|seconds| seconds * 1e9 / report.requests.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_proves_only_what_the_truth_can_not_undo() {
        let verdict = |bound, value, may_be_more, may_be_less| {
            goal("", bound, Some(Measured { value, may_be_more, may_be_less })).verdict()
        };
        for (bound, better, worse) in [(Bound::AtLeast(1.5), 2.0, 1.0), (Bound::AtMost(1.5), 1.0, 2.0)] {
            let is_least = matches!(bound, Bound::AtLeast(_));
            assert_eq!(verdict(bound, better, false, false), Verdict::Kept);
            assert_eq!(verdict(bound, worse, false, false), Verdict::Missed);
            assert_eq!(verdict(bound, better, is_least, !is_least), Verdict::Kept, "the truth can only be better");
            assert_eq!(verdict(bound, worse, is_least, !is_least), Verdict::Open);
            assert_eq!(verdict(bound, better, !is_least, is_least), Verdict::Open);
            assert_eq!(verdict(bound, worse, !is_least, is_least), Verdict::Missed, "the truth can only be worse");
        }
        assert_eq!(goal("", Bound::AtLeast(1.0), None).verdict(), Verdict::NotMeasured);
    }
}
