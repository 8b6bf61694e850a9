//! What operators do: `quoit cluster …` against real nodes, while requests go on; and what a lost etcd leaves of them.

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use quoit_client::{Request, WriteMode};
use serde_json::Value;

use super::etcd::Etcd;
use super::node_process::{NodeProcess, quoit};
use super::{KEYS, client, fill, found, key, present, start, watchdog};

const REPLICATED: [&str; 4] = ["--replicas", "1", "--write", "one"];

/// Runs `quoit cluster …` against a node; exit code, standard output, standard error.
fn cluster(node: &NodeProcess, arguments: &[&str]) -> (Option<i32>, String, String) {
    let admin = node.admin.to_string();
    let mut command = quoit(&[&["cluster"], arguments, &["--admin", &admin, "--timeout", "60s"]].concat());
    let Output { status, stdout, stderr } =
        watchdog::within("the command ends", || command.output()).expect("the binary runs");
    (status.code(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
}

fn status(node: &NodeProcess) -> Value {
    let (code, output, error) = cluster(node, &["status", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    serde_json::from_str(&output).expect("JSON")
}

/// The row of a node in a status.
fn row(status: &Value, name: &str) -> Value {
    let rows = status["nodes"].as_array().expect("a list");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name} in {status}")).clone()
}

#[test]
fn a_drained_node_has_nothing_any_more_and_its_loss_costs_nothing() {
    let etcd = Etcd::start();
    let mut nodes = found(&etcd, &["a", "b", "c"], &REPLICATED);
    let (_, table, _) = cluster(&nodes["a"], &["status"]);
    assert!(table.contains("cluster test, epoch 1: 64 vnodes, 1 replica, writes wait for one copy"), "{table}");
    assert!(["a", "b", "c"].iter().all(|name| table.lines().any(|line| line.starts_with(name))), "{table}");
    let address = nodes["b"].address;
    fill(&mut client(address));

    // Requests go on while the node is drained, and none fails.
    let is_over = AtomicBool::new(false);
    let (code, _, told) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = client(address);
            while !is_over.load(Ordering::Relaxed) {
                fill(&mut client);
                assert!(present(&mut client).into_iter().all(|is_there| is_there));
            }
        });
        let ended = cluster(&nodes["a"], &["drain", "c"]);
        is_over.store(true, Ordering::Relaxed);
        ended
    });
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("still to give away") && told.contains("c is drained"), "{told}");
    let drained = row(&status(&nodes["b"]), "c");
    assert_eq!((&drained["state"], &drained["leads"], &drained["in_sync"]), (&"drained".into(), &0.into(), &0.into()));
    assert!(nodes["a"].metric("quoit_moves_total") + nodes["b"].metric("quoit_moves_total") > 0);
    assert_eq!(nodes["b"].metric("quoit_cluster_nodes"), 3);
    assert_eq!(nodes["c"].metric("quoit_vnodes_led"), 0);
    let vnodes = nodes["a"].http_get("/cluster/vnodes");
    let vnodes: Value = serde_json::from_str(vnodes.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    assert_eq!(vnodes.as_array().expect("a list").len(), 64, "it leads each vnode or has a copy of it");
    assert!(vnodes[0]["copies"].is_array() && vnodes[0]["role"].is_string(), "{}", vnodes[0]);
    let (code, _, why) = cluster(&nodes["b"], &["drain", "a"]);
    assert_eq!(code, Some(1));
    assert!(why.contains("too few nodes, 1 for 2 copies"), "{why}");

    let lost = nodes.remove("c").expect("it is there");
    lost.signal(libc::SIGKILL);
    drop(lost);
    let mut client = client(address);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));

    // Its next life is drained, too, until somebody wants it to serve.
    nodes.insert("c".to_owned(), start(&etcd, "c", &REPLICATED));
    assert_eq!(row(&status(&nodes["a"]), "c")["leads"], 0);
    assert_eq!(cluster(&nodes["a"], &["undrain", "c"]).0, Some(0));
    while row(&status(&nodes["a"]), "c")["leads"] == 0 {
        assert!(present(&mut client).into_iter().all(|is_there| is_there));
    }
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn weights_are_given_and_taken_back() {
    let etcd = Etcd::start();
    let nodes = found(&etcd, &["a", "b"], &["--replicas", "0"]);
    let mut client = client(nodes["b"].address);
    fill(&mut client);
    let leads = |name: &str| row(&status(&nodes["b"]), name)["leads"].as_u64().expect("a number");
    assert_eq!((leads("a"), leads("b")), (32, 32));
    let (code, _, error) = cluster(&nodes["a"], &["rebalance", "a=3"]);
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(leads("a"), 48, "rebalance has waited for it");
    assert_eq!(row(&status(&nodes["a"]), "a")["weight"], 3);
    assert!(present(&mut client).into_iter().all(|is_there| is_there), "what moved was not lost");
    assert_eq!(cluster(&nodes["b"], &["rebalance", "a=own"]).0, Some(0));
    assert_eq!(leads("a"), 32);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    let (code, _, error) = cluster(&nodes["b"], &["rebalance", "nobody=2"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("there are a, b"), "{error}");
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn without_etcd_reads_are_marked_stale_async_writes_are_taken_and_others_refused() {
    let mut etcd = Etcd::start();
    let nodes = found(&etcd, &["a", "b"], &REPLICATED);
    let mut client = client(nodes["a"].address);
    fill(&mut client);
    let any = client.run([Request::get(key(1)).from_any_copy()]).remove(0).into_one().expect("a copy answers");
    assert_eq!(any.value, b"1");
    etcd.kill();
    // Until the leases are over reads are good; then they are marked, and none fails in between.
    while !client.get(key(1)).expect("reads are answered").expect("it is there").is_stale {}
    let stale =
        (0..KEYS).filter(|number| client.get(key(*number)).expect("an answer").expect("a hit").is_stale).count();
    assert_eq!(stale, KEYS);
    let set = |mode| Request::set(key(1), "new", Default::default()).with_write_mode(mode);
    let taken = client.run([set(WriteMode::Async)]).remove(0).into_one();
    assert!(taken.is_ok(), "{taken:?}");
    etcd.restart();
    while client.get(key(1)).expect("reads are answered").expect("it is there").is_stale {}
    let safe = client.run([set(WriteMode::One)]).remove(0).into_one();
    assert!(safe.is_ok(), "{safe:?}");
    assert!((0..KEYS).all(|number| !client.get(key(number)).expect("an answer").expect("a hit").is_stale));
    nodes.into_values().for_each(NodeProcess::stop);
}
