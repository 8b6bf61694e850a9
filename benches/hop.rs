//! What a request to the wrong core costs: the hop over the mesh, in process, with two spinning cores and no other load.
//!
//! `cargo bench --bench hop -- [requests]`. One client asks core 0 for a key of core 1, one request at a time. The hop's time
//! is the node's own histogram (`quoit_mesh_hop_duration_seconds`): from handing the request over to having its reply.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(dead_code, clippy::disallowed_methods, reason = "the helpers of the tests are shared")]

#[path = "../tests/runtime/running.rs"]
mod running;
#[path = "../tests/watchdog/mod.rs"]
mod watchdog;
#[path = "../tests/wire_client/mod.rs"]
mod wire_client;

use quoit::runtime::Idle;
use quoit_wire::{RequestBody, Status};
use running::{Running, set};
use wire_client::WireClient;

const REQUESTS_DEFAULT: usize = 200_000;

fn main() {
    // Cargo passes `--bench` along.
    let requests = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(REQUESTS_DEFAULT);
    let node = Running::with(2, |options| options.idle = Idle::Spin);
    let key = node.key(1, 0);
    let mut client = WireClient::connect(node.address(), 0);
    assert_eq!(client.call(&set(&key, &[7; 64])).status, Status::Ok);
    for _ in 0..requests {
        assert_eq!(client.call(&RequestBody::Get { key: &key }).status, Status::Ok);
    }
    let snapshots = node.snapshots();
    let hops = snapshots[0].histograms.iter().find(|histogram| histogram.name == "mesh_hop_duration_seconds");
    let Some(hops) = hops.map(|hops| &hops.histogram) else { return };
    let micros = |quantile| hops.value_at_quantile(quantile) as f64 / 1000.0;
    let (p50, p90, p99, p999) = (micros(0.5), micros(0.9), micros(0.99), micros(0.999));
    println!("{} hops: p50 {p50:.2} µs, p90 {p90:.2} µs, p99 {p99:.2} µs, p99.9 {p999:.2} µs", hops.len());
}
