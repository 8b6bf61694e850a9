//! An etcd that holds what it should not: records of another version, a damaged ring, another cluster's identity. Nodes say
//! so, keep the last good state, and write nothing.

use quoit::cluster::records::{Identity, Keys};
use serde_json::Value;

use super::etcd::Etcd;
use super::node_process::{NodeProcess, quoit};
use super::watchdog::within;
use super::{client, fill, found, present, start};

const REPLICATED: [&str; 4] = ["--replicas", "1", "--write", "one"];

/// What keeps the node from its cluster, as its status says.
fn trouble(node: &NodeProcess) -> Option<String> {
    let answer = node.http_get("/cluster");
    let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    status["trouble"].as_str().map(str::to_owned)
}

/// Puts `value` in place of what `key` has, and asserts that nodes tell `complaint`, go on, and leave it as it is; then puts
/// back what was there, and asserts that all is well.
fn assert_told_and_left_alone(key: &str, change: impl FnOnce(&[u8]) -> Vec<u8>, complaint: &str) {
    let etcd = Etcd::start();
    let nodes = found(&etcd, &["a", "b"], &REPLICATED);
    let mut client = client(nodes["a"].address);
    fill(&mut client);
    let good = etcd.value(key);
    let bad = change(&good);
    etcd.put(key, &bad);
    for node in nodes.values() {
        let is_told = || trouble(node).is_some_and(|trouble| trouble.contains(complaint));
        within("the node says what is wrong", || while !is_told() {});
        assert_eq!(node.metric("quoit_cluster_in_trouble"), 1);
    }
    // Longer than a lease: it is kept alive all the same.
    for _ in 0..20 {
        fill(&mut client);
        assert!(present(&mut client).into_iter().all(|is_there| is_there));
    }
    assert_eq!(etcd.value(key), bad, "nobody has written over it");
    etcd.put(key, &good);
    for node in nodes.values() {
        within("all is well again", || while trouble(node).is_some() {});
    }
    // The cluster changes again: one more node gets its share.
    let late = start(&etcd, "late", &REPLICATED);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    late.stop();
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn a_ring_that_does_not_parse_is_told_and_the_last_good_one_stays() {
    let damaged = |good: &[u8]| good[..good.len() / 2].to_vec();
    assert_told_and_left_alone(&Keys::new("test").head(), damaged, "a damaged record in etcd");
}

#[test]
fn another_clusters_identity_is_told_and_nothing_is_written_over_it() {
    let other = |good: &[u8]| {
        let identity = Identity::from_bytes(good).expect("it is good");
        Identity { cluster_id: identity.cluster_id ^ 1, ..identity }.to_bytes()
    };
    assert_told_and_left_alone(&Keys::new("test").identity(), other, "another cluster of this name");
}

#[test]
fn a_cluster_of_another_version_takes_no_node_and_is_left_as_it_is() {
    let etcd = Etcd::start();
    let (key, foreign) = (Keys::new("test").identity(), [99, 1, 2, 3]);
    etcd.put(&key, &foreign);
    let url = etcd.url();
    let mut command = quoit(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--memory", "128MiB"]);
    command.args(["--etcd", &url, "--cluster", "test", "--node-id", "a", "--cores", "0"]);
    let ended = within("the node ends", || command.output()).expect("the binary runs");
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && log.contains("format 99") && log.contains("one version"), "{log}");
    assert_eq!(etcd.value(&key), foreign);
}
