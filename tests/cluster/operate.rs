//! What operators do: `quoit cluster …` against real nodes, while requests go on; and what a lost etcd leaves of them.

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use quoit_client::blocking::Client;
use quoit_client::{Options, Request, WriteMode};
use serde_json::Value;

use super::etcd::Etcd;
use super::node_process::{NodeProcess, quoit};
use super::watchdog::within;
use super::{KEYS, client, fill, found, key, present, start};

const REPLICATED: [&str; 4] = ["--replicas", "1", "--write", "one"];

/// Time of a client that wants to hear a refusal, and not wait until it is over.
const HASTE: Duration = Duration::from_millis(300);

/// Runs `quoit cluster …` against a node; exit code, standard output, standard error.
fn cluster(node: &NodeProcess, arguments: &[&str]) -> (Option<i32>, String, String) {
    let admin = node.admin.to_string();
    let mut command = quoit(&[&["cluster"], arguments, &["--admin", &admin, "--timeout", "60s"]].concat());
    let Output { status, stdout, stderr } = within("the command ends", || command.output()).expect("the binary runs");
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
fn a_status_tells_how_far_copies_lag_and_who_is_silent() {
    let etcd = Etcd::start();
    let nodes = found(&etcd, &["a", "b", "c"], &["--replicas", "2", "--write", "async", "--lease", "20s"]);
    let mut client = client(nodes["a"].address);
    fill(&mut client);
    let topology = client.topology().expect("a node answers");
    let named = |name: &str| topology.nodes.iter().position(|node| node.name == name).expect("it has its name") as u16;
    // Of a vnode that another node leads, and of which c has a copy, as of all.
    let key =
        (0..KEYS).map(key).find(|key| topology.owner(key.as_bytes()).node != named("c")).expect("others lead some");
    let (silent, lag) = ("silent", |status: &Value| row(status, "c")["lag_writes"].as_u64().expect("a number"));
    nodes["c"].signal(libc::SIGSTOP);
    let mut written = 0;
    let told = loop {
        client.set(&key, "value", Default::default()).expect("it waits for no copy");
        written += 1;
        let status = status(&nodes["a"]);
        if row(&status, "c")[silent] == true && lag(&status) > 0 {
            break status;
        }
    };
    // Of those that filled the node some may have been on their way to it, too.
    assert!(lag(&told) <= written + KEYS as u64 && row(&told, "c")["lag_bytes"].as_u64() > Some(0), "{told}");
    assert_eq!((row(&told, "a")[silent].clone(), row(&told, "b")[silent].clone()), (false.into(), false.into()));
    let (_, table, _) = cluster(&nodes["b"], &["status"]);
    assert!(table.contains("no word from c: "), "{table}");
    assert_eq!(nodes["b"].metric("quoit_cluster_nodes_silent"), 1);
    nodes["c"].signal(libc::SIGCONT);
    let lags = || lag(&status(&nodes["a"])) > 0 || row(&status(&nodes["a"]), "c")[silent] == true;
    within("the copies have caught up", || while lags() {});
    assert!(nodes["c"].http_get("/topology").contains("\"lag_writes\":0"));
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
    let (code, _, error) = cluster(&nodes["b"], &["rebalance", "a=7", "nobody=2"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("there are a, b"), "{error}");
    assert_eq!(row(&status(&nodes["b"]), "a")["weight"], 1, "all of it or nothing");
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn with_fence_a_lost_etcd_stops_every_answer_and_its_return_brings_all_back() {
    let mut etcd = Etcd::start();
    let fence = [&REPLICATED[..], &["--on-etcd-loss", "fence"]].concat();
    let nodes = found(&etcd, &["a", "b"], &fence);
    let servers = nodes.values().map(|node| node.address.to_string());
    let options = Options { deadline: HASTE, ..Default::default() };
    let mut hasty = Client::connect(servers, options).expect("a node answers");
    let mut patient = client(nodes["a"].address);
    fill(&mut patient);
    let is_refused = |client: &mut Client| match client.get(key(1)) {
        Ok(hit) => {
            assert!(!hit.expect("it is there").is_stale, "what is answered is good");
            false
        }
        Err(_) => true,
    };
    let is_ready = |node: &NodeProcess| node.http_get("/readyz").split_whitespace().nth(1) == Some("200");
    assert!(nodes.values().all(is_ready));
    etcd.kill();
    within("everything is refused", || while !is_refused(&mut hasty) {});
    within("no node says that it is ready", || while nodes.values().any(is_ready) {});
    assert!(nodes["a"].http_get("/readyz").contains("--on-etcd-loss fence"));
    let set = |mode| Request::set(key(1), "new", Default::default()).with_write_mode(mode);
    for mode in [WriteMode::Async, WriteMode::One, WriteMode::All] {
        assert!(hasty.run([set(mode)]).remove(0).into_one().is_err(), "all is refused");
    }
    assert!(is_refused(&mut hasty) && nodes.values().all(|node| node.metric("quoit_stale_replies_total") == 0));
    etcd.restart();
    within("requests are answered again", || while is_refused(&mut hasty) {});
    within("every node says that it is ready", || while !nodes.values().all(is_ready) {});
    assert!(present(&mut patient).into_iter().all(|is_there| is_there), "nothing is lost, nothing refused was done");
    assert!(patient.run([set(WriteMode::All)]).remove(0).into_one().is_ok());
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn without_etcd_reads_are_marked_stale_async_writes_are_taken_and_others_refused() {
    let mut etcd = Etcd::start();
    let nodes = found(&etcd, &["a", "b"], &REPLICATED);
    let mut client = client(nodes["a"].address);
    let servers = nodes.values().map(|node| node.address.to_string());
    let hasty = Options { deadline: HASTE, ..Default::default() };
    let mut hasty = Client::connect(servers, hasty).expect("a node answers");
    fill(&mut client);
    let any = client.run([Request::get(key(1)).from_any_copy()]).remove(0).into_one().expect("a copy answers");
    assert_eq!(any.value, b"1");
    let mut by_copies = 0;
    for _ in 0..20 {
        let several = client.run([Request::multi_get((0..KEYS).map(key)).from_any_copy()]).remove(0).into_many();
        let several = several.expect("many").into_iter().map(|answer| answer.expect("copies answer"));
        let several: Vec<_> = several.collect();
        assert!(several.iter().enumerate().all(|(number, answer)| answer.value == number.to_string().as_bytes()));
        by_copies += several.iter().filter(|answer| answer.is_stale).count();
    }
    assert!((1..20 * KEYS).contains(&by_copies), "{by_copies} of 20 times {KEYS}, of two copies each");
    let before = status(&nodes["a"]);
    etcd.kill();
    // Until the leases are over reads are good; then they are marked, and none fails in between.
    let is_stale = |client: &mut Client| client.get(key(1)).expect("reads are answered").expect("it is there").is_stale;
    within("reads are marked stale", || while !is_stale(&mut client) {});
    let stale =
        (0..KEYS).filter(|number| client.get(key(*number)).expect("an answer").expect("a hit").is_stale).count();
    assert_eq!(stale, KEYS);
    let server = nodes["a"].address.to_string();
    let command = |arguments: &[&str]| {
        let mut command = quoit(&[arguments, &["--server", &server]].concat());
        within("the command ends", || command.output()).expect("the binary runs")
    };
    for arguments in [&["get", "key-1", "--json"][..], &["get", "key-1", "--json", "--any"]] {
        let shown = command(arguments);
        let (output, error) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
        assert!(output.contains("\"stale\":true") && error.contains("this may be stale"), "{output}{error}");
    }
    assert_eq!(command(&["set", "key-1", "new", "--write", "one", "--timeout", "1s"]).status.code(), Some(2));
    assert_eq!(command(&["set", "key-1", "1", "--write", "async"]).status.code(), Some(0));
    let seen = status(&nodes["b"]);
    assert!(seen["trouble"].as_str().is_some_and(|trouble| trouble.contains("etcd does not answer")), "{seen}");
    assert_eq!((&seen["epoch"], &row(&seen, "a")["state"]), (&before["epoch"], &"serving".into()), "as last seen");
    assert_eq!((row(&seen, "a")["silent"].clone(), row(&seen, "b")["silent"].clone()), (false.into(), false.into()));
    let set = |mode| Request::set(key(1), "new", Default::default()).with_write_mode(mode);
    for mode in [WriteMode::One, WriteMode::All] {
        let refused = hasty.run([set(mode)]).remove(0).into_one();
        assert!(refused.is_err(), "{mode:?}: {refused:?}");
    }
    assert_eq!(client.get(key(1)).expect("an answer").expect("a hit").value, b"1", "nothing refused was done");
    let taken = client.run([set(WriteMode::Async)]).remove(0).into_one();
    assert!(taken.is_ok(), "{taken:?}");
    etcd.restart();
    within("reads are good again", || while is_stale(&mut client) {});
    let safe = client.run([set(WriteMode::One)]).remove(0).into_one();
    assert!(safe.is_ok(), "{safe:?}");
    assert!((0..KEYS).all(|number| !client.get(key(number)).expect("an answer").expect("a hit").is_stale));
    nodes.into_values().for_each(NodeProcess::stop);
}
