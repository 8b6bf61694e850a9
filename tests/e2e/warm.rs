//! A node that is ended under load and started again has all that it acknowledged, and how fast that goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::generator::Generator;
use crate::node_process::NodeProcess;
use crate::verify::{BESIDE_MEMORY_BYTES, BESIDE_MEMORY_BYTES_PER_CORE};
use crate::{two_cores, whole_machine};

/// What fills about 60 MiB, and 1.5 GiB in values of two sizes.
const SHORT: &[&[&str]] = &[&["--keys", "100000", "--value-size", "24-1KiB"]];
const LONG: &[&[&str]] = &[
    &["--keys", "6000000", "--key-size", "16", "--value-size", "100"],
    &["--keys", "700000", "--key-size", "20", "--value-size", "1KiB"],
];
/// Asks for what was filled, and for nothing else.
const ASKING: &[&str] = &["--set-ratio", "0", "--connections", "16", "--pipeline", "16"];

/// A folder for the state, removed with the test. Beside the build, on a disk: a folder for what is temporary may be memory.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let target = std::env::current_exe().expect("this test has a path");
        let target = target.parent().expect("target/PROFILE/deps/TEST");
        Self(target.join(format!("warm-{name}-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Not there when the test did not come so far.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_warm_restart_loses_nothing_that_was_acknowledged() {
    warm_restart("short", 160, SHORT, "50000");
}

#[test]
#[ignore = "writes 1.5 GiB to the disk and reads it again, and tells how fast: make soak"]
fn soak_a_warm_restart_goes_at_the_speed_of_the_disk() {
    warm_restart("long", 2048, LONG, "2000000");
}

fn warm_restart(name: &str, memory_mib: u64, fills: &[&[&str]], requests: &str) {
    let _machine = whole_machine();
    let folder = Folder::new(name);
    let state = folder.0.to_str().expect("a path of plain letters");
    let memory = format!("{memory_mib}MiB");
    let options = ["--cores", two_cores(), "--memory", &memory, "--eviction", "none", "--state-dir", state];
    let mut node = NodeProcess::start_on("127.0.0.1:0", &options);
    for fill in fills {
        let filled = Generator::start("fill", node.address, fill).finish();
        assert!(filled.is_clean, "{}", filled.text);
    }
    let items = node.metric("quoit_items");
    // Requests are under way when the node is told to end.
    let asked_before = node.metric("quoit_requests_total");
    let endless = [fills[0], ASKING, &["--duration", "10m"]].concat();
    let asking = Generator::start("run", node.address, &endless);
    while node.metric("quoit_requests_total") < asked_before + 1000 {}
    node.signal(libc::SIGTERM);
    let (code, log) = node.wait();
    assert_eq!(code, Some(0), "{log}");
    println!("{}", line_with(&log, "the state is saved"));
    assert!(!asking.finish().is_clean, "the generator says that its server went");

    let mut node = NodeProcess::start_on("127.0.0.1:0", &options);
    println!("{}", node.await_log("the saved state is loaded"));
    assert_eq!(node.metric("quoit_items"), items);
    let most_bytes = (memory_mib << 20) + BESIDE_MEMORY_BYTES + 2 * BESIDE_MEMORY_BYTES_PER_CORE;
    let peak_bytes = node.resident_bytes_peak();
    assert!(peak_bytes <= most_bytes, "{peak_bytes} bytes were resident while it loaded, with {memory_mib} MiB");
    for fill in fills {
        let all = [fill, ASKING, &["--requests", requests]].concat();
        let report = Generator::start("run", node.address, &all).finish();
        assert!(report.is_clean && report.fraction("hit_ratio") == 1.0, "{}", report.text);
    }
    node.stop();
    if name == "long" {
        tell_the_disks_speed(&folder.0);
    }
}

/// What `dd` reaches on the same disk, with the same size of writes and reads, past the page cache as well.
fn tell_the_disks_speed(folder: &Path) {
    let file = folder.join("dd");
    for (name, from, to, flag) in [
        ("written", Path::new("/dev/zero"), &*file, "oflag=direct"),
        ("read", &*file, Path::new("/dev/null"), "iflag=direct"),
    ] {
        let output = Command::new("dd")
            .arg(format!("if={}", from.display()))
            .arg(format!("of={}", to.display()))
            .args(["bs=1M", "count=1536", flag])
            .args((name == "written").then_some("conv=fdatasync"))
            .output()
            .expect("dd runs");
        let text = String::from_utf8_lossy(&output.stderr);
        println!("dd, {name}: {}", text.lines().last().unwrap_or_default());
    }
}

fn line_with<'a>(log: &'a str, text: &str) -> &'a str {
    log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no \"{text}\" in\n{log}"))
}
