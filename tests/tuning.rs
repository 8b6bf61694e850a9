//! `tuning/quoit-tune` against copies of /sys and /proc: what it sees and advises, and that undo restores every byte.
//!
//! Each test makes a small machine of files, runs the script on it with `--root`, and looks at the files afterwards.

#![expect(clippy::unwrap_used, reason = "what can't be read fails its test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A four-CPU server with one two-queue card, set up as a distribution leaves it.
const BARE_METAL: &[(&str, &str)] = &[
    ("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme sse2\n"),
    (
        "/proc/interrupts",
        concat!(
            "           CPU0       CPU1       CPU2       CPU3\n",
            "  8:          0          0          0          1  IO-APIC   8-edge      rtc0\n",
            " 40:          9          0          0          0  PCI-MSIX-0000:03:00.0   0-edge      eth0\n",
            " 41:         10          0          0          0  PCI-MSIX-0000:03:00.0   1-edge      eth0-TxRx-0\n",
            " 42:          0         10          0          0  PCI-MSIX-0000:03:00.0   2-edge      eth0-TxRx-1\n",
            "NMI:          0          0          0          0  Non-maskable interrupts\n",
        ),
    ),
    ("/proc/irq/8/smp_affinity_list", "0-3\n"),
    ("/proc/irq/40/smp_affinity_list", "0-3\n"),
    ("/proc/irq/41/smp_affinity_list", "0-3\n"),
    ("/proc/irq/42/smp_affinity_list", "0-3\n"),
    ("/proc/self/limits", LIMITS),
    ("/proc/self/status", "Cpus_allowed_list:\t0-3\nMems_allowed:\t3\nMems_allowed_list:\t0-1\n"),
    ("/proc/sys/kernel/osrelease", "6.12.9-amd64\n"),
    ("/proc/sys/kernel/io_uring_disabled", "0\n"),
    ("/proc/sys/kernel/numa_balancing", "1\n"),
    ("/proc/sys/kernel/random/boot_id", "11111111-1111-1111-1111-111111111111\n"),
    ("/proc/sys/net/core/busy_poll", "50\n"),
    ("/proc/sys/net/core/busy_read", "0\n"),
    ("/proc/sys/net/core/somaxconn", "128\n"),
    ("/sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
    ("/sys/class/net/eth0/device/numa_node", "1\n"),
    ("/sys/class/net/eth0/device/msi_irqs/40", "msix\n"),
    ("/sys/class/net/eth0/device/msi_irqs/41", "msix\n"),
    ("/sys/class/net/eth0/device/msi_irqs/42", "msix\n"),
    ("/sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,0000000f\n"),
    ("/sys/class/net/eth0/queues/rx-1/rps_cpus", "00000000,00000000\n"),
    ("/sys/class/net/eth0/queues/tx-0/xps_cpus", "00000000,00000005\n"),
    ("/sys/class/net/eth0/queues/tx-1/xps_cpus", "00000000,0000000a\n"),
    ("/sys/devices/system/cpu/online", "0-3\n"),
    ("/sys/devices/system/cpu/isolated", "\n"),
    ("/sys/devices/system/cpu/nohz_full", "(null)\n"),
    ("/sys/devices/system/node/node0/cpulist", "0-1\n"),
    ("/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       33554432 kB\nNode 0 MemFree: 9 kB\n"),
    ("/sys/devices/system/node/node1/cpulist", "2-3\n"),
    ("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:       16777216 kB\nNode 1 MemFree: 9 kB\n"),
    ("/sys/kernel/mm/transparent_hugepage/defrag", "always [defer] defer+madvise madvise never\n"),
    ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"),
];

const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     \n\
Max open files            1024                 4096                 files     \n\
Max locked memory         65536                unlimited            bytes     \n";

/// The files of one CPU of the server: governor, two sleep states, and its sibling's number.
fn cpu_files(cpu: usize) -> Vec<(String, String)> {
    let base = format!("/sys/devices/system/cpu/cpu{cpu}");
    let file = |name: &str, text: &str| (format!("{base}/{name}"), text.to_owned());
    vec![
        file("cpufreq/scaling_governor", "schedutil\n"),
        file("cpufreq/scaling_available_governors", "performance schedutil \n"),
        file("cpuidle/state0/name", "POLL\n"),
        file("cpuidle/state0/latency", "0\n"),
        file("cpuidle/state0/disable", "0\n"),
        file("cpuidle/state1/name", "C6\n"),
        file("cpuidle/state1/latency", "133\n"),
        file("cpuidle/state1/disable", "0\n"),
        file("topology/thread_siblings_list", if cpu < 2 { "0-1\n" } else { "2-3\n" }),
    ]
}

/// A copy of a machine's files, gone when the test ends.
struct Machine {
    root: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Machine {
    fn of(test: &str, files: impl IntoIterator<Item = (String, String)>) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tuning-{test}"));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        let machine = Self { root };
        for (path, text) in files {
            machine.put(&path, &text);
        }
        machine
    }

    /// The four-CPU server.
    fn server(test: &str) -> Self {
        let fixed = BARE_METAL.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        Self::of(test, fixed.chain((0..4).flat_map(cpu_files)))
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn put(&self, path: &str, text: &str) {
        let place = self.place(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.place(path)).unwrap().trim().to_owned()
    }

    fn state_exists(&self) -> bool {
        self.place("/var/lib/quoit-tune/state.json").exists()
    }

    /// Every file below /sys and /proc with its bytes.
    fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.place("/sys"), self.place("/proc")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    found.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/quoit-tune");
        let output = Command::new("python3").arg(script).arg("--root").arg(&self.root).args(arguments).output();
        Run(output.expect("python3 is needed for this test: `make setup` installs it"))
    }

    /// The finding of `check --json` about one setting.
    fn finding(&self, name: &str, arguments: &[&str]) -> Value {
        let report = self.run(&[&["check", "--json"], arguments].concat()).json(0);
        let settings = report["settings"].as_array().unwrap().clone();
        settings.into_iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("no setting {name}"))
    }
}

/// What a run of the script left behind.
struct Run(Output);

impl Run {
    /// Asserts the exit code; a failure shows all that was printed.
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "{}{}", self.stdout(), self.stderr());
        self
    }

    fn json(self, code: i32) -> Value {
        let run = self.expect(code);
        serde_json::from_str(&run.stdout()).unwrap_or_else(|error| panic!("{error}: {}", run.stdout()))
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }
}

#[test]
fn check_changes_nothing_and_every_advice_has_its_why_cost_and_effect() {
    let machine = Machine::server("check");
    let before = machine.bytes();
    let report = machine.run(&["check", "--json"]).json(0);
    let settings = report["settings"].as_array().unwrap();
    assert_eq!(settings.len(), 17);
    for setting in settings {
        let filled = |field: &str| !setting[field].as_str().unwrap().is_empty();
        assert!(filled("name") && filled("value") && filled("why") && filled("cost"), "{setting}");
        assert!(setting["verdict"] != "advice" || filled("advice"), "{setting}");
        let effect = setting["effect"].as_str().unwrap();
        assert!(effect.contains("measured") || effect.contains("requirement"), "{setting}");
    }
    let table = machine.run(&["check"]).expect(0).stdout();
    for word in ["setting", "value", "advice", "why", "cost", "governor", "schedutil", "performance on 4"] {
        assert!(table.contains(word), "the table lacks {word:?}:\n{table}");
    }
    assert!(before == machine.bytes() && !machine.state_exists());
}

#[test]
fn advice_follows_from_what_is_there() {
    let machine = Machine::server("advice");
    let verdict = |name: &str, arguments: &[&str]| machine.finding(name, arguments)["verdict"].clone();
    for name in ["governor", "c_states", "smt", "isolation", "nic_queues", "somaxconn", "huge_pages", "files"] {
        assert_eq!(verdict(name, &[]), "advice", "{name}");
    }
    assert_eq!(machine.finding("c_states", &[])["value"], "C6 (133 µs)");
    let of_two = ["--cores", "2-3"];
    assert_eq!(machine.finding("numa", &["--cores", "0-1"])["advice"], "Quoit on the card's node 1");
    assert_eq!(verdict("numa", &of_two), "good");
    assert_eq!(verdict("nic_queues", &of_two), "good");
    assert_eq!(verdict("smt", &["--cores", "1,3"]), "good");
    let isolation = machine.finding("isolation", &of_two);
    assert_eq!(
        isolation["by_hand"][0], "boot with: isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3",
        "{isolation}"
    );
    machine.put("/sys/devices/system/cpu/isolated", "2-3\n");
    machine.put("/sys/devices/system/cpu/nohz_full", "2-3\n");
    assert_eq!(verdict("isolation", &of_two), "good");
}

#[test]
fn memory_is_judged_by_whether_a_cores_own_node_gives_it_any() {
    let machine = Machine::server("memory-nodes");
    let numa = |cores: &str| machine.finding("numa", &["--cores", cores]);
    let value = numa("2-3")["value"].as_str().unwrap().to_owned();
    assert!(value.contains("node 1 has 16.0 GiB"), "{value}");
    machine.put("/proc/self/status", "Mems_allowed_list:\t0\n");
    let barred = numa("2-3");
    assert!(barred["advice"].as_str().unwrap().starts_with("memory of node 1 for Quoit"), "{barred}");
    assert!(barred["by_hand"][0].as_str().unwrap().starts_with("AllowedMemoryNodes=1 "), "{barred}");
    machine.put("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:              0 kB\n");
    let barren = numa("2-3");
    assert_eq!(barren["advice"], "CPUs of a node with memory: node 1 has none", "{barren}");
    assert_eq!(barren["by_hand"][0], "quoit serve --cores 0-1 (or some of them)");
}

#[test]
fn huge_pages_are_asked_for_and_made_at_once() {
    let machine = Machine::server("huge-pages");
    let folder = "/sys/kernel/mm/transparent_hugepage";
    let found = machine.finding("huge_pages", &[]);
    assert_eq!((&found["value"], &found["advice"]), (&"never, defrag defer".into(), &"madvise, defrag madvise".into()));
    machine.put(&format!("{folder}/enabled"), "[always] madvise never\n");
    assert_eq!(machine.finding("huge_pages", &[])["advice"], "defrag madvise");
    machine.run(&["apply", "--only", "huge_pages"]).expect(0);
    assert_eq!(machine.text(&format!("{folder}/defrag")), "always defer defer+madvise [madvise] never");
    assert_eq!(machine.text(&format!("{folder}/enabled")), "[always] madvise never");
    assert_eq!(machine.finding("huge_pages", &[])["verdict"], "good");
}

#[test]
fn what_quoit_cannot_run_with_is_unfit() {
    let machine = Machine::server("unfit");
    machine.put("/proc/sys/kernel/osrelease", "5.10.0-30-amd64\n");
    machine.put("/proc/sys/kernel/io_uring_disabled", "2\n");
    machine.put("/proc/self/limits", &LIMITS.replace("unlimited", "65536    ").replace("4096", "64  "));
    let run = machine.run(&["check"]).expect(1);
    assert_eq!(run.stdout().matches("UNFIT").count(), 4, "{}", run.stdout());
}

#[test]
fn apply_follows_the_advice_and_undo_restores_every_byte() {
    let machine = Machine::server("apply");
    let before = machine.bytes();
    let applied = machine.run(&["apply", "--cores", "2-3", "--json"]).json(0);
    assert_eq!(applied["skipped"], Value::Array(Vec::new()));
    assert!(machine.state_exists());
    let cpu = "/sys/devices/system/cpu";
    for (path, now) in [
        (format!("{cpu}/cpu3/cpufreq/scaling_governor"), "performance"),
        (format!("{cpu}/cpu2/cpuidle/state1/disable"), "1"),
        (format!("{cpu}/cpu2/cpuidle/state0/disable"), "0"),
        // CPUs that are not Quoit's keep what they have.
        (format!("{cpu}/cpu0/cpufreq/scaling_governor"), "schedutil"),
        ("/proc/irq/41/smp_affinity_list".to_owned(), "2"),
        ("/proc/irq/42/smp_affinity_list".to_owned(), "3"),
        // Neither a queue's interrupt nor the card's.
        ("/proc/irq/40/smp_affinity_list".to_owned(), "0-3"),
        ("/proc/irq/8/smp_affinity_list".to_owned(), "0-3"),
        ("/sys/class/net/eth0/queues/rx-0/rps_cpus".to_owned(), "0"),
        ("/sys/class/net/eth0/queues/tx-0/xps_cpus".to_owned(), "4"),
        ("/sys/class/net/eth0/queues/tx-1/xps_cpus".to_owned(), "8"),
        ("/proc/sys/net/core/somaxconn".to_owned(), "4096"),
        ("/proc/sys/kernel/numa_balancing".to_owned(), "0"),
        ("/sys/kernel/mm/transparent_hugepage/enabled".to_owned(), "always [madvise] never"),
        ("/sys/kernel/mm/transparent_hugepage/defrag".to_owned(), "always defer defer+madvise [madvise] never"),
        // Changed only when named.
        ("/proc/sys/net/core/busy_poll".to_owned(), "50"),
    ] {
        assert_eq!(machine.text(&path), now, "{path}");
    }
    let undone = machine.run(&["undo", "--json"]).json(0);
    assert_eq!(undone["restored"].as_array().unwrap().len(), applied["changed"].as_array().unwrap().len());
    assert!(before == machine.bytes() && !machine.state_exists());
    machine.run(&["undo"]).expect(3);
}

#[test]
fn fewer_queues_than_cpus_are_spread_in_software_and_taken_by_the_other_cpus() {
    let machine = Machine::server("few-queues");
    let before = machine.bytes();
    machine.run(&["apply", "--cores", "1-3", "--only", "irq_affinity,rps,xps"]).expect(0);
    assert_eq!(machine.text("/proc/irq/41/smp_affinity_list"), "0");
    assert_eq!(machine.text("/sys/class/net/eth0/queues/rx-0/rps_cpus"), "e");
    assert_eq!(machine.text("/sys/class/net/eth0/queues/tx-0/xps_cpus"), "a");
    assert_eq!(machine.text("/sys/class/net/eth0/queues/tx-1/xps_cpus"), "4");
    assert_eq!(machine.text("/proc/sys/net/core/somaxconn"), "128", "not among --only");
    machine.run(&["undo"]).expect(0);
    assert!(before == machine.bytes());
}

#[test]
fn a_second_apply_without_undo_is_refused() {
    let machine = Machine::server("twice");
    machine.run(&["apply", "--only", "somaxconn"]).expect(0);
    let after_one = machine.bytes();
    let refused = machine.run(&["apply"]).expect(3);
    assert!(refused.stderr().contains("run undo first"), "{}", refused.stderr());
    assert!(after_one == machine.bytes());
    machine.run(&["undo"]).expect(0);
    assert_eq!(machine.text("/proc/sys/net/core/somaxconn"), "128");
}

#[test]
fn a_dry_run_names_what_apply_would_change_and_touches_nothing() {
    let machine = Machine::server("dry-run");
    let before = machine.bytes();
    let dry = machine.run(&["apply", "--dry-run", "--also", "busy_poll", "--json"]).json(0);
    assert!(before == machine.bytes() && !machine.state_exists());
    let applied = machine.run(&["apply", "--also", "busy_poll", "--json"]).json(0);
    assert_eq!(dry["changed"], applied["changed"]);
    assert_eq!(machine.text("/proc/sys/net/core/busy_poll"), "0");
}

#[test]
fn nothing_is_changed_when_the_changes_cannot_be_noted_first() {
    let machine = Machine::server("no-state");
    machine.put("/var/lib", "a file where a directory is to be");
    let before = machine.bytes();
    // A file's own value, written back to it to see whether it takes it, leaves its bytes as they are: not its time.
    let written_at = || fs::metadata(machine.place("/proc/sys/net/core/somaxconn")).unwrap().modified().unwrap();
    let written_before = written_at();
    let refused = machine.run(&["apply"]).expect(3);
    assert!(refused.stderr().contains("can't note the changes"), "{}", refused.stderr());
    assert!(before == machine.bytes());
    assert_eq!(written_at(), written_before, "it was written before its value was noted");
}

#[test]
fn a_file_that_cannot_be_restored_is_left_out() {
    let machine = Machine::server("read-only");
    // A number that nobody can write, not even root.
    let path = machine.place("/proc/sys/kernel/numa_balancing");
    fs::remove_file(&path).unwrap();
    symlink("/proc/sys/kernel/ngroups_max", &path).unwrap();
    let before = machine.bytes();
    let outcome = machine.run(&["apply", "--only", "numa_balancing,somaxconn", "--json"]).json(0);
    assert_eq!(outcome["skipped"][0]["setting"], "numa_balancing");
    assert!(outcome["skipped"][0]["problem"].as_str().unwrap().starts_with("can't be restored"));
    assert_eq!(outcome["changed"][0]["setting"], "somaxconn");
    machine.run(&["undo"]).expect(0);
    assert!(before == machine.bytes());
}

#[test]
fn a_change_that_is_refused_takes_back_those_before_it() {
    let machine = Machine::server("refused");
    // This kernel's huge pages don't know `madvise`, so that write fails after others went through.
    machine.put("/sys/kernel/mm/transparent_hugepage/enabled", "always [never]\n");
    let before = machine.bytes();
    let outcome = machine.run(&["apply", "--json"]).json(1);
    assert_eq!(outcome["failed"]["path"], "/sys/kernel/mm/transparent_hugepage/enabled");
    assert!(before == machine.bytes() && !machine.state_exists());
}

#[test]
fn undo_leaves_alone_what_somebody_else_has_changed_since() {
    let machine = Machine::server("conflict");
    let before = machine.bytes();
    machine.run(&["apply", "--only", "somaxconn,governor"]).expect(0);
    machine.put("/proc/sys/net/core/somaxconn", "9999\n");
    let undone = machine.run(&["undo", "--json"]).json(4);
    assert_eq!(undone["left"][0]["path"], "/proc/sys/net/core/somaxconn");
    assert_eq!(undone["restored"].as_array().unwrap().len(), 4, "the governors are restored");
    assert_eq!(machine.text("/proc/sys/net/core/somaxconn"), "9999");
    assert!(machine.state_exists(), "what is left can still be undone");
    machine.run(&["undo", "--force"]).expect(0);
    assert!(before == machine.bytes() && !machine.state_exists());
}

#[test]
fn after_a_restart_there_is_nothing_to_undo() {
    let machine = Machine::server("restart");
    machine.run(&["apply", "--only", "somaxconn"]).expect(0);
    machine.put("/proc/sys/kernel/random/boot_id", "22222222-2222-2222-2222-222222222222\n");
    machine.put("/proc/sys/net/core/somaxconn", "512\n");
    let undone = machine.run(&["undo", "--json"]).json(0);
    assert_eq!(undone["restarted"], true);
    assert_eq!(machine.text("/proc/sys/net/core/somaxconn"), "512");
    assert!(!machine.state_exists());
}

#[test]
fn a_state_file_that_is_not_ours_is_refused() {
    let machine = Machine::server("foreign-state");
    let outside = r#"{"format":1,"boot":"x","changes":[{"setting":"s","path":"/etc/passwd","kind":"text","before":"","after":""}]}"#;
    for state in ["", "[]", r#"{"format":2,"boot":"x","changes":[]}"#, outside] {
        machine.put("/var/lib/quoit-tune/state.json", state);
        let before = machine.bytes();
        machine.run(&["undo", "--force"]).expect(3);
        machine.run(&["apply"]).expect(3);
        assert!(before == machine.bytes(), "with {state:?}");
    }
}

#[test]
fn a_virtual_machine_is_checked_and_told_what_cannot_be_seen() {
    let files = [
        ("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor lahf_lm\n"),
        ("/proc/self/limits", LIMITS),
        ("/proc/sys/kernel/osrelease", "6.18.44\n"),
        ("/sys/devices/system/cpu/online", "0-1\n"),
        ("/sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
    ];
    let machine = Machine::of("virtual", files.map(|(path, text)| (path.to_owned(), text.to_owned())));
    let shown = machine.run(&["check"]).expect(0).stdout();
    assert!(shown.contains("a virtual machine") && shown.contains("Not seen from here:"), "{shown}");
    for unseen in ["governor: no cpufreq: the host sets", "c_states: no cpuidle: the host decides", "the host: whether"]
    {
        assert!(shown.contains(unseen), "{unseen}:\n{shown}");
    }
    assert_eq!(machine.finding("irq_affinity", &[])["verdict"], "unseen");
    assert!(machine.run(&["apply"]).expect(0).stdout().contains("nothing to change"));
    assert!(!machine.state_exists());
}

#[test]
fn wrong_arguments_say_what_is_right() {
    let machine = Machine::server("arguments");
    for (arguments, code, told) in [
        (&["check", "--cores", "7"][..], 3, "online are 0-3"),
        (&["check", "--cores", "two"], 2, "give it as 2-5,8"),
        (&["check", "--nic", "eth9"], 3, "there are eth0, lo"),
        (&["apply", "--only", "everything"], 2, "there are kernel, io_uring"),
    ] {
        let run = machine.run(arguments).expect(code);
        assert!(run.stderr().contains(told), "{arguments:?}: {}", run.stderr());
    }
}

#[test]
fn this_machine_can_be_checked() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/quoit-tune");
    let output = Command::new("python3").arg(script).args(["check", "--json"]).output().unwrap();
    // 1 is a machine that Quoit can't run on; it is reported all the same.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["settings"].as_array().unwrap().len(), 17);
}
