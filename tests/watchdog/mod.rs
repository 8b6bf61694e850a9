//! No test waits for ever: what takes too long ends the test's process, and tells where every thread of it stands.
//!
//! A hang that only ends with the patience of whoever started the tests tells nothing. Here it costs a minute, and prints
//! for each thread of this process and of its children what it is called, whether it runs or sleeps and where in the
//! kernel: looked at twice, so that spinning and sleeping differ. Then the children are ended, and this process aborts.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::disallowed_methods, reason = "a test that waits too long has failed")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time for one wait: the end of a node, a line of its log. None takes a tenth of it on an idle machine; longer
/// only means that a hang is told later.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(90);
/// Longest life of a node or a generator of a test, whatever the test does with it: it bounds the waits that nobody has
/// named, such as a write that nobody reads. The longest test of `make test` takes a minute.
pub(crate) const LIFE_MAX: Duration = Duration::from_secs(15 * 60);
/// Time between two looks at what is watched.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Something that has to be over before its time; it is when this is dropped.
pub(crate) struct Watch(u64);

struct Watched {
    what: String,
    since: Instant,
    limit: Duration,
    /// What is known of it, to be told when it took too long.
    describe: Box<dyn Fn() -> String + Send>,
}

static WATCHED: Mutex<BTreeMap<u64, Watched>> = Mutex::new(BTreeMap::new());

fn watched() -> MutexGuard<'static, BTreeMap<u64, Watched>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits: what takes longer than [`WAIT_MAX`] has failed.
pub(crate) fn within<T>(what: &str, wait: impl FnOnce() -> T) -> T {
    let _watch = watch(what, WAIT_MAX, String::new);
    wait()
}

/// Watches something from now on.
pub(crate) fn watch(what: &str, limit: Duration, describe: impl Fn() -> String + Send + 'static) -> Watch {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| drop(thread::spawn(look)));
    let mut watched = watched();
    let number = watched.last_key_value().map_or(0, |(number, _)| number + 1);
    let (what, describe) = (what.to_owned(), Box::new(describe));
    watched.insert(number, Watched { what, since: Instant::now(), limit, describe });
    Watch(number)
}

impl Drop for Watch {
    fn drop(&mut self) {
        watched().remove(&self.0);
    }
}

fn look() {
    loop {
        thread::park_timeout(LOOK_INTERVAL);
        let is_late = |(number, it): (&u64, &Watched)| (it.since.elapsed() > it.limit).then_some(*number);
        let late = watched().iter().find_map(is_late);
        if let Some(late) = late.and_then(|number| watched().remove(&number)) {
            give_up(&late);
        }
    }
}

/// Says what is known, and ends this process and its children.
fn give_up(late: &Watched) -> ! {
    let mut text = format!("\n== a test hangs: \"{}\" is not over after {:?}\n", late.what, late.limit);
    let children = children();
    let processes: Vec<u32> = [std::process::id()].into_iter().chain(children.iter().copied()).collect();
    let first: Vec<_> = processes.iter().map(|process| threads(*process)).collect();
    thread::park_timeout(LOOK_INTERVAL);
    for (process, first) in processes.iter().zip(first) {
        let _ = writeln!(text, "-- process {process}; processor time is that of {LOOK_INTERVAL:?}");
        for (thread, now) in threads(*process) {
            let ticks_before = first.get(&thread).map_or(0, |before| before.ticks);
            let _ = writeln!(text, "{thread:>8} {} ticks {}", now.line, now.ticks - ticks_before.min(now.ticks));
        }
    }
    // Not through what the test harness captures, and first what needs nobody's answer.
    let _ = io::stderr().write_all(text.as_bytes());
    let _ = io::stderr().write_all((late.describe)().as_bytes());
    for child in children {
        // SAFETY: no memory is passed; these are this process's own children, and nobody waits for them any more.
        unsafe { libc::kill(child as libc::pid_t, libc::SIGKILL) };
    }
    std::process::abort();
}

/// A thread at one moment.
struct Seen {
    /// User and kernel time it has taken, in the kernel's ticks (10 ms).
    ticks: u64,
    line: String,
}

fn threads(process: u32) -> BTreeMap<u32, Seen> {
    let folder = format!("/proc/{process}/task");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.map(|thread| (thread, seen(&format!("{folder}/{thread}")))).collect()
}

fn seen(folder: &str) -> Seen {
    // What the kernel does not tell is left out: a thread may just have ended, and stacks are for root alone.
    let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let number = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let stack: Vec<String> = read("stack").lines().map(|line| line.replace("[<0>] ", "")).collect();
    let line = format!(
        "{:16} {} in {} system call {} stack {}",
        read("comm").trim(),
        fields.first().unwrap_or(&"?"),
        read("wchan").trim(),
        read("syscall").trim(),
        stack.join(" < "),
    );
    Seen { ticks: number(11) + number(12), line }
}

/// The processes that this one has started and not waited for.
fn children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>()).collect()
}
