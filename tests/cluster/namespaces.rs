//! Network namespaces: a node in each, all on one bridge, so that a node can be cut off from everybody at a stroke.
//!
//! ```text
//!  hub ── bridge 10.84.0.1: etcd, the generator, the test's questions
//!          ├── veth ── node a  10.84.0.11
//!          ├── veth ── node b  10.84.0.12
//!          └── …                              nothing of it is seen by the machine's own network
//! ```
//! Made with `ip` as root. Without that the tests fail: what they prove is proved nowhere else.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::children;

/// The bridge's own address.
pub(crate) const HUB: Ipv4Addr = Ipv4Addr::new(10, 84, 0, 1);

/// Names begin so: `quoit-PID-NUMBER-NODE`.
const PREFIX: &str = "quoit";
/// Where `ip` keeps them.
const PLACE: &str = "/run/netns";

/// The namespaces of one test; gone with it.
pub(crate) struct Namespaces {
    hub: String,
    nodes: BTreeMap<String, (String, Ipv4Addr)>,
}

impl Namespaces {
    /// One for each name, and the hub.
    pub(crate) fn new(names: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_what_is_left_behind();
        let prefix = format!("{PREFIX}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hub = format!("{prefix}-hub");
        let place = |(number, name): (u8, &&str)| {
            ((*name).to_owned(), (format!("{prefix}-{name}"), Ipv4Addr::new(10, 84, 0, 11 + number)))
        };
        let all = Self { hub, nodes: (0..).zip(names).map(place).collect() };
        let hub = &all.hub;
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link set lo up"));
        ip(&format!("-n {hub} link add bridge type bridge"));
        ip(&format!("-n {hub} addr add {HUB}/24 dev bridge"));
        ip(&format!("-n {hub} link set bridge up"));
        for (name, (namespace, address)) in &all.nodes {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {hub} link add to-{name} type veth peer name eth0 netns {namespace}"));
            ip(&format!("-n {hub} link set to-{name} master bridge up"));
            ip(&format!("-n {namespace} addr add {address}/24 dev eth0"));
            ip(&format!("-n {namespace} link set eth0 up"));
        }
        all
    }

    pub(crate) fn address_of(&self, name: &str) -> Ipv4Addr {
        self.nodes[name].1
    }

    /// The command, to be run where the node is.
    pub(crate) fn command_in(&self, name: &str, command: &Command) -> Command {
        run_in(&self.nodes[name].0, command)
    }

    /// The command, to be run in the hub.
    pub(crate) fn command_within(&self, command: &Command) -> Command {
        run_in(&self.hub, command)
    }

    /// Does something in the hub: sockets that are made there stay there.
    pub(crate) fn within<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R {
        let enter_and_act = || {
            enter(&self.hub);
            act()
        };
        thread::scope(|scope| scope.spawn(enter_and_act).join().expect("it ends"))
    }

    /// The hub's name, for a thread that outlives this.
    pub(crate) fn hub(&self) -> String {
        self.hub.clone()
    }

    /// Takes the node's cable out, or puts it in again.
    pub(crate) fn cut(&self, name: &str, is_cut: bool) {
        ip(&format!("-n {} link set to-{name} {}", self.hub, if is_cut { "down" } else { "up" }));
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in self.nodes.values().map(|(namespace, _)| namespace).chain([&self.hub]) {
            remove(namespace);
        }
    }
}

/// Tests that were killed could not remove theirs.
fn remove_what_is_left_behind() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The first namespace makes the folder.
        let entries = std::fs::read_dir(PLACE).into_iter().flatten().flatten().map(|entry| entry.path());
        let left = entries.filter(|path| children::is_left_behind(path, PREFIX));
        left.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).for_each(|name| remove(&name));
    });
}

/// One that was never made, or is removed by somebody else, can't be removed.
fn remove(namespace: &str) {
    let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
}

/// Moves the calling thread into a namespace.
pub(crate) fn enter(namespace: &str) {
    let file = File::open(format!("{PLACE}/{namespace}")).expect("`ip netns add` has made it");
    // SAFETY: the descriptor is open, and only the calling thread changes its network.
    let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "a thread of root may enter {namespace}: {}", std::io::Error::last_os_error());
}

fn run_in(namespace: &str, command: &Command) -> Command {
    let mut within = Command::new("ip");
    within.args(["netns", "exec", namespace]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, _) in command.get_envs().filter(|(_, value)| value.is_none()) {
        within.env_remove(name);
    }
    within
}

fn ip(arguments: &str) {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs: .ci/setup installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}(network namespaces need root)");
}
