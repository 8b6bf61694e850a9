//! A node that ends with its test, its counters, and keys by the core that owns them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quoit::runtime::{Command, CoreHandle, Idle, Node, RuntimeOptions};
use quoit::samples::CoreSnapshot;
use quoit::store::PolicyKind;
use quoit_wire::RequestBody;

use crate::watchdog::{self, Watch, within};

/// What a test waits for comes within this time, or the test has failed. It never decides how long something takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A core that is asked how it is, because something hangs, has so long to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// An unconditional set.
pub(crate) fn set<'a>(key: &'a [u8], value: &'a [u8]) -> RequestBody<'a> {
    RequestBody::Set { key, parameters: Default::default(), condition: Default::default(), value }
}

/// The seed of a random test: the one that is asked for by the environment, or a new one. It is printed.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("QUOIT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("QUOIT_TEST_SEED={seed}");
    seed
}

/// Tells the threads beside a test to end, also when the test has failed: who started them waits for them.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A running node; it ends with the test, and every core must end well.
pub(crate) struct Running {
    node: Option<Node>,
    _watch: Watch,
}

impl Running {
    /// A node of `cores` cores that evicts nothing.
    pub(crate) fn new(cores: usize) -> Self {
        Self::with(cores, |_| {})
    }

    /// The same with other options.
    pub(crate) fn with(cores: usize, adjust: impl FnOnce(&mut RuntimeOptions)) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(2);
        let mut options = RuntimeOptions {
            listen: "127.0.0.1:0".parse().expect("an address"),
            advertise: None,
            cpus: (0..cores).map(|core| core % cpus).collect(),
            memory_bytes: cores * (64 << 20),
            prefault: false,
            policy: PolicyKind::None,
            idle: Idle::Park,
            value_bytes_max: None,
            connections_max: 4096,
            vnode_bits: 8,
            node_id: Some(7),
            cluster: None,
            state_dir: None,
            time_limits: Default::default(),
        };
        adjust(&mut options);
        let node = within("the node starts", || Node::start(&options)).expect("the node starts");
        let handles = node.handles().to_vec();
        let describe = move || handles.iter().map(describe).collect();
        let watch = watchdog::watch("a node of this test", watchdog::LIFE_MAX, describe);
        Self { node: Some(node), _watch: watch }
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("it runs until the test ends")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.node().address()
    }

    /// Key number `number` of those that `core` owns.
    pub(crate) fn key(&self, core: u16, number: usize) -> Vec<u8> {
        let keys = (0..).map(|number: u32| format!("key-{number}").into_bytes());
        keys.filter(|key| self.node().topology().owner(key).core == core).nth(number).expect("there are enough")
    }

    /// What each core tells about itself.
    pub(crate) fn snapshots(&self) -> Vec<CoreSnapshot> {
        let ask = |handle: &CoreHandle| {
            let (answer, answers) = flume::bounded(1);
            within("a core takes a command", || handle.commands.send(Command::Snapshot(answer)))
                .expect("the core runs");
            answers.recv_timeout(PATIENCE).expect("the core answers")
        };
        self.node().handles().iter().map(ask).collect()
    }

    /// The sum over cores and labels of a counter or gauge.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.sum_where(name, |_| true)
    }

    /// The sum over cores of the samples of this name whose label has the value `label`.
    pub(crate) fn sum_of(&self, name: &str, label: &str) -> u64 {
        self.sum_where(name, |value| value == Some(label))
    }

    fn sum_where(&self, name: &str, counts: impl Fn(Option<&str>) -> bool) -> u64 {
        let snapshots = self.snapshots();
        let samples = snapshots.iter().flat_map(|snapshot| &snapshot.samples).filter(|sample| sample.name == name);
        let values: Vec<_> = samples.filter(|sample| counts(sample.label.map(|label| label.1))).collect();
        assert!(!values.is_empty(), "no core tells {name}");
        values.iter().map(|sample| sample.value).sum()
    }

    /// Asks until the node is as `is_so` says.
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            std::thread::yield_now();
        }
    }

    /// Ends the node by hand; whether the cores ended well.
    pub(crate) fn end(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(node) = self.node.take() {
            let ended = within("the node ends", || {
                node.begin_shutdown();
                node.join()
            });
            assert!(ended.is_ok() || std::thread::panicking(), "the cores end well: {ended:?}");
        }
    }
}

/// What a core says of itself, if it still answers: everything that is not zero.
fn describe(handle: &CoreHandle) -> String {
    let (answer, answers) = flume::bounded(1);
    let is_asked = handle.commands.try_send(Command::Snapshot(answer)).is_ok();
    let snapshot = answers.recv_timeout(ANSWER_TIME_MAX);
    match snapshot {
        Ok(snapshot) => {
            let samples = snapshot.samples.iter().filter(|sample| sample.value != 0);
            let samples =
                samples.map(|it| format!(" {}{}={}", it.name, it.label.map_or("", |label| label.1), it.value));
            format!("core {}:{}\n", handle.core, samples.collect::<String>())
        }
        Err(error) => format!("core {}: asked: {is_asked}, no answer: {error}\n", handle.core),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
