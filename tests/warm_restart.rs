//! A node that is ended and started again with the same `--state-dir` goes on with what it had; with a state that is not
//! whole it says so, and starts empty.

mod children;
mod node_process;
mod watchdog;
mod wire_client;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use node_process::{NodeProcess, quoit};
use quoit_wire::{
    HelloParameters, IncrementParameters, RequestBody, RequestFlags, RequestOptions, RetryToken, SetParameters, Status,
    Version,
};
use watchdog::within;
use wire_client::{Answer, WireClient};

/// Far longer than a test takes.
const HOUR_MS: u64 = 3_600_000;

/// A state folder of the test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("quoit-warm-{name}-{}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path of plain letters")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A node with this folder.
    fn node(&self, arguments: &[&str]) -> NodeProcess {
        NodeProcess::start(&[&["--eviction", "none", "--state-dir", self.path()], arguments].concat())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An item as it was written.
struct Item {
    key: Vec<u8>,
    value: Vec<u8>,
    client_flags: u32,
    version: Version,
}

/// Items of many sizes: inline, in blocks, cut at the ends of chunks; with time to live, flags, idle expiry.
fn fill(client: &mut WireClient) -> Vec<Item> {
    let sizes = (0..3000).map(|number| number % 97).chain((0..60).map(|number| number * 7001));
    let set = |(number, size): (usize, usize)| {
        let key = format!("key-{number}-{}", "k".repeat(number % 40)).into_bytes();
        let value: Vec<u8> = (0..size).map(|at| (at * 31 + number) as u8).collect();
        let parameters = SetParameters {
            ttl_ms: [0, HOUR_MS, 365 * 24 * HOUR_MS][number % 3],
            client_flags: if number % 4 == 0 { number as u32 } else { 0 },
            options: if number % 6 == 1 { SetParameters::IDLE_EXPIRY } else { 0 },
            ..SetParameters::default()
        };
        let answer =
            client.call(&RequestBody::Set { key: &key, parameters, condition: Default::default(), value: &value });
        assert_eq!(answer.status, Status::Ok);
        Item { key, value, client_flags: parameters.client_flags, version: answer.version }
    };
    sizes.enumerate().map(set).collect()
}

fn connect(node: &NodeProcess) -> WireClient {
    WireClient::connect(node.address, HelloParameters::ANY_CORE)
}

fn assert_has_all(node: &NodeProcess, items: &[Item]) {
    let mut client = connect(node);
    for item in items {
        let answer = client.call(&RequestBody::Get { key: &item.key });
        let key = String::from_utf8_lossy(&item.key);
        assert_eq!(
            (answer.status, answer.version, answer.client_flags),
            (Status::Ok, item.version, item.client_flags),
            "{key}"
        );
        assert!(answer.value == item.value, "the value of {key}");
    }
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> RequestBody<'a> {
    RequestBody::Set { key, parameters: Default::default(), condition: Default::default(), value }
}

/// Adds one to a counter under a retry token.
fn count(client: &mut WireClient, session: u64, number: u32, is_repeat: bool) -> Answer {
    let parameters = IncrementParameters { delta: 1, initial: 1, ttl_ms: 0, create: 1 };
    let flags = if is_repeat { RequestFlags::REPEAT } else { RequestFlags::default() };
    let options = RequestOptions { flags, retry: Some(RetryToken { session, number }), ..RequestOptions::default() };
    client.send(&RequestBody::Increment { key: b"counter", parameters }, options);
    client.receive().expect("the node answers")
}

/// Ends a node well; its last words.
fn stop(mut node: NodeProcess) -> String {
    node.signal(libc::SIGTERM);
    let (code, log) = node.wait();
    assert_eq!(code, Some(0), "{log}");
    log
}

#[test]
fn what_a_node_held_is_there_after_a_restart() {
    let folder = Folder::new("all");
    let node = folder.node(&["--cores", "0,0"]);
    let mut client = connect(&node);
    let items = fill(&mut client);
    let short = SetParameters { ttl_ms: 1, ..SetParameters::default() };
    client.call(&RequestBody::Set { key: b"short", parameters: short, condition: Default::default(), value: b"x" });
    let counted = count(&mut client, 9, 1, false);
    let log = stop(node);
    assert!(log.contains("the state is saved"), "{log}");

    let mut node = folder.node(&["--cores", "0,0"]);
    node.await_log("the saved state is loaded");
    assert_has_all(&node, &items);
    let mut client = connect(&node);
    assert_eq!(client.call(&RequestBody::Get { key: b"short" }).status, Status::Miss, "its millisecond is over");
    let repeated = count(&mut client, 9, 1, true);
    assert_eq!((repeated.version, &repeated.value), (counted.version, &counted.value), "applied once");
    let again = client.call(&set(&items[7].key, b"new"));
    assert!(again.version > items[7].version && again.version.term() == items[7].version.term(), "{again:?}");
    // With the counter; what ended while it was down may have been found at the save already.
    assert!(node.http_get("/metrics").contains("quoit_state_items_total{core=\"0\",fate=\"loaded\"}"));
    assert_eq!(node.metric("quoit_items"), items.len() as u64 + 1);
    assert!(node.http_get("/readyz").starts_with("HTTP/1.1 200"));
    stop(node);
}

#[test]
fn a_state_is_used_once_and_a_crash_is_no_way_back_to_it() {
    let folder = Folder::new("once");
    let node = folder.node(&["--cores", "0"]);
    let mut client = connect(&node);
    let first = client.call(&set(b"key", b"old"));
    stop(node);
    let mut node = folder.node(&["--cores", "0"]);
    let mut client = connect(&node);
    let second = client.call(&set(b"key", b"new"));
    assert!(second.version > first.version);
    node.signal(libc::SIGKILL);
    assert_eq!(node.wait().0, None, "a signal has ended it");

    let mut node = folder.node(&["--cores", "0"]);
    let mut client = connect(&node);
    assert_eq!(client.call(&RequestBody::Get { key: b"key" }).status, Status::Miss, "neither old nor new");
    node.await_log("this one starts empty");
    let third = client.call(&set(b"key", b"newest"));
    assert_eq!(third.version.term(), second.version.term() + 1, "no version comes twice");
    stop(node);
    let node = folder.node(&["--cores", "0"]);
    assert_eq!(connect(&node).call(&RequestBody::Get { key: b"key" }).version, third.version);
    stop(node);
}

#[test]
fn cores_vnodes_and_policy_may_be_others() {
    let folder = Folder::new("redivided");
    let node = folder.node(&["--cores", "0,0,0"]);
    let items = fill(&mut connect(&node));
    let counted = count(&mut connect(&node), 5, 1, false);
    stop(node);
    for arguments in [
        &["--cores", "0"][..],
        &["--cores", "0,0,0,0"],
        &["--cores", "0,0", "--vnodes", "64"],
        &["--cores", "0,0", "--vnodes", "1024", "--eviction", "lru"],
        &["--cores", "0", "--eviction", "s3-fifo"],
    ] {
        let mut node = NodeProcess::start(&[arguments, &["--state-dir", folder.path()]].concat());
        node.await_log("the saved state is loaded");
        assert_has_all(&node, &items);
        let mut client = connect(&node);
        assert_eq!(count(&mut client, 5, 1, true).value, counted.value, "applied once, by {arguments:?}");
        let absent = client.call(&RequestBody::Get { key: b"absent" });
        assert_eq!(absent.status, Status::Miss);
        let log = stop(node);
        assert!(log.contains("the state is saved"), "{log}");
    }
}

#[test]
fn a_state_that_is_not_whole_is_refused_as_a_whole() {
    let folder = Folder::new("damaged");
    let change = |name: &str, at: usize| {
        let mut bytes = fs::read(folder.file(name)).expect("a file of the state");
        bytes[at] ^= 1;
        fs::write(folder.file(name), bytes).expect("a disk");
    };
    let truncate = |name: &str, bytes: u64| {
        let file = fs::File::options().write(true).open(folder.file(name)).expect("a file of the state");
        file.set_len(bytes).expect("a disk");
    };
    let damages: [(&str, &dyn Fn()); 7] = [
        ("its checksum does not fit", &|| change("quoit-core-1.items", 300_000)),
        ("bytes instead of", &|| truncate("quoit-core-0.items", 1 << 20)),
        ("No such file", &|| fs::remove_file(folder.file("quoit-core-1.items")).expect("a disk")),
        ("another save, file or place", &|| {
            fs::copy(folder.file("quoit-core-0.items"), folder.file("swap")).expect("a disk");
            let length = fs::metadata(folder.file("quoit-core-1.items")).expect("a file").len();
            fs::rename(folder.file("swap"), folder.file("quoit-core-1.items")).expect("a disk");
            truncate("quoit-core-1.items", length);
        }),
        ("quoit.manifest: it is torn", &|| change("quoit.manifest", 100)),
        ("quoit.manifest: it was not written by Quoit", &|| {
            fs::write(folder.file("quoit.manifest"), "another program's").expect("a disk");
        }),
        ("quoit.manifest: it is of format", &|| change("quoit.manifest", 8)),
    ];
    for (message, damage) in damages {
        let node = folder.node(&["--cores", "0,0"]);
        let items = fill(&mut connect(&node));
        stop(node);
        damage();
        let mut node = folder.node(&["--cores", "0,0"]);
        node.await_log("is refused");
        let mut client = connect(&node);
        for item in &items {
            assert_eq!(client.call(&RequestBody::Get { key: &item.key }).status, Status::Miss, "{message}");
        }
        assert_eq!(node.metric("quoit_items"), 0, "{message}");
        assert!(folder.file("quoit.manifest.refused").exists());
        // It works as any node, and what it saves is good again.
        let stored = client.call(&set(b"key", b"value"));
        stop(node);
        let mut node = folder.node(&["--cores", "0,0"]);
        node.await_log("the saved state is loaded");
        assert_eq!(connect(&node).call(&RequestBody::Get { key: b"key" }).version, stored.version);
        stop(node);
        fs::remove_dir_all(folder.path()).expect("the test's own folder");
    }
}

#[test]
fn the_message_of_a_refusal_names_the_file_and_what_is_wrong() {
    let folder = Folder::new("message");
    let node = folder.node(&["--cores", "0"]);
    fill(&mut connect(&node));
    stop(node);
    let path = folder.file("quoit-core-0.items");
    let mut bytes = fs::read(&path).expect("a file of the state");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).expect("a disk");
    let node = folder.node(&["--cores", "0"]);
    let log = stop(node);
    assert!(log.contains("quoit-core-0.items: chunk ") && log.contains("its checksum does not fit"), "{log}");
    assert!(log.contains("starts empty"), "{log}");
}

#[test]
fn two_nodes_do_not_share_a_folder() {
    let folder = Folder::new("shared");
    let node = folder.node(&["--cores", "0"]);
    let mut second = quoit(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--memory", "64MiB"]);
    second.args(["--cores", "0", "--state-dir", folder.path()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut second = children::spawn(second).expect("the binary runs");
    // It ends, or it is ready.
    let mut ready = String::new();
    let mut output = BufReader::new(second.stdout.take().expect("it is piped"));
    within("the second node ends or is ready", || output.read_line(&mut ready)).expect("text");
    if !ready.is_empty() {
        second.kill().expect("it lives");
    }
    let ended = within("the second node ends", || second.wait_with_output()).expect("it is a child");
    let error = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), ready.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains("in use by another node") && error.contains("--state-dir"), "{error}");
    stop(node);
}

#[test]
fn a_node_that_can_not_save_ends_well_and_leaves_nothing_half_done() {
    let folder = Folder::new("unsaved");
    let node = folder.node(&["--cores", "0,0"]);
    fill(&mut connect(&node));
    // In the way of one core's file; the other core saves its own.
    fs::create_dir_all(folder.file("quoit-core-1.items")).expect("a disk");
    let log = stop(node);
    assert!(log.contains("the state is not saved, and the next start will be empty"), "{log}");
    fs::remove_dir(folder.file("quoit-core-1.items")).expect("the test's own folder");
    let mut node = folder.node(&["--cores", "0,0"]);
    node.await_log("this one starts empty");
    assert_eq!(node.metric("quoit_items"), 0);
    stop(node);
}

#[test]
fn a_node_that_is_ended_while_it_loads_leaves_the_state_as_it_was() {
    let folder = Folder::new("interrupted");
    let node = folder.node(&["--cores", "0,0"]);
    let items = fill(&mut connect(&node));
    stop(node);
    // Whether the signal comes before, within or after the loading: nothing may be lost.
    for _ in 0..3 {
        let mut node = quoit(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--memory", "128MiB"]);
        node.args(["--cores", "0,0", "--state-dir", folder.path()]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = children::spawn(node).expect("the binary runs");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("loading the saved state") {
            line.clear();
            let bytes = within("the next line of the log", || log.read_line(&mut line)).expect("text");
            assert_ne!(bytes, 0, "the log ends early");
        }
        // SAFETY: no memory is passed; the process is this test's own child and has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) }, 0);
        let mut rest = String::new();
        let status = within("the node ends", || {
            log.read_to_string(&mut rest).expect("text");
            child.wait().expect("it is a child")
        });
        // Before the control thread listens for it, the signal ends the process by itself.
        assert!(matches!(status.code(), Some(0) | None), "{status}: {rest}");
    }
    let node = folder.node(&["--cores", "0,0"]);
    assert_has_all(&node, &items);
    stop(node);
    assert!(Path::new(folder.path()).exists());
}
