//! The cores' samples as Prometheus metrics.
//!
//! Counters are named where they are counted (`samples.rs`); here they only get the prefix `quoit_` and the label `core`.
//! Nothing is registered and nothing is kept between scrapes: each renders what the cores have just told.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use prometheus::TextEncoder;
use prometheus::proto::{self, Bucket, LabelPair, Metric, MetricFamily, MetricType};

use super::process::ProcessSample;
use crate::samples::{CoreSnapshot, Sample, SampleKind};

/// Upper bounds of the buckets that latency histograms are shown in: three a decade, from 1 µs, below any reply, to 10 s,
/// above any timeout.
const BUCKET_BOUNDS_NANOS: [u64; 22] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const NANOS_PER_SEC: f64 = 1e9;

/// Renders a scrape in the text format; `silent` are cores that did not answer.
pub(super) fn render(
    snapshots: &[CoreSnapshot],
    silent: &[u16],
    cluster: &[Sample],
    process: &ProcessSample,
) -> Result<String, prometheus::Error> {
    let mut families = Families::default();
    families.add_build();
    families.add_process(process);
    cluster.iter().for_each(|sample| families.add_sample(Vec::new(), sample));
    for core in silent {
        families.add_up(*core, false);
    }
    for snapshot in snapshots {
        families.add_up(snapshot.core, true);
        families.add_snapshot(snapshot);
    }
    TextEncoder::new().encode_to_string(&families.into_vec())
}

/// Metrics by name, and so in a fixed order.
#[derive(Default)]
struct Families {
    by_name: BTreeMap<String, MetricFamily>,
}

impl Families {
    fn add_build(&mut self) {
        let labels = vec![label("version", env!("CARGO_PKG_VERSION"))];
        self.add("quoit_build_info", "One; the label says which version this is.", gauge(labels, 1.0));
    }

    fn add_process(&mut self, process: &ProcessSample) {
        let start = gauge(Vec::new(), process.start_time_secs);
        self.add("process_start_time_seconds", "Seconds from 1970 to the start of the process.", start);
        if let Some(bytes) = process.resident_bytes {
            let metric = gauge(Vec::new(), bytes as f64);
            self.add("process_resident_memory_bytes", "Resident memory of the process.", metric);
        }
        if let Some(files) = process.open_files {
            self.add("process_open_fds", "Open file descriptors of the process.", gauge(Vec::new(), files as f64));
        }
        if let Some(bytes) = process.socket_bytes {
            let help = "Kernel memory of all TCP sockets of the node's network namespace, beside --memory.";
            self.add("quoit_kernel_socket_memory_bytes", help, gauge(Vec::new(), bytes as f64));
        }
        if let Some(secs) = process.cpu_secs {
            let help = "Seconds of CPU, user and system, that the process has used.";
            self.add("process_cpu_seconds_total", help, counter(Vec::new(), secs));
        }
    }

    fn add_up(&mut self, core: u16, up: bool) {
        let metric = gauge(vec![core_label(core)], f64::from(u8::from(up)));
        self.add("quoit_core_up", "One while the core answers the control thread.", metric);
    }

    fn add_snapshot(&mut self, snapshot: &CoreSnapshot) {
        let core = || core_label(snapshot.core);
        let cpu = gauge(vec![core()], snapshot.cpu as f64);
        self.add("quoit_core_cpu", "The CPU that the core is pinned to.", cpu);
        for (operation, status, count) in &snapshot.requests {
            let labels = vec![core(), label("operation", operation.name()), label("status", status.name())];
            let help = "Requests answered, by operation and outcome.";
            self.add("quoit_requests_total", help, counter(labels, *count as f64));
        }
        for sample in &snapshot.samples {
            self.add_sample(vec![core()], sample);
        }
        for sample in &snapshot.histograms {
            let metric = histogram(vec![core()], &sample.histogram);
            self.add(&format!("quoit_{}", sample.name), sample.help, metric);
        }
    }

    /// Adds a sample of a core, or of the whole node.
    fn add_sample(&mut self, mut labels: Vec<LabelPair>, sample: &Sample) {
        labels.extend(sample.label.map(|(name, value)| label(name, value)));
        let metric = match sample.kind {
            SampleKind::Counter => counter(labels, sample.value as f64),
            SampleKind::Gauge => gauge(labels, sample.value as f64),
        };
        self.add(&format!("quoit_{}", sample.name), sample.help, metric);
    }

    /// Adds a metric to the family of its name, which has its kind.
    fn add(&mut self, name: &str, help: &str, (kind, metric): (MetricType, Metric)) {
        let family = self.by_name.entry(name.to_owned()).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        debug_assert!(family.get_field_type() == kind, "{name} is of one kind");
        family.mut_metric().push(metric);
    }

    fn into_vec(self) -> Vec<MetricFamily> {
        self.by_name.into_values().collect()
    }
}

fn counter(labels: Vec<LabelPair>, value: f64) -> (MetricType, Metric) {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    (MetricType::COUNTER, metric)
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> (MetricType, Metric) {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    (MetricType::GAUGE, metric)
}

/// A histogram of nanoseconds in buckets of seconds. A recorded value counts as the largest that its own bucket can't
/// tell from it, so a bound never claims a value that was above it.
fn histogram(labels: Vec<LabelPair>, recorded: &Histogram<u64>) -> (MetricType, Metric) {
    let mut counts = [0u64; BUCKET_BOUNDS_NANOS.len()];
    let mut sum_nanos = 0.0;
    for step in recorded.iter_recorded() {
        let value = step.value_iterated_to();
        let count = step.count_since_last_iteration();
        sum_nanos += recorded.median_equivalent(value) as f64 * count as f64;
        if let Some(bucket) = BUCKET_BOUNDS_NANOS.iter().position(|bound| value <= *bound) {
            counts[bucket] += count;
        }
    }
    let mut cumulative = 0;
    let buckets = BUCKET_BOUNDS_NANOS.iter().zip(counts).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / NANOS_PER_SEC);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(recorded.len());
    histogram.set_sample_sum(sum_nanos / NANOS_PER_SEC);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    (MetricType::HISTOGRAM, metric)
}

fn core_label(core: u16) -> LabelPair {
    label("core", &core.to_string())
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

#[cfg(test)]
mod tests {
    use quoit_wire::{Operation, Status};

    use super::*;
    use crate::samples::HistogramSample;

    fn snapshot(core: u16, latencies_nanos: &[u64]) -> CoreSnapshot {
        let mut histogram = Histogram::new(3).expect("three digits");
        for latency in latencies_nanos {
            histogram.record(*latency).expect("auto-resizing");
        }
        let sample = |name, kind, label, value| Sample { name, help: "Help.", kind, label, value };
        CoreSnapshot {
            core,
            cpu: usize::from(core) + 2,
            requests: vec![(Operation::Get, Status::Ok, 5), (Operation::Get, Status::Miss, 2)],
            samples: vec![
                sample("evictions_total", SampleKind::Counter, Some(("cause", "policy")), 7),
                sample("evictions_total", SampleKind::Counter, Some(("cause", "pressure")), 1),
                sample("memory_used_bytes", SampleKind::Gauge, None, u64::from(core) + 4096),
            ],
            histograms: vec![HistogramSample { name: "turn_seconds", help: "Turns.", histogram }],
        }
    }

    /// Reads the text format back: every sample's value by its name with labels, and every family's type.
    fn parse(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
        let (mut values, mut kinds) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a name and a type");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} stands in one place");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                let value = value.parse().expect("a number");
                assert!(values.insert(name.to_owned(), value).is_none(), "{name} is there once");
            }
        }
        (values, kinds)
    }

    #[test]
    fn samples_of_all_cores_stand_in_one_family_each() {
        let process = ProcessSample { resident_bytes: Some(1024), ..ProcessSample::default() };
        let text = render(&[snapshot(0, &[]), snapshot(1, &[])], &[2], &[], &process).expect("valid families");
        let (values, kinds) = parse(&text);
        for (name, value) in [
            ("quoit_core_up{core=\"0\"}", 1.0),
            ("quoit_core_up{core=\"2\"}", 0.0),
            ("quoit_core_cpu{core=\"1\"}", 3.0),
            ("quoit_requests_total{core=\"1\",operation=\"get\",status=\"miss\"}", 2.0),
            ("quoit_evictions_total{core=\"0\",cause=\"policy\"}", 7.0),
            ("quoit_evictions_total{core=\"0\",cause=\"pressure\"}", 1.0),
            ("quoit_memory_used_bytes{core=\"1\"}", 4097.0),
            ("process_resident_memory_bytes", 1024.0),
        ] {
            assert_eq!(values.get(name), Some(&value), "{name} in\n{text}");
        }
        let kind = |name: &str| kinds.get(name).map(String::as_str);
        assert_eq!(kind("quoit_evictions_total"), Some("counter"));
        assert_eq!(kind("quoit_memory_used_bytes"), Some("gauge"));
        assert_eq!(kind("quoit_turn_seconds"), Some("histogram"));
        assert_eq!(kind("process_open_fds"), None, "what could not be read is left out");
    }

    #[test]
    fn a_histogram_counts_each_value_in_the_buckets_that_hold_it() {
        let latencies = [900, 40_000, 40_000, 3_000_000, 20_000_000_000];
        let text = render(&[snapshot(0, &latencies)], &[], &[], &ProcessSample::default()).expect("valid families");
        let (values, _) = parse(&text);
        let bucket = |bound: &str| values[&format!("quoit_turn_seconds_bucket{{core=\"0\",le=\"{bound}\"}}")];
        assert_eq!(bucket("0.000001"), 1.0);
        assert_eq!(bucket("0.000025"), 1.0);
        assert_eq!(bucket("0.00005"), 3.0);
        assert_eq!(bucket("0.005"), 4.0);
        assert_eq!(bucket("10"), 4.0);
        assert_eq!(bucket("+Inf"), 5.0);
        assert_eq!(values["quoit_turn_seconds_count{core=\"0\"}"], 5.0);
        let sum = values["quoit_turn_seconds_sum{core=\"0\"}"];
        assert!((sum - 20.003_080_9).abs() < 0.02, "{sum}");
    }

    #[test]
    fn bounds_rise() {
        assert!(BUCKET_BOUNDS_NANOS.is_sorted_by(|left, right| left < right));
    }
}
