//! A cluster under verified load to which things happen: nodes as processes, a real etcd, and a generator beside them that
//! checks every answer (`quoit-loadgen run --client --verify`).
//!
//! A test founds a world, puts load on it, lets something happen, waits until the cluster is whole again, and ends the load:
//! then every key is read once more, and the report says what was lost, stale or refused, and for how long.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quoit_wire::topology::key_hash;
use serde_json::Value;

use crate::etcd::{Deletions, Etcd};
use crate::generator::{Generator, Report};
use crate::jumping_clock::JumpingClock;
use crate::namespaces::Namespaces;
use crate::node_process::{self, NodeProcess, metric_of};
use crate::slow_link::SlowLink;

/// The lease of the nodes, which is the default.
pub(crate) const LEASE_MS: u64 = 2_000;
const NODE: &str = "serve --cores 0 --vnodes 64 --cluster test --insecure";
/// Nodes that evict nothing, so that whatever is missing was lost; and few keys, each read and written often.
pub(crate) const ROOMY: [&str; 2] =
    ["--memory 96MiB --eviction none", "--no-evictions --keys 2000 --value-size 24-400 --rate 2000"];
/// Nodes that are far too small for what is written to them.
pub(crate) const NARROW: [&str; 2] = ["--memory 32MiB", "--keys 8000 --value-size 2KiB-16KiB --rate 2000"];
/// More callers than a failover can keep waiting.
const LOAD: &str = "--client --verify --connections 64 --pipeline 32 --set-ratio 0.3 --delete-ratio 0.05 \
                    --incr-ratio 0.1 --sleep --deadline 5s --duration 120s";
/// Requests that a cluster has answered before something happens to it, and after it is over.
const REQUESTS_BEFORE: u64 = 1_500;
/// Median latency above which the machine has no time for this test: whatever takes long then takes long for that reason.
const BUSY_P50_US: f64 = 20_000.0;
/// Whatever is waited for, a test on a busy machine waits no longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at another process, where nothing tells when to look.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Nodes, their etcd, and the network between them.
pub(crate) struct World {
    // Nodes end before their etcd, and that before its network.
    nodes: BTreeMap<String, NodeProcess>,
    logs: Vec<(String, Arc<Mutex<String>>)>,
    deletions: Deletions,
    pub(crate) etcd: Etcd,
    around: Around,
    options: Vec<String>,
    load: &'static str,
}

/// What is not as usual around the nodes.
#[derive(Default)]
struct Around {
    /// Each node is in a namespace.
    network: Option<Namespaces>,
    /// By way of which they reach etcd.
    link: Option<SlowLink>,
    /// Their wall clock.
    clock: Option<JumpingClock>,
}

/// What the nodes say of their cluster: the answer to `/cluster`.
pub(crate) struct Status(Value);

impl World {
    /// Nodes that found a cluster together, with `options` beside those of every node.
    pub(crate) fn found(names: &[&str], options: &str) -> Self {
        Self::found_in(Etcd::start(), Around::default(), names, options, ROOMY)
    }

    /// The same with nodes that have to evict.
    pub(crate) fn found_narrow(names: &[&str], options: &str) -> Self {
        Self::found_in(Etcd::start(), Around::default(), names, options, NARROW)
    }

    /// The same, each node in a network namespace of its own.
    pub(crate) fn found_in_namespaces(names: &[&str], options: &str) -> Self {
        let network = Namespaces::new(names);
        let etcd = Etcd::start_in(&network);
        Self::found_in(etcd, Around { network: Some(network), ..Around::default() }, names, options, ROOMY)
    }

    /// The same with an etcd whose answers to the nodes can be made late.
    pub(crate) fn found_over_a_slow_link(names: &[&str], options: &str) -> Self {
        let etcd = Etcd::start();
        let link = SlowLink::to(etcd.address());
        Self::found_in(etcd, Around { link: Some(link), ..Around::default() }, names, options, ROOMY)
    }

    /// The same with nodes whose wall clock jumps.
    pub(crate) fn found_with_jumping_clocks(names: &[&str], options: &str) -> Self {
        let around = Around { clock: Some(JumpingClock::build()), ..Around::default() };
        Self::found_in(Etcd::start(), around, names, options, ROOMY)
    }

    fn found_in(etcd: Etcd, around: Around, names: &[&str], options: &str, [memory, load]: [&'static str; 2]) -> Self {
        let deletions = Deletions::watch(&etcd.url(), around.network.as_ref());
        let options = [memory, options].iter().flat_map(|part| part.split_whitespace()).map(str::to_owned).collect();
        let mut world = Self { nodes: BTreeMap::new(), logs: Vec::new(), deletions, etcd, around, options, load };
        let started: Vec<(String, NodeProcess)> = thread::scope(|scope| {
            let world = &world;
            let starts: Vec<_> = names.iter().map(|name| (*name, world.command(name))).collect();
            let starts: Vec<_> = starts
                .into_iter()
                .map(|(name, command)| (name, scope.spawn(move || NodeProcess::start_as(command))))
                .collect();
            starts.into_iter().map(|(name, node)| (name.to_owned(), node.join().expect("a node starts"))).collect()
        });
        started.into_iter().for_each(|(name, node)| world.take_in(name, node));
        world.await_status("everybody has a share", |status| names.iter().all(|name| status.leads(name) > 0));
        world
    }

    /// Starts one more node, or one again; returns when it has its place.
    pub(crate) fn start(&mut self, name: &str) {
        let node = NodeProcess::start_as(self.command(name));
        self.take_in(name.to_owned(), node);
    }

    /// Starts one more node, and does not wait for it.
    pub(crate) fn start_beside<R>(&mut self, name: &str, meanwhile: impl FnOnce(&mut Self) -> R) -> R {
        let command = self.command(name);
        let (node, result) = thread::scope(|scope| {
            let starting = scope.spawn(move || NodeProcess::start_as(command));
            let result = meanwhile(self);
            (starting.join().expect("a node starts"), result)
        });
        self.take_in(name.to_owned(), node);
        result
    }

    fn take_in(&mut self, name: String, mut node: NodeProcess) {
        self.logs.push((name.clone(), node.drain_log()));
        self.nodes.insert(name, node);
    }

    fn command(&self, name: &str) -> Command {
        let url = self.around.link.as_ref().map_or_else(|| self.etcd.url(), SlowLink::url);
        let listen = self.around.network.as_ref().map(|network| network.address_of(name));
        let listen = listen.map_or("127.0.0.1".to_owned(), |address| address.to_string());
        let addresses = [format!("{listen}:0"), format!("{listen}:0")];
        let mut command = node_process::quoit(&NODE.split_whitespace().collect::<Vec<_>>());
        command.args(["--etcd", &url, "--node-id", name, "--listen", &addresses[0], "--admin", &addresses[1]]);
        command.args(&self.options);
        self.around.clock.iter().for_each(|clock| clock.give_to(&mut command));
        match &self.around.network {
            Some(network) => network.command_in(name, &command),
            None => command,
        }
    }

    /// Ends a node as a crash would; when.
    pub(crate) fn kill(&mut self, name: &str) -> u64 {
        let node = self.nodes.remove(name).expect("it runs");
        let killed_unix_ms = unix_ms();
        node.signal(libc::SIGKILL);
        killed_unix_ms
    }

    /// Tells a node to end, and waits until it has, well.
    pub(crate) fn stop(&mut self, name: &str) {
        self.nodes.remove(name).expect("it runs").stop();
    }

    /// Sends a node a signal.
    pub(crate) fn signal(&self, name: &str, signal: libc::c_int) {
        self.nodes[name].signal(signal);
    }

    /// Cuts a node off from everybody else, or connects it again.
    pub(crate) fn cut(&self, name: &str, is_cut: bool) {
        self.around.network.as_ref().expect("the nodes have namespaces").cut(name, is_cut);
    }

    /// Has etcd's answers to the nodes come so much later from now on.
    pub(crate) fn delay_etcd(&self, delay: Duration) {
        self.around.link.as_ref().expect("the nodes reach etcd over a slow link").delay(delay);
    }

    /// Waits until etcd has deleted the node's registration; when.
    pub(crate) fn await_deletion(&self, name: &str) -> u64 {
        self.deletions.of(&format!("/quoit/test/nodes/{:016x}", key_hash(0, name.as_bytes()).max(1)), PATIENCE)
    }

    /// Asks a node's admin HTTP; nothing where it does not answer.
    pub(crate) fn ask(&self, name: &str, method: &str, path: &str) -> Option<String> {
        let admin = self.nodes.get(name)?.admin;
        let ask = || node_process::http(admin, method, path).ok();
        match &self.around.network {
            Some(network) => network.within(ask),
            None => ask(),
        }
    }

    /// The cluster as one of the nodes that answer sees it.
    pub(crate) fn status(&self) -> Option<Status> {
        self.nodes.keys().find_map(|name| self.status_by(name))
    }

    fn status_by(&self, name: &str) -> Option<Status> {
        let answer = self.ask(name, "GET", "/cluster")?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok().map(Status)
    }

    /// Waits until the cluster is as it should be, by the node that answers first.
    pub(crate) fn await_status(&self, what: &str, is_so: impl Fn(&Status) -> bool) {
        await_true(
            || self.status().is_some_and(|status| is_so(&status)),
            || format!("{what}: {}\n{}", self.status().map_or(Value::Null, |status| status.0), self.log_tails()),
        );
    }

    /// Waits until every vnode has its primary and all copies that these nodes can have, and each of them leads some.
    pub(crate) fn await_whole(&self, names: &[&str]) {
        self.await_status("it is whole", |status| {
            let is_member = |name: &String| names.contains(&name.as_str());
            status.is_whole(names.len())
                && names.iter().all(|name| status.leads(name) > 0)
                && status.names().iter().filter(|name| status.leads(name) > 0).all(is_member)
        });
    }

    /// Where a node is reached.
    pub(crate) fn address_of(&self, name: &str) -> SocketAddr {
        self.nodes[name].address
    }

    /// Where the nodes are reached.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.nodes.values().map(|node| node.address.to_string()).collect()
    }

    /// Puts verified load on the cluster; returns when it runs.
    pub(crate) fn load(&self, more: &str) -> Generator {
        let servers = self.servers();
        let options = format!("{LOAD} {} {more}", self.load);
        let options: Vec<&str> = options.split_whitespace().collect();
        let wrap = |command: Command| match &self.around.network {
            Some(network) => network.command_within(&command),
            None => command,
        };
        let generator = Generator::start_as("run", &servers.join(","), &options, wrap);
        self.await_requests(REQUESTS_BEFORE);
        generator
    }

    /// Waits until the nodes have answered so many requests more.
    pub(crate) fn await_requests(&self, more: u64) {
        self.await_more(more, || self.requests());
    }

    /// The same of one node, where others are asked in vain.
    pub(crate) fn await_requests_to(&self, name: &str, more: u64) {
        self.await_more(more, || self.requests_to(name).unwrap_or(0));
    }

    fn await_more(&self, more: u64, count: impl Fn() -> u64) {
        let enough = count() + more;
        await_true(|| count() >= enough, || format!("requests are answered\n{}", self.log_tails()));
    }

    /// Ends the load, and says what it has met with: nothing wrong, or the test fails.
    pub(crate) fn end(self, what: &str, load: Generator) -> Report {
        self.await_requests(REQUESTS_BEFORE);
        let report = load.stop();
        println!("{what}:\n{}", report.text);
        let tails = || format!("{}\n{}", report.text, self.log_tails());
        assert_eq!(report.number("error_kinds/wrong"), 0, "{}", tails());
        assert!(report.number("client/looked_at") > 400, "every key is looked at once more\n{}", tails());
        if self.load == NARROW[1] {
            self.await_evictions();
        } else {
            let mut evictions = Vec::new();
            await_true(
                || {
                    evictions = self.nodes.keys().map(|name| self.metric(name, "quoit_evictions_total")).collect();
                    evictions.iter().all(Option::is_some)
                },
                || "every node tells its evictions".to_owned(),
            );
            assert!(evictions.iter().all(|count| *count == Some(0)), "evictions: {evictions:?}");
        }
        report
    }

    /// Hits and misses of all nodes that answer: those that are gone take theirs with them.
    fn requests(&self) -> u64 {
        self.nodes.keys().filter_map(|name| self.requests_to(name)).sum()
    }

    fn requests_to(&self, name: &str) -> Option<u64> {
        Some(self.metric(name, "quoit_hits_total")? + self.metric(name, "quoit_misses_total")?)
    }

    /// Vnodes that nobody had any more, and that began empty.
    pub(crate) fn lost_vnodes(&self) -> u64 {
        self.nodes.keys().filter_map(|name| self.metric(name, "quoit_vnodes_lost_total")).sum()
    }

    /// Waits until the nodes have marked so many answers as stale.
    pub(crate) fn await_stale(&self, count: u64) {
        await_true(|| self.stale_replies() >= count, || format!("answers are marked stale\n{}", self.log_tails()));
    }

    /// Waits until a while passes in which requests are answered and none of them is marked stale; how many were before.
    pub(crate) fn await_fresh(&self) -> u64 {
        loop {
            let before = self.stale_replies();
            self.await_requests(REQUESTS_BEFORE);
            if self.stale_replies() == before {
                return before;
            }
        }
    }

    /// Answers that the nodes have marked as stale.
    pub(crate) fn stale_replies(&self) -> u64 {
        self.nodes.keys().filter_map(|name| self.metric(name, "quoit_stale_replies_total")).sum()
    }

    /// Waits until every node has evicted something.
    pub(crate) fn await_evictions(&self) {
        let evicts = |name: &String| self.metric(name, "quoit_evictions_total").is_some_and(|count| count > 0);
        await_true(|| self.nodes.keys().all(evicts), || format!("every node evicts\n{}", self.log_tails()));
    }

    /// Requests for an operation that the nodes have answered well.
    pub(crate) fn answered(&self, operation: &str) -> u64 {
        let labels = format!("operation=\"{operation}\",status=\"ok\"");
        let count = |line: &str| line.strip_prefix("quoit_requests_total{")?.split_once("} ")?.1.parse::<f64>().ok();
        let of = |name: &String| {
            let metrics = self.ask(name, "GET", "/metrics")?;
            Some(metrics.lines().filter(|line| line.contains(&labels)).filter_map(count).sum::<f64>() as u64)
        };
        self.nodes.keys().filter_map(of).sum()
    }

    /// A metric of a node that answers.
    pub(crate) fn metric(&self, name: &str, metric: &str) -> Option<u64> {
        metric_of(&self.ask(name, "GET", "/metrics")?, metric)
    }

    fn log_tails(&self) -> String {
        let tail = |(name, log): &(String, Arc<Mutex<String>>)| {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let lines: Vec<&str> = log.lines().rev().take(40).collect();
            format!("== {name}\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        self.logs.iter().map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Status {
    /// The node that leads the cluster.
    pub(crate) fn leader(&self) -> Option<&str> {
        self.0["leader"].as_str()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.0["epoch"].as_u64().unwrap_or(0)
    }

    /// Vnodes that the node leads.
    pub(crate) fn leads(&self, name: &str) -> u64 {
        self.of(name, "leads")
    }

    /// Copies of the node that catch up.
    pub(crate) fn catching_up(&self, name: &str) -> u64 {
        self.of(name, "catching_up")
    }

    /// The node's state, as people read it.
    pub(crate) fn state(&self, name: &str) -> Option<&str> {
        self.node(name)?["state"].as_str()
    }

    fn names(&self) -> Vec<String> {
        let nodes = self.0["nodes"].as_array().into_iter().flatten();
        nodes.filter_map(|node| node["name"].as_str()).map(str::to_owned).collect()
    }

    /// Every vnode is led, and has as many copies in sync as there should be, or as `nodes` nodes can have.
    fn is_whole(&self, nodes: usize) -> bool {
        let number = |field: &str| self.0[field].as_u64().unwrap_or(0);
        let sum = |field| self.names().iter().map(|name| self.of(name, field)).sum::<u64>();
        let copies = number("replicas").min(nodes as u64 - 1);
        number("vnodes_without_primary") == 0
            && sum("leads") == number("vnodes")
            && sum("in_sync") == number("vnodes") * copies
    }

    fn of(&self, name: &str, field: &str) -> u64 {
        self.node(name).and_then(|node| node[field].as_u64()).unwrap_or(0)
    }

    fn node(&self, name: &str) -> Option<&Value> {
        self.0["nodes"].as_array()?.iter().find(|node| node["name"] == name)
    }
}

/// Asserts what only time can break: no request failed within its deadline, or something came soon. A machine that is too busy
/// with other work to answer half of the requests at once proves nothing either way, and is told so.
pub(crate) fn assert_in_time(report: &Report, is_so: bool, what: &str) {
    let p50_us = report.fraction("p50_us");
    if p50_us > BUSY_P50_US {
        println!("the machine was too busy to tell whether {what}: half of the requests took {p50_us:.0} us");
        return;
    }
    assert!(is_so, "{what}\n{}", report.text);
}

/// Milliseconds since 1970, as the generator and the watch on etcd tell them.
#[expect(clippy::disallowed_methods, reason = "what happens in several processes is compared by the clock they share")]
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Looks until it is so, and fails the test when that takes too long.
#[expect(clippy::disallowed_methods, reason = "other processes are looked at: nothing tells when to look")]
pub(crate) fn await_true(mut is_so: impl FnMut() -> bool, what: impl FnOnce() -> String) {
    let started = std::time::Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} until {}", what());
        thread::sleep(LOOK_PAUSE);
    }
}
