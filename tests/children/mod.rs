//! Child processes that end with the test which has started them, however it ends.
//!
//! A test that is killed drops nothing: its nodes and its etcd would run on, and what it has made on tmpfs would stay. So the
//! kernel is asked to kill each child when its parent ends, and the next run takes away what such a one has left. The kernel
//! means the *thread* that has forked (prctl(2), `PR_SET_PDEATHSIG`), and threads of tests come and go: one thread that lives
//! as long as the process starts all of them.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{LazyLock, mpsc};
use std::{fs, io, thread};

/// What is to be started, and where the child is awaited.
type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a child that the kernel kills with this process.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (order, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                // Nobody waits for it any more where the test has failed meanwhile.
                let _ = answer.send(command.spawn());
            }
        });
        order
    });
    let parent = std::process::id();
    // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // It may have ended before it was asked for.
            if libc::getppid() as u32 == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
    let (answer, child) = mpsc::channel();
    STARTER.send((command, answer)).expect("the thread lives as long as the process");
    child.recv().expect("it answers")
}

/// Whether `name` is `PREFIX-PID-…`, or a path that ends so, of a process that is no more.
pub(crate) fn is_left_behind(name: &Path, prefix: &str) -> bool {
    let name = name.file_name().and_then(|name| name.to_str());
    let rest = name.and_then(|name| name.strip_prefix(prefix)?.strip_prefix('-'));
    let owner = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    owner.is_some_and(|owner| !lives(owner))
}

/// A process that has ended and is not waited for has no command line any more, either.
fn lives(process: u32) -> bool {
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty())
}
