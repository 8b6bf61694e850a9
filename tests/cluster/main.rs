//! A cluster of real processes and a real etcd: here what it promises without replicas, in `replicas` with them. `world` puts
//! verified load beside, and `kills`, `silence`, `moves` and `etcd_loss` let things happen to it.

#![expect(clippy::print_stdout, reason = "figures, which make test shows")]

mod bad_etcd;
#[path = "../children/mod.rs"]
mod children;
mod etcd;
mod etcd_loss;
#[path = "../generator/mod.rs"]
mod generator;
mod jumping_clock;
mod kills;
mod moves;
mod namespaces;
#[path = "../node_process/mod.rs"]
mod node_process;
mod operate;
mod replicas;
mod secured;
mod several;
mod silence;
mod slow_etcd;
mod slow_link;
#[path = "../watchdog/mod.rs"]
mod watchdog;
#[path = "../wire_client/mod.rs"]
mod wire_client;
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use etcd::Etcd;
use node_process::NodeProcess;
use quoit_client::blocking::Client;
use quoit_client::{Options, SetOptions};

const KEYS: usize = 600;

/// The machine of the test may be busy with others; a node that is lost is waited for by 12 seconds and a lease.
fn patient() -> Options {
    Options { deadline: Duration::from_secs(50), stall_limit: Duration::from_secs(2), ..Options::default() }
}

fn client(seed: SocketAddr) -> Client {
    Client::connect([seed.to_string()], patient()).expect("a node answers")
}

fn start(etcd: &Etcd, name: &str, options: &[&str]) -> NodeProcess {
    let url = etcd.url();
    let cluster = ["--etcd", &url, "--cluster", "test", "--node-id", name, "--cores", "0", "--vnodes", "64"];
    NodeProcess::start(&[&cluster, options].concat())
}

/// Nodes that find a cluster together.
fn found(etcd: &Etcd, names: &[&str], options: &[&str]) -> BTreeMap<String, NodeProcess> {
    thread::scope(|scope| {
        let start = |name| move || start(etcd, name, options);
        let starts: Vec<_> = names.iter().map(|name| (*name, scope.spawn(start(name)))).collect();
        starts.into_iter().map(|(name, node)| (name.to_owned(), node.join().expect("the node starts"))).collect()
    })
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn fill(client: &mut Client) {
    for number in 0..KEYS {
        client.set(key(number), number.to_string(), SetOptions::default()).expect("a set succeeds");
    }
}

/// Which keys are there; what is there has its own value.
fn present(client: &mut Client) -> Vec<bool> {
    let is_there = |number| {
        let hit = client.get(key(number)).expect("a get succeeds");
        if let Some(hit) = &hit {
            assert_eq!(hit.value, number.to_string().into_bytes());
        }
        hit.is_some()
    };
    (0..KEYS).map(is_there).collect()
}

/// The addresses of the nodes that own vnodes, by the topology of this one; and the epoch.
fn owners(node: &NodeProcess) -> (Vec<String>, u64) {
    let answer = node.http_get("/topology");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let topology: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let nodes: Vec<String> = topology["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|node| node["address"].as_str().expect("a text").to_owned())
        .collect();
    let mut owners: Vec<String> = topology["vnodes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|vnode| nodes[vnode["primary"][0].as_u64().expect("a number") as usize].clone())
        .collect();
    owners.sort();
    owners.dedup();
    (owners, topology["epoch"].as_u64().expect("a number"))
}

#[test]
fn three_nodes_share_the_keys_and_a_killed_one_takes_its_own_share_and_no_more() {
    let etcd = Etcd::start();
    let mut nodes = found(&etcd, &["a", "b", "c"], &["--replicas", "0"]);
    let (at_first, epoch) = owners(&nodes["a"]);
    assert_eq!(at_first.len(), 3, "each node has a share");
    let mut client = client(nodes["b"].address);
    fill(&mut client);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));

    let lost = nodes.remove("c").expect("it is there");
    let address = lost.address.to_string();
    lost.signal(libc::SIGKILL);
    drop(lost);
    // Every request is answered: those of the lost share when others have taken it over.
    let there = present(&mut client);
    let left = there.iter().filter(|is_there| **is_there).count();
    assert!((KEYS / 2..KEYS * 5 / 6).contains(&left), "{left} of {KEYS}: a third is lost");
    let (after, later_epoch) = owners(&nodes["a"]);
    assert!(!after.contains(&address) && after.len() == 2 && later_epoch > epoch, "{after:?}");
    fill(&mut client);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn the_loss_of_etcd_changes_nothing_and_its_return_neither() {
    let mut etcd = Etcd::start();
    let nodes = found(&etcd, &["a", "b"], &["--replicas", "0"]);
    let before = owners(&nodes["a"]);
    let mut client = client(nodes["a"].address);
    fill(&mut client);
    etcd.kill();
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    fill(&mut client);
    etcd.restart();
    // A node that comes after etcd has come back finds the cluster as it was.
    let late = start(&etcd, "late", &["--replicas", "0"]);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    // The late one may have got some of its share by now; nobody else has lost what it had.
    let (after, _) = owners(&late);
    assert!(before.0.iter().all(|owner| after.contains(owner)), "{after:?} lead, {before:?} before");
    late.stop();
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn a_second_node_of_one_name_stays_out_and_says_why() {
    let etcd = Etcd::start();
    let nodes = found(&etcd, &["a"], &["--replicas", "0"]);
    let url = etcd.url();
    let mut second = node_process::quoit(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    second
        .args(["--memory", "128MiB", "--etcd", &url, "--cluster", "test", "--node-id", "a", "--cores", "0"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut second = children::spawn(second).expect("the binary runs");
    let log = std::io::BufReader::new(second.stderr.take().expect("piped"));
    let complaint = watchdog::within("the second node complains", || {
        std::io::BufRead::lines(log).map_while(Result::ok).find(|line| line.contains("is in use by the node at"))
    });
    let complaint = complaint.expect("the log says so");
    assert!(complaint.contains("--node-id"), "{complaint}");
    second.kill().expect("it runs");
    second.wait().expect("a child");
    let mut client = client(nodes["a"].address);
    fill(&mut client);
    nodes.into_values().for_each(NodeProcess::stop);
}
