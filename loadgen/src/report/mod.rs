//! What a run says at its end: text for people, JSON for scripts, from one struct.

mod client;
mod server_usage;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::engine::Recorder;
use crate::work::ReplayTotals;

pub(crate) use client::ClientReport;
pub(crate) use server_usage::{ProcessProbe, ServerProbe, ServerUsage, UsageSample, resident_bytes_of};

/// Below this the server's core had time to spare: the run shows the generator's limit, or the rate it was given.
pub(crate) const SERVER_BUSY_PERCENT_MIN: f64 = 95.0;
/// From this on the generator's core had none: it may have set the pace, or shared in it.
pub(crate) const GENERATOR_BUSY_PERCENT_MAX: f64 = 95.0;

/// A run's results. Field names are the JSON's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The work: run, fill or replay.
    pub(crate) command: &'static str,
    /// The protocol spoken.
    pub(crate) protocol: String,
    /// The server's address.
    pub(crate) server: String,
    /// Connections of all generator threads.
    pub(crate) connections: usize,
    /// Unanswered requests per connection.
    pub(crate) pipeline: usize,
    /// Everything random follows from it.
    pub(crate) seed: u64,
    /// Seconds measured.
    pub(crate) duration_s: f64,
    /// Requests answered within them.
    pub(crate) requests: u64,
    /// Requests per second.
    pub(crate) ops_per_s: f64,
    /// Keys asked for per second: more than requests with multi-gets.
    pub(crate) keys_per_s: f64,
    /// Latency of all requests.
    #[serde(flatten)]
    pub(crate) latency: Latency,
    /// Latency of gets.
    pub(crate) reads: Latency,
    /// Latency of everything else.
    pub(crate) writes: Latency,
    /// Hits of keys read; `null` when none was read.
    pub(crate) hit_ratio: Option<f64>,
    /// Everything that should not have happened: refusals, lost requests, wrong values.
    pub(crate) errors: u64,
    /// What the errors were.
    pub(crate) error_kinds: ErrorKinds,
    /// Processor seconds of the generator.
    pub(crate) cpu_s: f64,
    /// Share of its time that the generator was at work.
    pub(crate) generator_busy_percent: f64,
    /// Share of the generator's turns that found nothing to do.
    pub(crate) turns_empty_percent: f64,
    /// Of the server, where it could be seen: its busiest core at work.
    pub(crate) server_busy_percent: Option<f64>,
    /// That core awake and without work, as a Quoit node tells it; others' spinning, and that of a server seen by its cores or
    /// through the client, counts as work.
    pub(crate) server_spinning_percent: Option<f64>,
    /// The server's processor seconds, user and system apart.
    pub(crate) server_cpu_s: Option<f64>,
    /// In user mode.
    pub(crate) server_user_s: Option<f64>,
    /// In the kernel.
    pub(crate) server_system_s: Option<f64>,
    /// Processor time of the server per request.
    pub(crate) server_cpu_us_per_request: Option<f64>,
    /// Resident memory of the server at the end.
    pub(crate) server_resident_bytes: Option<u64>,
    /// True where the server's core was under 95 % busy: the throughput says nothing about the server then.
    pub(crate) generator_bound: Option<bool>,
    /// Bytes of values read and written.
    pub(crate) value_bytes_read: u64,
    /// Bytes of values written.
    pub(crate) value_bytes_written: u64,
    /// Bytes of values per second that went beside what was measured (`--beside-value-size`).
    pub(crate) beside_bytes_per_s: f64,
    /// Requests per second asked for; `null` in a closed loop.
    pub(crate) rate: Option<f64>,
    /// With a rate: requests that were due and not sent when the time was over.
    pub(crate) behind: u64,
    /// Replies after the time was over: in the latencies, not in the rate.
    pub(crate) answered_late: u64,
    /// Why the run ended early.
    pub(crate) failures: Vec<String>,
    /// The first promises that were broken (`--verify`), with key, expected and got.
    pub(crate) wrong: Vec<String>,
    /// What a trace's replay adds.
    #[serde(flatten)]
    pub(crate) replay: Option<ReplayReport>,
    /// What the native client has met with (`--client`).
    pub(crate) client: Option<ClientReport>,
}

/// Microseconds within which so many of the requests were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// Half.
    pub(crate) p50_us: f64,
    /// Nine in ten.
    pub(crate) p90_us: f64,
    /// 99 in 100.
    pub(crate) p99_us: f64,
    /// 999 in 1000.
    pub(crate) p999_us: f64,
    /// All.
    pub(crate) max_us: f64,
}

/// Errors by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorKinds {
    /// Refused: over a limit of size.
    pub(crate) too_large: u64,
    /// Refused: memory is full.
    pub(crate) no_space: u64,
    /// Refused: too busy.
    pub(crate) overloaded: u64,
    /// Refused: another node owns the key now.
    pub(crate) moved: u64,
    /// Refused for another reason.
    pub(crate) other: u64,
    /// Writes without an answer, which may have been carried out (`--client`).
    pub(crate) in_doubt: u64,
    /// Requests whose reply never came.
    pub(crate) unanswered: u64,
    /// Replies that broke a promise (`--verify`).
    pub(crate) wrong: u64,
}

/// What a replay adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ReplayReport {
    /// Records of the trace that were asked for.
    pub(crate) trace_requests: u64,
    /// Records found in the cache.
    pub(crate) trace_hits: u64,
    /// Bytes of the records, by the trace.
    pub(crate) trace_bytes: u64,
    /// Bytes of the records found.
    pub(crate) trace_hit_bytes: u64,
    /// Share of the bytes found.
    pub(crate) byte_hit_ratio: Option<f64>,
    /// Records of objects larger than the server takes: asked for, never stored.
    pub(crate) objects_too_large: u64,
}

impl Latency {
    /// The percentiles of a histogram of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

impl ErrorKinds {
    /// The refusals a recorder has counted.
    pub(crate) const fn refusals(recorder: &Recorder) -> Self {
        let tally = &recorder.tally;
        Self {
            too_large: tally.refused_too_large,
            no_space: tally.refused_no_space,
            overloaded: tally.refused_overloaded,
            moved: tally.refused_moved,
            other: tally.refused_other,
            in_doubt: tally.in_doubt,
            unanswered: 0,
            wrong: 0,
        }
    }

    /// Adds those of another run.
    pub(crate) const fn add(&mut self, other: &Self) {
        self.too_large += other.too_large;
        self.no_space += other.no_space;
        self.overloaded += other.overloaded;
        self.moved += other.moved;
        self.other += other.other;
        self.in_doubt += other.in_doubt;
        self.unanswered += other.unanswered;
        self.wrong += other.wrong;
    }

    /// All of them.
    pub(crate) const fn total(&self) -> u64 {
        let refused = self.too_large + self.no_space + self.overloaded + self.moved + self.other;
        refused + self.in_doubt + self.unanswered + self.wrong
    }
}

impl Report {
    /// Whether everything went as it should.
    pub(crate) const fn is_clean(&self) -> bool {
        self.errors == 0 && self.failures.is_empty()
    }

    /// Adds promises that were broken.
    pub(crate) fn count_wrong(&mut self, count: u64, told: Vec<String>) {
        self.error_kinds.wrong += count;
        self.errors += count;
        self.wrong.extend(told);
    }

    /// Adds the look at every key that ends a verification through the client.
    pub(crate) fn add_last_look(&mut self, last: &Self) {
        self.errors += last.errors;
        self.error_kinds.add(&last.error_kinds);
        self.failures.extend(last.failures.iter().cloned());
        if let (Some(client), Some(last_client)) = (&mut self.client, &last.client) {
            client.looked_at += last.requests;
            client.errors_told.extend(last_client.errors_told.iter().cloned());
        }
    }

    /// Adds what a trace's replay has found. That an object is too large for the server is a fact of the trace, no error.
    pub(crate) fn add_replay(&mut self, totals: ReplayTotals) {
        self.errors -= self.error_kinds.too_large;
        self.error_kinds.too_large = 0;
        // One request after the other: nobody is kept busy, and no throughput is measured.
        self.generator_bound = None;
        self.replay = Some(ReplayReport {
            trace_requests: totals.requests,
            trace_hits: totals.hits,
            trace_bytes: totals.bytes,
            trace_hit_bytes: totals.hit_bytes,
            byte_hit_ratio: (totals.bytes > 0).then(|| totals.hit_bytes as f64 / totals.bytes as f64),
            objects_too_large: totals.too_large,
        });
    }

    /// The report for a person.
    pub(crate) fn to_text(&self) -> String {
        let mut lines = vec![format!(
            "{} over {} to {}: {} connections × depth {}, seed {}",
            self.command, self.protocol, self.server, self.connections, self.pipeline, self.seed
        )];
        let mut rate =
            format!("{} requests in {:.2} s: {} per second", self.requests, self.duration_s, grouped(self.ops_per_s));
        if self.keys_per_s > self.ops_per_s * 1.001 {
            rate += &format!(", {} keys per second", grouped(self.keys_per_s));
        }
        lines.push(rate);
        lines.push(latency_line("latency", &self.latency));
        if self.reads != Latency::default() && self.writes != Latency::default() {
            lines.push(latency_line("  gets", &self.reads));
            lines.push(latency_line("  writes", &self.writes));
        }
        if let Some(replay) = &self.replay {
            lines.push(replay.to_text());
        } else if let Some(hit_ratio) = self.hit_ratio {
            lines.push(format!("hits      {:.2} % of the keys read", hit_ratio * 100.0));
        }
        if self.beside_bytes_per_s > 0.0 {
            lines.push(format!(
                "beside    {:.0} MiB per second of other values",
                self.beside_bytes_per_s / (1 << 20) as f64
            ));
        }
        lines.push(format!(
            "generator {:.1} % busy, {:.1} % of its turns found nothing, {:.2} s of processor",
            self.generator_busy_percent, self.turns_empty_percent, self.cpu_s
        ));
        lines.push(self.server_line());
        if let Some(rate) = self.rate {
            lines.push(format!(
                "rate      {} per second asked for, {} requests behind at the end",
                grouped(rate),
                self.behind
            ));
        }
        lines.extend(self.client.iter().map(ClientReport::to_text));
        lines.push(self.error_line());
        lines.extend(
            self.client.iter().flat_map(|client| &client.errors_told).map(|error| format!("  error   {error}")),
        );
        lines.extend(self.wrong.iter().map(|wrong| format!("  wrong   {wrong}")));
        lines.extend(self.failures.iter().map(|failure| format!("ended early: {failure}")));
        lines.join("\n")
    }

    fn server_line(&self) -> String {
        let Some(busy) = self.server_busy_percent else {
            return "server    not watched: it runs elsewhere (or name it with --server-pid, --server-cpu), or the watcher got no time"
                .into();
        };
        let mut line = format!("server    {busy:.1} % busy on its busiest core");
        if let Some(spinning) = self.server_spinning_percent.filter(|percent| *percent >= 0.05) {
            line += &format!(" and {spinning:.1} % spinning");
        }
        if let (Some(cpu_s), Some(per_request)) = (self.server_cpu_s, self.server_cpu_us_per_request) {
            line += &format!(", {cpu_s:.2} s of processor, {per_request:.3} µs per request");
        }
        if self.generator_bound == Some(true) {
            line += " (generator-bound: the server had time to spare)";
        }
        line
    }

    fn error_line(&self) -> String {
        let kinds = &self.error_kinds;
        let named = [
            (kinds.wrong, "wrong"),
            (kinds.unanswered, "unanswered"),
            (kinds.too_large, "too large"),
            (kinds.no_space, "no space"),
            (kinds.overloaded, "overloaded"),
            (kinds.moved, "moved"),
            (kinds.other, "otherwise refused"),
            (kinds.in_doubt, "in doubt"),
        ];
        let parts: Vec<_> =
            named.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
        let detail = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        format!("errors    {}{detail}", self.errors)
    }
}

impl ReplayReport {
    fn to_text(self) -> String {
        let ratio = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        format!(
            "trace     {} requests, hit ratio {:.4} (miss ratio {:.4})\n          {} of {} bytes found, byte hit ratio {:.4}; {} requests for objects over the server's limit",
            self.trace_requests,
            ratio(self.trace_hits, self.trace_requests),
            1.0 - ratio(self.trace_hits, self.trace_requests),
            self.trace_hit_bytes,
            self.trace_bytes,
            ratio(self.trace_hit_bytes, self.trace_bytes),
            self.objects_too_large,
        )
    }
}

fn latency_line(name: &str, latency: &Latency) -> String {
    format!(
        "{name:<9} p50 {:.1} µs · p90 {:.1} µs · p99 {:.1} µs · p99.9 {:.1} µs · max {:.1} µs",
        latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us
    )
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0.0), "0");
        assert_eq!(grouped(999.6), "1 000");
        assert_eq!(grouped(3_141_592.0), "3 141 592");
    }
}
