//! Samples: how any part of a core tells its counters to the outside.
//!
//! Each part keeps plain integers and, when asked, lists them with name and help. `/metrics`, the stats operation and the
//! command line all render this one list, so a counter is named in one place: beside the code that counts.

use hdrhistogram::Histogram;
use quoit_wire::{Operation, Status};

/// Whether a sample only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// Only rises while the process lives.
    Counter,
    /// May fall.
    Gauge,
}

/// One counter or gauge of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Name without the prefix `quoit_`; counters end in `_total`, units stand at the end (`_bytes`).
    pub name: &'static str,
    /// One sentence for `/metrics`.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: SampleKind,
    /// One label, where samples of a name differ: `("cause", "policy")`.
    pub label: Option<(&'static str, &'static str)>,
    /// The value now.
    pub value: u64,
}

/// One latency histogram of one core, in nanoseconds.
#[derive(Clone, Debug)]
pub struct HistogramSample {
    /// Name without prefix; ends in `_seconds`, the unit it is shown in.
    pub name: &'static str,
    /// One sentence for `/metrics`.
    pub help: &'static str,
    /// Nanoseconds.
    pub histogram: Histogram<u64>,
}

/// Everything one core tells about itself at one moment.
#[derive(Clone, Debug)]
pub struct CoreSnapshot {
    /// Index of the core within the node.
    pub core: u16,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Requests answered, by operation and status; only those that occurred.
    pub requests: Vec<(Operation, Status, u64)>,
    /// Counters and gauges.
    pub samples: Vec<Sample>,
    /// Latency histograms.
    pub histograms: Vec<HistogramSample>,
}
