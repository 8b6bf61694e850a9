//! `quoit` as a person or a script meets it: the real binary, its exit codes, what it says, and how it ends.

mod children;
mod node_process;
mod watchdog;
mod wire_client;

use std::net::TcpListener;
use std::process::{Command, Output};

use node_process::{NodeProcess, quoit};
use quoit_wire::{HelloParameters, RequestBody, RequestOptions, Status};
use wire_client::WireClient;

/// Runs to the end, which comes by itself; exit code, standard output, standard error.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        watchdog::within("the command ends", || command.output()).expect("the binary runs");
    (status.code(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
}

#[test]
fn help_lists_the_commands_and_every_option_of_a_node() {
    let (code, help, _) = run(&mut quoit(&["--help"]));
    assert_eq!(code, Some(0));
    assert!(help.contains("serve") && help.contains("completions"), "{help}");
    let (code, help, _) = run(&mut quoit(&["serve", "--help"]));
    assert_eq!(code, Some(0));
    for option in [
        "--listen",
        "--advertise",
        "--admin",
        "--cores",
        "--memory",
        "--eviction",
        "--idle",
        "--value-max",
        "--insecure",
    ] {
        assert!(help.contains(option), "{option} is missing in\n{help}");
    }
    assert!(help.contains("QUOIT_VALUE_MAX"), "the help tells of the environment:\n{help}");
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&mut quoit(&["completions", shell]));
        assert_eq!(code, Some(0));
        assert!(script.contains("serve") && script.contains("eviction"), "{shell}: {script}");
    }
}

#[test]
fn an_unknown_flag_is_refused_with_the_nearest_one() {
    let (code, _, error) = run(&mut quoit(&["serve", "--memori", "1GiB"]));
    assert_eq!(code, Some(2));
    assert!(error.contains("--memory"), "{error}");
}

#[test]
fn bad_options_from_every_source_are_refused_together() {
    let path = std::env::temp_dir().join(format!("quoit-cli-{}.toml", std::process::id()));
    std::fs::write(&path, "# a node\neviction = 'newest'\n").expect("a file for the test");
    let file = path.to_str().expect("a path of plain letters");
    let (code, output, error) = run(quoit(&["serve", "--memory", "lots", "--config", file]).env("QUOIT_IDLE", "never"));
    std::fs::remove_file(&path).expect("the test's own file");
    assert_eq!((code, output.as_str()), (Some(2), ""));
    assert!(error.contains("memory = \"lots\" (command line)"), "{error}");
    assert!(error.contains("idle = \"never\" (environment)"), "{error}");
    assert!(error.contains(&format!("eviction = \"newest\" ({file}:2)")), "{error}");
    assert!(error.contains("to mend:  QUOIT_IDLE=adaptive"), "{error}");
}

#[test]
fn listening_off_loopback_is_refused_without_consent() {
    let (code, _, error) = run(&mut quoit(&["serve", "--listen", "0.0.0.0:0"]));
    assert_eq!(code, Some(2));
    assert!(error.contains("no authentication") && error.contains("--insecure"), "{error}");
}

#[test]
fn a_core_that_is_not_there_is_refused() {
    let (code, _, error) = run(&mut quoit(&["serve", "--cores", "4095"]));
    assert_eq!(code, Some(2));
    assert!(error.contains("there is no CPU 4095") && error.contains("to mend:  --cores "), "{error}");
}

#[test]
fn a_port_in_use_is_named_with_the_way_to_find_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    for (option, other) in [("--listen", "--admin"), ("--admin", "--listen")] {
        let arguments = ["serve", "--cores", "0", "--memory", "128MiB", option, &taken, other, "127.0.0.1:0"];
        let (code, output, error) = run(&mut quoit(&arguments));
        assert_eq!((code, output.as_str()), (Some(1), ""));
        assert!(error.contains(&format!("can't listen on {taken} ({option})")), "{error}");
        assert!(error.contains("ss -ltnp"), "{error}");
    }
}

#[test]
fn a_second_node_does_not_share_the_port_of_the_first() {
    let first = NodeProcess::start(&["--cores", "0"]);
    let taken = first.address.to_string();
    let arguments = ["serve", "--cores", "0", "--memory", "128MiB", "--admin", "127.0.0.1:0", "--listen", &taken];
    let (code, _, error) = run(&mut quoit(&arguments));
    assert_eq!(code, Some(1));
    assert!(error.contains(&format!("can't listen on {taken} (--listen)")), "{error}");
}

#[test]
fn a_node_serves_tells_of_itself_and_ends_well_on_sigterm() {
    let mut node = NodeProcess::start(&["--cores", "0,0", "--eviction", "lru"]);
    let mut client = WireClient::connect(node.address, HelloParameters::ANY_CORE);
    assert_eq!(client.call(&RequestBody::Get { key: b"greeting" }).status, Status::Miss);

    assert!(node.http_get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(node.http_get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(node.http_get("/topology").contains(&format!("\"address\":\"{}\"", node.address)));
    let metrics = node.http_get("/metrics");
    let misses =
        metrics.lines().filter(|line| line.contains("operation=\"get\",status=\"miss\"") && line.ends_with(" 1"));
    assert_eq!(misses.count(), 1, "one core has answered one miss:\n{metrics}");
    assert!(metrics.contains("quoit_core_up{core=\"1\"} 1"), "{metrics}");

    node.signal(libc::SIGTERM);
    let (code, log) = node.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("SIGTERM") && log.contains("stopped"), "{log}");
    assert_eq!(client.receive(), None, "the connection is closed, not reset with a reply outstanding");
}

#[test]
fn what_is_advertised_stands_in_the_topology() {
    let name = "cache-1.example.net:7400";
    let node = NodeProcess::start(&["--cores", "0", "--advertise", name]);
    assert!(node.http_get("/topology").contains(&format!("\"address\":\"{name}\"")));
    node.stop();
}

#[test]
fn a_json_log_is_json_line_by_line() {
    let mut node = NodeProcess::start(&["--cores", "0", "--log", "json"]);
    node.signal(libc::SIGINT);
    let (code, log) = node.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(event["level"].is_string() && event["message"].is_string(), "{line}");
    }
}

#[test]
fn a_second_signal_ends_a_node_that_is_still_draining() {
    let mut node = NodeProcess::start(&["--cores", "0"]);
    let mut client = WireClient::connect(node.address, HelloParameters::ANY_CORE);
    let value = vec![7; 1 << 20];
    let (parameters, condition) = Default::default();
    let set = RequestBody::Set { key: b"large", parameters, condition, value: &value };
    assert_eq!(client.call(&set).status, Status::Ok);
    // More than all buffers on the way hold, and nobody reads it: the drain waits for this reader.
    for _ in 0..64 {
        client.send(&RequestBody::Get { key: b"large" }, RequestOptions::default());
    }
    let first_byte = client.stream.peek(&mut [0]).expect("replies have begun to leave");
    assert_eq!(first_byte, 1);

    node.signal(libc::SIGTERM);
    node.await_log("stopping");
    node.signal(libc::SIGTERM);
    let (code, log) = node.wait();
    assert_eq!(code, Some(128 + libc::SIGTERM), "{log}");
    assert!(log.contains("a second time"), "{log}");
}
