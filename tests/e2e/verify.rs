//! Verified traffic over two cores: nothing stale, nothing wrong, nothing lost, and memory within its cap.
//!
//! Two generators load a node at once. One writes many small values, half of its requests going to the core that does not
//! own the key; the other values that are received into the arena and sent from where they lie there, through the owner.
//! Both read, set, delete, count and let items expire, and check every byte that comes back.

use crate::generator::Generator;
use crate::node_process::NodeProcess;
use crate::{two_cores, whole_machine};

/// What a node may have resident beyond `--memory`: the program, its heap, the admin HTTP; and for each core its stack, its
/// rings and histograms, and what the allocator has lost between buffers. README.md states it to users.
/// Measured with two cores, full: 18 MiB over with 2,000 deep pipelines of values of 16 KiB on average over hops.
pub(crate) const BESIDE_MEMORY_BYTES: u64 = 8 << 20;
pub(crate) const BESIDE_MEMORY_BYTES_PER_CORE: u64 = 12 << 20;
const CORES: u64 = 2;

/// How long the short runs last, in requests: on a busy machine they take longer, and prove the same.
const SHORT: [&[&str]; 2] = [&["--requests", "100000"], &["--requests", "30000"]];
/// How long each of many runs lasts that differ in one thing.
const GLANCE: [&[&str]; 2] = [&["--requests", "6000"], &["--requests", "1500"]];
/// How long the soaks last.
const LONG: [&[&str]; 2] = [&["--duration", "60s"]; 2];

/// Values that nobody asks for again, half as much again as a node of 64 MiB holds.
const FILLING: &[&str] = &["--keys", "1000", "--key-size", "24", "--value-size", "64KiB", "--connections", "8"];

/// Values of 24 bytes, the least that can be verified, to 4 KiB. The counters beside them are values of 1 byte and more.
const SMALL_VALUES: &[&str] =
    &["--keys", "30000", "--key-size", "16", "--value-size", "24-4KiB", "--connections", "32", "--route", "any"];
/// Values of up to 72 KiB: most are larger than what is received in place (32 KiB) and sent in place (4 KiB).
const LARGE_VALUES: &[&str] = &["--keys", "1500", "--key-size", "20", "--value-size", "24-72KiB", "--connections", "8"];
/// Far more under way than the buffers hold: with 2,000 connections 500 MB of replies are asked for at a time.
const DEEP_PIPELINES: &[&str] =
    &["--pipeline", "16", "--keys", "2000", "--value-size", "64-32KiB", "--set-ratio", "0.2", "--route", "any"];
/// Half of the sets expire within the time to live.
const MIX: &[&str] = &[
    "--verify",
    "--pipeline",
    "4",
    "--set-ratio",
    "0.3",
    "--delete-ratio",
    "0.05",
    "--incr-ratio",
    "0.05",
    "--ttl",
    "500ms",
];

#[test]
fn verified_traffic_with_evictions() {
    evicting("s3-fifo", SHORT);
}

#[test]
fn verified_traffic_without_evictions() {
    without_evictions(SHORT);
}

#[test]
fn verified_traffic_with_every_policy_and_every_way_to_wait() {
    let _machine = whole_machine();
    for policy in ["s3-fifo", "lru", "lfu", "sieve", "ttl", "none"] {
        for idle in ["adaptive", "park", "spin", "30"] {
            let evicts = policy != "none";
            let memory = if evicts { "64MiB" } else { "256MiB" };
            let arguments = ["--cores", two_cores(), "--memory", memory, "--eviction", policy, "--idle", idle];
            let node = NodeProcess::start_on("127.0.0.1:0", &arguments);
            if evicts {
                let filled = Generator::start("fill", node.address, FILLING).finish();
                assert!(filled.is_clean, "{}", filled.text);
            }
            load(&node, GLANCE, if evicts { &[] } else { &["--no-evictions"] });
            assert_eq!(node.metric("quoit_evictions_total") > 0, evicts, "{policy}, --idle {idle}");
            node.stop();
        }
    }
}

#[test]
fn deep_pipelines_over_hops_stay_within_the_memory() {
    deep_pipelines(&["--connections", "250", "--requests", "12000"]);
}

#[test]
#[ignore = "a minute for each policy: make soak"]
fn soak_verified_traffic_with_evictions() {
    for policy in ["s3-fifo", "lru"] {
        evicting(policy, LONG);
    }
}

#[test]
#[ignore = "a minute: make soak"]
fn soak_verified_traffic_without_evictions() {
    without_evictions(LONG);
}

#[test]
#[ignore = "2,000 connections for half a minute: make soak"]
fn soak_two_thousand_deep_pipelines_over_hops_stay_within_the_memory() {
    deep_pipelines(&["--connections", "2000", "--duration", "30s"]);
}

/// Far more replies asked for at a time than the buffers hold.
fn deep_pipelines(extent: &[&str]) {
    let _machine = whole_machine();
    let node = NodeProcess::start_on("127.0.0.1:0", &["--cores", two_cores(), "--memory", "64MiB"]);
    let report = Generator::start("run", node.address, &[DEEP_PIPELINES, extent].concat()).finish();
    println!("{}", report.text);
    assert!(report.is_clean && report.number("errors") == 0, "{}", report.text);
    assert!(node.metric("quoit_connection_stalls_total") > 0, "nobody ever waited: this proves nothing");
    finish(node, "deep pipelines", 64 << 20);
}

/// A node that is far too small for what is written to it.
fn evicting(policy: &str, extent: [&[&str]; 2]) {
    let _machine = whole_machine();
    let node =
        NodeProcess::start_on("127.0.0.1:0", &["--cores", two_cores(), "--memory", "64MiB", "--eviction", policy]);
    // Full before it begins, so that everything written evicts something.
    let filled = Generator::start("fill", node.address, FILLING).finish();
    assert!(filled.is_clean, "{}", filled.text);
    let evictions_before = node.metric("quoit_evictions_total");
    assert!(evictions_before > 0, "the node was to be too small");
    load(&node, extent, &[]);
    assert!(node.metric("quoit_expirations_total") > 0, "the traffic was to expire");
    let evictions = node.metric("quoit_evictions_total") - evictions_before;
    assert!(evictions > 100, "{evictions} evictions: the node was to be too small");
    finish(node, policy, 64 << 20);
}

/// A node with room for everything: a live key that is missed is lost.
fn without_evictions(extent: [&[&str]; 2]) {
    let _machine = whole_machine();
    let node =
        NodeProcess::start_on("127.0.0.1:0", &["--cores", two_cores(), "--memory", "256MiB", "--eviction", "none"]);
    load(&node, extent, &["--no-evictions"]);
    assert!(node.metric("quoit_expirations_total") > 0, "the traffic was to expire");
    assert_eq!(node.metric("quoit_evictions_total"), 0);
    finish(node, "none", 256 << 20);
}

/// Puts both kinds of traffic on the node to the `extent` of each and asserts that every reply was right.
fn load(node: &NodeProcess, extent: [&[&str]; 2], more: &[&str]) {
    let start = |traffic, extent| Generator::start("run", node.address, &[traffic, MIX, extent, more].concat());
    let generators = [start(SMALL_VALUES, extent[0]), start(LARGE_VALUES, extent[1])];
    for report in generators.map(Generator::finish) {
        println!("{}", report.text);
        assert!(report.is_clean && report.number("errors") == 0, "{}", report.text);
        assert!(report.number("requests") > 1000 && report.fraction("hit_ratio") > 0.05, "{}", report.text);
    }
    assert!(node.metric("quoit_requests_forwarded_total") > 0, "the traffic was to go over hops");
}

/// Asserts that the node's memory was never over its cap and ends it.
fn finish(node: NodeProcess, policy: &str, memory_bytes: u64) {
    let peak_bytes = node.resident_bytes_peak();
    println!(
        "{policy}: resident at most {:.1} MiB, --memory {} MiB and {:.1} MiB",
        peak_bytes as f64 / f64::from(1 << 20),
        memory_bytes >> 20,
        (peak_bytes as f64 - memory_bytes as f64) / f64::from(1 << 20),
    );
    let most_bytes = memory_bytes + BESIDE_MEMORY_BYTES + CORES * BESIDE_MEMORY_BYTES_PER_CORE;
    assert!(peak_bytes <= most_bytes, "{peak_bytes} bytes were resident, with --memory {memory_bytes}");
    node.stop();
}
