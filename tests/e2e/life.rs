//! Ends and restarts under load.

use quoit_wire::{HelloParameters, RequestBody, RequestOptions, Status};

use crate::generator::Generator;
use crate::node_process::NodeProcess;
use crate::wire_client::WireClient;
use crate::{two_cores, whole_machine};

/// Requests on their way when the node is told to end: more than are answered in a turn.
const IN_FLIGHT: usize = 5000;
/// Requests that say that the generator is at work.
const WARM_REQUESTS: u64 = 5000;
/// Far longer than the test takes: the node's end ends the generator.
const GENERATOR: &[&str] = &[
    "--verify",
    "--duration",
    "10m",
    "--connections",
    "32",
    "--pipeline",
    "4",
    "--keys",
    "10000",
    "--set-ratio",
    "0.3",
    "--delete-ratio",
    "0.05",
    "--route",
    "any",
];

/// A node on `listen`, and a generator that is at work on it.
fn loaded_node(listen: &str) -> (NodeProcess, Generator) {
    let node = NodeProcess::start_on(listen, &["--cores", two_cores(), "--memory", "128MiB", "--eviction", "none"]);
    let generator = Generator::start("run", node.address, GENERATOR);
    // Each look is a round trip; the metric is there from the first request on.
    while !node.http_get("/metrics").contains("quoit_requests_total{") {}
    while node.metric("quoit_requests_total") < WARM_REQUESTS {}
    (node, generator)
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> RequestBody<'a> {
    RequestBody::Set { key, parameters: Default::default(), condition: Default::default(), value }
}

#[test]
fn sigterm_under_load_answers_what_was_received_and_the_port_is_free_at_once() {
    let _machine = whole_machine();
    let (mut node, generator) = loaded_node("127.0.0.1:0");
    let mut client = WireClient::connect(node.address, HelloParameters::ANY_CORE);
    let mut unanswered: Vec<bool> = vec![true; IN_FLIGHT];
    let first_id = client.send(&set(b"0", b"value"), RequestOptions::default());
    for number in 1..IN_FLIGHT {
        client.send(&set(number.to_string().as_bytes(), b"value"), RequestOptions::default());
    }
    node.signal(libc::SIGTERM);
    while let Some(answer) = client.receive() {
        assert!(matches!(answer.status, Status::Ok | Status::ShuttingDown), "{answer:?}");
        let number = (answer.id - first_id) as usize;
        assert!(std::mem::take(&mut unanswered[number]), "request {number} was answered twice");
    }
    let lost = unanswered.iter().filter(|unanswered| **unanswered).count();
    assert_eq!(lost, 0, "requests that were sent before the signal and got no answer");
    let (code, log) = node.wait();
    assert_eq!(code, Some(0), "{log}");

    let again = NodeProcess::start_on(&node.address.to_string(), &["--cores", two_cores(), "--memory", "128MiB"]);
    let mut client = WireClient::connect(again.address, HelloParameters::ANY_CORE);
    assert_eq!(client.call(&RequestBody::Get { key: b"1" }).status, Status::Miss, "a new node is empty");
    again.stop();

    let report = generator.finish();
    assert_eq!(report.number("error_kinds/wrong"), 0, "{}", report.text);
    assert!(!report.is_clean, "the generator says that its server went:\n{}", report.text);
}

#[test]
fn a_node_killed_under_load_starts_again_at_once_on_its_port() {
    let _machine = whole_machine();
    let mut address = "127.0.0.1:0".to_owned();
    for _ in 0..3 {
        let (mut node, generator) = loaded_node(&address);
        address = node.address.to_string();
        node.signal(libc::SIGKILL);
        assert_eq!(node.wait().0, None, "a signal has ended it");
        let again = NodeProcess::start_on(&address, &["--cores", two_cores(), "--memory", "128MiB"]);
        let mut client = WireClient::connect(again.address, HelloParameters::ANY_CORE);
        assert_eq!(client.call(&set(b"key", b"value")).status, Status::Ok);
        again.stop();
        assert_eq!(generator.finish().number("error_kinds/wrong"), 0);
    }
}

#[test]
fn memory_is_touched_before_the_first_request_where_that_is_wanted() {
    let _machine = whole_machine();
    let options = ["--cores", "0", "--memory", "192MiB"];
    let peak_mib = |more: &[&str]| {
        let node = NodeProcess::start_on("127.0.0.1:0", &[&options, more].concat());
        let peak_mib = node.resident_bytes_peak() >> 20;
        node.stop();
        peak_mib
    };
    // What is not an item's, buffers above all, is touched when it is used.
    let (untouched, touched) = (peak_mib(&[]), peak_mib(&["--prefault"]));
    assert!(untouched < 64, "{untouched} MiB of a node that holds nothing");
    assert!((150..224).contains(&touched), "{touched} MiB with --prefault");
}
