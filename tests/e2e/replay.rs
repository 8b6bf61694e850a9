//! Traces played against a real node: what must be found is found, and hit ratios are those of an exact-size simulation.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::generator::{Generator, Report};
use crate::node_process::NodeProcess;
use crate::{two_cores, whole_machine};

/// Names the real trace, which is not part of the repository: benches/README.md says where it is to be had.
const TRACE_VARIABLE: &str = "QUOIT_TRACE";
/// Its requests.
const CLOUDPHYSICS_REQUESTS: u64 = 113_872;
/// What libCacheSim finds in it with S3-FIFO and 256 MiB for objects alone (benches/README.md).
const CLOUDPHYSICS_HIT_RATIO: f64 = 0.2894;
/// A node's 256 MiB hold keys, index and buffers too: 2.1 points. What forgets more than it should loses more than that.
const HIT_RATIO_BELOW_MAX: f64 = 0.025;

/// Several requests at once: on a busy machine a round trip for each of a hundred thousand takes minutes.
const DEEP: &[&str] = &["--pipeline", "16"];

/// A file of the test, removed with it.
struct TraceFile(PathBuf);

impl TraceFile {
    /// Writes records of (object, bytes), with the next access that a trace has.
    fn write(name: &str, records: &[(u64, u32)]) -> Self {
        let mut bytes = Vec::with_capacity(records.len() * 24);
        for (position, (object, size_bytes)) in records.iter().enumerate() {
            let next = records[position + 1..].iter().position(|(other, _)| other == object);
            let next = next.map_or(-1, |distance| (position + 2 + distance) as i64);
            bytes.extend((position as u32).to_le_bytes());
            bytes.extend(object.to_le_bytes());
            bytes.extend(size_bytes.to_le_bytes());
            bytes.extend(next.to_le_bytes());
        }
        let path = std::env::temp_dir().join(format!("quoit-e2e-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("a file for the test");
        Self(path)
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        // A file too many in the folder for temporary ones fails no test.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn replay(node: &NodeProcess, trace: &Path, more: &[&str]) -> Report {
    let trace = trace.to_str().expect("a path of plain letters");
    let report = Generator::start("replay", node.address, &[&["--trace", trace], more].concat()).finish();
    println!("{}", report.text);
    assert!(report.is_clean, "{}", report.text);
    report
}

#[test]
fn a_trace_finds_what_it_has_asked_for_before() {
    let _machine = whole_machine();
    let node = NodeProcess::start(&["--cores", two_cores()]);
    // Every size from nothing over what lies in an item, in blocks, to more than the node takes; all twice.
    let sizes = [0, 1, 511, 512, 4096, 8191, 8192, 8193, 40_000, 65_536, 69_632, 1 << 20, 64 << 20];
    let records: Vec<_> = (0..2).flat_map(|_| (0..1300).map(|object| (object, sizes[object as usize % 13]))).collect();
    // Only the first hundred of the 1 MiB ones would fit beside the rest; one is enough.
    let records: Vec<_> = records.into_iter().filter(|(object, size)| *size != 1 << 20 || *object < 13).collect();
    let trace = TraceFile::write("twice", &records);
    let report = replay(&node, &trace.0, &[]);
    let fits = records.iter().filter(|(_, size)| *size <= 1 << 20).count() as u64;
    let bytes: u64 = records.iter().map(|(_, size)| u64::from(*size)).sum();
    let fitting_bytes: u64 = records.iter().map(|(_, size)| u64::from(*size)).filter(|size| *size <= 1 << 20).sum();
    assert_eq!(report.number("trace_requests"), records.len() as u64);
    assert_eq!(report.number("trace_hits"), fits / 2, "the second time all that fits is found: {}", report.text);
    assert_eq!(report.number("objects_too_large"), records.len() as u64 - fits);
    assert_eq!(report.number("trace_bytes"), bytes);
    assert_eq!(report.number("trace_hit_bytes"), fitting_bytes / 2);
    assert_eq!(node.metric("quoit_evictions_total"), 0);
    node.stop();
}

#[test]
fn objects_that_are_asked_for_often_outlive_a_scan() {
    let _machine = whole_machine();
    let node = NodeProcess::start_on("127.0.0.1:0", &["--cores", "0", "--memory", "64MiB", "--eviction", "s3-fifo"]);
    // 8 MiB asked for again and again between 12 MiB that are asked for once, eight times: 96 MiB that nobody needs.
    let popular = || (0..128).map(|object| (object, 64 << 10));
    let scan = |round: u64| (0..192).map(move |object| (1_000_000 + round * 1000 + object, 64 << 10));
    let records: Vec<_> = popular().chain((0..8).flat_map(|round| popular().chain(scan(round)))).collect();
    let trace = TraceFile::write("scan", &records);
    let report = replay(&node, &trace.0, &[]);
    assert!(node.metric("quoit_evictions_total") > 500, "the scans were to be too large for the node");
    let hits = report.number("trace_hits");
    assert!((8 * 128 * 95 / 100..=8 * 128).contains(&hits), "{hits} of {} hits", 8 * 128);
    node.stop();
}

#[test]
fn a_real_trace_is_found_as_often_as_an_exact_simulation_finds_it() {
    let Some(trace) = std::env::var_os(TRACE_VARIABLE).filter(|path| !path.is_empty()) else {
        // Straight to standard error, which the test harness does not keep to itself.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: no real trace; {TRACE_VARIABLE}=FILE names one (benches/README.md)");
        return;
    };
    let trace = Path::new(env!("CARGO_MANIFEST_DIR")).join(trace);
    let _machine = whole_machine();
    let node = NodeProcess::start_on("127.0.0.1:0", &["--cores", "0", "--memory", "256MiB", "--eviction", "s3-fifo"]);
    let report = replay(&node, &trace, DEEP);
    assert_eq!(report.number("trace_requests"), CLOUDPHYSICS_REQUESTS);
    assert_eq!(report.number("objects_too_large"), 0);
    let hit_ratio = report.number("trace_hits") as f64 / CLOUDPHYSICS_REQUESTS as f64;
    assert!(hit_ratio >= CLOUDPHYSICS_HIT_RATIO - HIT_RATIO_BELOW_MAX, "{hit_ratio}: {}", report.text);
    node.stop();
}
