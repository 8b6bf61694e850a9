//! The client commands as a script meets them: the real binary against a real node, exit codes, bytes in and out.

mod watchdog;

use std::io::Write;
use std::process::{Command, Stdio};

use quoit::runtime::{Idle, Node, RuntimeOptions};
use quoit::store::PolicyKind;
use serde_json::{Value, json};

/// A node in this process; it ends with the test.
struct Running(Option<Node>);

impl Running {
    fn new() -> Self {
        let options = RuntimeOptions {
            listen: "127.0.0.1:0".parse().expect("an address"),
            advertise: None,
            cpus: vec![0, 0],
            memory_bytes: 128 << 20,
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
        Self(Some(Node::start(&options).expect("the node starts")))
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with_input(arguments, b"")
    }

    fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let address = self.0.as_ref().expect("it runs until the test ends").address();
        run(&address.to_string(), arguments, input)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&ended.output).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            node.begin_shutdown();
            let ended = watchdog::within("the node ends", || node.join());
            assert!(ended.is_ok() || std::thread::panicking(), "the cores end well: {ended:?}");
        }
    }
}

/// How the binary ended, and what it said.
#[derive(Debug)]
struct Ended {
    code: i32,
    output: Vec<u8>,
    error: String,
}

fn run(server: &str, arguments: &[&str], input: &[u8]) -> Ended {
    // The machine of the test may be busy with others.
    let mut child = Command::new(env!("CARGO_BIN_EXE_quoit"))
        .args(arguments)
        .args(["--server", server, "--timeout", "30s"])
        .env_remove("QUOIT_SERVER")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A command that needs no input may have ended already.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = watchdog::within("the command ends", || child.wait_with_output()).expect("it ends by itself");
    let code = output.status.code().expect("no signal ended it");
    Ended { code, output: output.stdout, error: String::from_utf8(output.stderr).expect("text") }
}

#[test]
fn a_value_comes_back_byte_for_byte() {
    let node = Running::new();
    assert_eq!(node.run(&["set", "greeting", "hello"]).code, 0);
    let got = node.run(&["get", "greeting"]);
    assert_eq!((got.code, got.output.as_slice(), got.error.as_str()), (0, &b"hello"[..], ""));

    let bytes: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    assert_eq!(node.run_with_input(&["set", "photo", "-"], &bytes).code, 0);
    assert!(node.run(&["get", "photo"]).output == bytes);
    assert_eq!(node.run_with_input(&["set", "empty"], b"").code, 0);
    let got = node.run(&["get", "empty"]);
    assert_eq!((got.code, got.output.len()), (0, 0));
}

#[test]
fn exit_codes_tell_hit_from_miss() {
    let node = Running::new();
    let missed = node.run(&["get", "nothing"]);
    assert_eq!((missed.code, missed.output.len()), (1, 0));
    assert!(missed.error.contains("nothing"), "{}", missed.error);
    assert_eq!(node.run(&["touch", "nothing", "--ttl", "1m"]).code, 1);
    assert_eq!(node.run(&["incr", "nothing"]).code, 1);
    assert_eq!(node.run(&["set", "k", "v", "--if-present"]).code, 1);
    assert_eq!(node.run(&["set", "k", "v"]).code, 0);
    assert_eq!(node.run(&["touch", "k", "--ttl", "1h30m"]).code, 0);
    assert_eq!(node.run(&["del", "k", "nothing"]).code, 1);
    assert_eq!(node.run(&["del", "k"]).code, 1);
}

#[test]
fn bytes_are_added_on_both_sides_of_what_is_there_and_to_nothing_else() {
    let node = Running::new();
    for command in ["append", "prepend"] {
        let missed = node.run(&[command, "word", "x"]);
        assert!(missed.code == 1 && missed.error.contains("word"), "{missed:?}");
    }
    assert_eq!(node.run(&["set", "word", "oi", "--flags", "42"]).code, 0);
    assert_eq!(node.run(&["prepend", "word", "qu"]).code, 0);
    assert_eq!(node.run_with_input(&["append", "word", "-"], b"t\0").code, 0);
    assert_eq!(node.run(&["append", "word", "-1"]).code, 0);
    let hit = node.json(&["get", "word"]);
    assert_eq!((&hit["value"], &hit["flags"]), (&json!("quoit\0-1"), &json!(42)));
    let added = node.json(&["append", "word", "!"]);
    assert_eq!((&added["stored"], added["version"].is_string()), (&json!(true), true), "{added}");
    assert_eq!(node.json(&["append", "nothing", "!"])["stored"], json!(false));
}

#[test]
fn a_flush_takes_every_item() {
    let node = Running::new();
    // Keys of both cores.
    let keys: Vec<String> = (0..16).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        assert_eq!(node.run(&["set", key, "v"]).code, 0);
    }
    let flushed = node.run(&["flush"]);
    assert_eq!((flushed.code, flushed.output.len(), flushed.error.as_str()), (0, 0, ""));
    for key in &keys {
        assert_eq!(node.run(&["get", key]).code, 1, "{key}");
    }
    assert_eq!(node.json(&["flush"])["flushed"], json!(true));
}

#[test]
fn a_time_to_live_of_zero_is_for_ever() {
    let node = Running::new();
    // What lived for one millisecond would be gone when the next command asks.
    assert_eq!(node.run(&["set", "k", "v", "--ttl", "0"]).code, 0);
    assert_eq!(node.run(&["get", "k", "--touch", "0s"]).code, 0);
    assert_eq!(node.run(&["touch", "k", "--ttl", "0"]).code, 0);
    assert_eq!(node.run(&["get", "k"]).output, b"v");
    assert_eq!(node.run(&["incr", "n", "--initial", "7", "--ttl", "0"]).code, 0);
    assert_eq!(node.run(&["get", "n"]).output, b"7");
}

#[test]
fn a_version_from_get_guards_a_set() {
    let node = Running::new();
    assert_eq!(node.run(&["set", "k", "old", "--flags", "42"]).code, 0);
    let shown = node.json(&["get", "k"]);
    assert_eq!((&shown["value"], &shown["flags"], &shown["found"]), (&json!("old"), &json!(42), &json!(true)));
    let version = shown["version"].as_str().expect("a version");
    assert_eq!(node.run(&["set", "k", "new", "--if-version", version]).code, 0);
    let refused = node.run(&["set", "k", "newer", "--if-version", version]);
    assert_eq!(refused.code, 1);
    assert!(refused.error.contains("condition"), "{}", refused.error);
    assert_eq!(node.run(&["get", "k"]).output, b"new");
    assert_eq!(node.json(&["set", "k", "x", "--if-absent"])["stored"], json!(false));
}

#[test]
fn counters_print_their_sum() {
    let node = Running::new();
    assert_eq!(node.run(&["incr", "n", "--initial", "10"]).output, b"10\n");
    assert_eq!(node.run(&["incr", "n"]).output, b"11\n");
    assert_eq!(node.run(&["incr", "n", "-20"]).output, b"-9\n");
    assert_eq!(node.json(&["incr", "n", "9"])["value"], json!(0));
    assert_eq!(node.run(&["set", "text", "five"]).code, 0);
    let refused = node.run(&["incr", "text"]);
    assert_eq!(refused.code, 2);
    assert!(refused.error.contains("decimal number"), "{}", refused.error);
}

#[test]
fn a_node_tells_of_itself() {
    let node = Running::new();
    assert_eq!(node.run(&["set", "k", "v"]).code, 0);
    let ping = node.run(&["ping"]);
    assert!(ping.code == 0 && ping.output.starts_with(b"answered in "), "{ping:?}");
    let stats = node.json(&["stats"]);
    assert_eq!(stats[0]["node"], json!("0000000000000007"));
    assert_eq!(stats[0]["cores"].as_array().map(Vec::len), Some(2));
    let table = String::from_utf8(node.run(&["stats"]).output).expect("text");
    assert!(table.contains("total  ") && table.contains("core 1"), "{table}");
    let topology = node.json(&["topology"]);
    assert_eq!(topology["vnodes"].as_array().map(Vec::len), Some(256));
    let table = String::from_utf8(node.run(&["topology"]).output).expect("text");
    assert!(table.contains("standalone, epoch 1, 256 vnodes") && table.contains("128 128"), "{table}");
}

#[test]
fn an_error_says_what_to_do() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let ended = run(&address, &["get", "k"], b"");
    assert_eq!((ended.code, ended.output.len()), (2, 0));
    assert!(ended.error.contains(&address) && ended.error.contains("quoit serve"), "{}", ended.error);

    let node = Running::new();
    for (arguments, mend) in [
        (&["get", ""][..], "1 to 65535"),
        (&["set", "k", "v", "--ttl", "5"], "30s"),
        (&["set", "k", "v", "--if-version", "latest"], "815.7"),
        (&["set", "k", "v", "--if-absent", "--if-present"], "--if-absent"),
    ] {
        let ended = node.run(arguments);
        assert!(ended.code == 2 && ended.error.contains(mend), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn every_command_teaches_by_example() {
    for command in ["get", "set", "append", "prepend", "del", "touch", "incr", "flush", "stats", "topology"] {
        let ended = run("127.0.0.1:1", &[command, "--help"], b"");
        let help = String::from_utf8(ended.output).expect("text");
        assert!(ended.code == 0 && help.contains(&format!("  quoit {command}")), "{help}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let node = Running::new();
    assert_eq!(node.run_with_input(&["set", "k", "-"], &vec![b'x'; 1 << 20]).code, 0);
    let address = node.0.as_ref().expect("it runs").address().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_quoit"))
        .args(["get", "k", "--server", &address, "--timeout", "30s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = watchdog::within("the command ends", || child.wait_with_output()).expect("it ends by itself");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
