//! What a cluster with a replica promises: a lost node takes nothing with it, a new one gets its share and loses nothing.

use super::etcd::Etcd;
use super::node_process::NodeProcess;
use super::{KEYS, client, fill, found, owners, present, start};

const REPLICATED: [&str; 4] = ["--replicas", "1", "--write", "one"];

#[test]
fn what_was_acknowledged_is_there_after_a_node_was_killed() {
    let etcd = Etcd::start();
    let mut nodes = found(&etcd, &["a", "b", "c"], &REPLICATED);
    let mut client = client(nodes["b"].address);
    fill(&mut client);
    let lost = nodes.remove("c").expect("it is there");
    let address = lost.address.to_string();
    lost.signal(libc::SIGKILL);
    drop(lost);
    let left = present(&mut client).into_iter().filter(|is_there| *is_there).count();
    assert_eq!(left, KEYS, "a copy of each key was elsewhere");
    let (after, _) = owners(&nodes["a"]);
    assert!(!after.contains(&address) && after.len() == 2, "{after:?}");
    // Copies of everything are on both that are left: writes find one to wait for.
    fill(&mut client);
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn a_node_that_joins_gets_its_share_and_nothing_is_lost() {
    let etcd = Etcd::start();
    let mut nodes = found(&etcd, &["a", "b"], &REPLICATED);
    let mut client = client(nodes["a"].address);
    fill(&mut client);
    nodes.insert("c".to_owned(), start(&etcd, "c", &REPLICATED));
    let address = nodes["c"].address.to_string();
    // Requests go on while vnodes move.
    while !owners(&nodes["a"]).0.contains(&address) {
        assert!(present(&mut client).into_iter().all(|is_there| is_there));
        fill(&mut client);
    }
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    nodes.into_values().for_each(NodeProcess::stop);
}

#[test]
fn a_node_that_is_told_to_stop_hands_over_what_it_has() {
    let etcd = Etcd::start();
    // Without replicas: what is not handed over is lost.
    let mut nodes = found(&etcd, &["a", "b", "c"], &["--replicas", "0"]);
    let mut client = client(nodes["b"].address);
    fill(&mut client);
    let leaving = nodes.remove("c").expect("it is there");
    let address = leaving.address.to_string();
    leaving.stop();
    assert!(!owners(&nodes["a"]).0.contains(&address));
    assert!(present(&mut client).into_iter().all(|is_there| is_there));
    nodes.into_values().for_each(NodeProcess::stop);
}
