//! `quoit-loadgen` as a person or a script meets it: the real binary, its exit codes, and what it says.
//!
//! That there is a test of the binary also makes cargo build it for the tests that need it as a process
//! (`tests/e2e` of the server's package).

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Runs to the end, which comes by itself; exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quoit-loadgen"));
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("the binary runs");
    let Output { status, stdout, stderr } = output;
    (status.code(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
}

/// A file of the test's own.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("quoit-loadgen-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("a file for the test");
    path
}

#[test]
fn help_lists_the_commands() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for command in ["run", "fill", "replay", "echo"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is missing in\n{help}");
    }
}

#[test]
fn a_wrong_command_line_is_refused_with_2() {
    let (code, _, error) = run(&["run", "--set-ratio", "1.5"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("a ratio lies between 0 and 1"), "{error}");
}

#[test]
fn nobody_at_the_address_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let (code, output, error) = run(&["run", "--server", &address, "--cores", "0", "--duration", "1s"]);
    assert_eq!((code, output.as_str()), (Some(1), ""));
    assert!(error.contains(&address) && error.contains("refused"), "{error}");
}

#[test]
fn a_trace_that_cannot_be_played_is_refused_with_the_records_number() {
    let record = [1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];
    let cut = file("cut", &[&record[..], &record[..10]].concat());
    let noise = file("noise", &[0x5a; 240]);
    let missing = std::env::temp_dir().join("quoit-loadgen-no-such-trace");
    for (path, message) in [
        (&cut, "record 2 has 10 of its 24 bytes"),
        (&noise, "record 1 of the trace is corrupt"),
        (&missing, "can't read the trace"),
    ] {
        let (code, output, error) = run(&["replay", "--trace", path.to_str().expect("plain letters"), "--cores", "0"]);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{path:?}");
        assert!(error.contains(message), "{error}");
    }
    for path in [cut, noise] {
        std::fs::remove_file(path).expect("the test's own file");
    }
}
