"""What Quoit must be allowed: the kernel's age, io_uring, locked memory, open files, waiting connections."""

import re

from declare import setting
from finding import Change, Finding, good, unseen

# As src/runtime/preflight.rs has them: below these a node does not start.
KERNEL_MIN = (6, 1)
MEMLOCK_BYTES_MIN = 512 << 10
FILES_PER_PROCESS = 128
FILES_PER_CORE = 32

# Room for 65,536 connections on each of 15 cores; the kernel's own ceiling (fs.nr_open) by default.
FILES_ADVISED = 1 << 20
# The kernel's own default since 5.4.
SOMAXCONN_MIN = 4096

NO_EFFECT = "a requirement, not a tuning"


@setting("kernel", why="The socket rings use what came with 6.1 (DEFER_TASKRUN).", cost="-", effect=NO_EFFECT)
def kernel(machine, _target):
    release = machine.text("/proc/sys/kernel/osrelease")
    version = re.match(r"(\d+)\.(\d+)", release or "")
    if version is None:
        return unseen("the kernel's release can't be read")
    if tuple(map(int, version.groups())) < KERNEL_MIN:
        return Finding("unfit", release, "6.1 or newer")
    return good(release)


@setting(
    "io_uring",
    why="Every socket runs on it.",
    cost="any process may use io_uring: more of the kernel within reach of an attacker",
    effect=NO_EFFECT,
    when_named=True,
)
def io_uring(machine, _target):
    path = "/proc/sys/kernel/io_uring_disabled"
    mode = machine.text(path)
    if mode is None:
        return good("no switch (a kernel before 6.6)")
    if mode == "0":
        return good("enabled")
    who = "only a group may use it" if mode == "1" else "disabled"
    return Finding("unfit", f"{who} ({mode})", "0, or (where it is 1) Quoit's user in that group",
                   [Change(path, "text", "0")])


@setting(
    "somaxconn",
    why="Connections that arrive together wait here to be accepted; past it they are dropped and tried again a second"
    " later.",
    cost="a few MiB of kernel memory in a storm",
    effect="not measured",
)
def somaxconn(machine, _target):
    path = "/proc/sys/net/core/somaxconn"
    number = machine.number(path)
    if number is None:
        return unseen("net.core.somaxconn can't be read")
    if number >= SOMAXCONN_MIN:
        return good(str(number))
    return Finding("advice", str(number), str(SOMAXCONN_MIN), [Change(path, "text", str(SOMAXCONN_MIN))])


def hard_limit(machine, noun):
    """A hard limit of this process; None where it can't be read, infinity for none."""
    match = re.search(rf"^{noun}\s+\S+\s+(\S+)", machine.raw("/proc/self/limits") or "", re.MULTILINE)
    if match is None:
        return None
    return float("inf") if match.group(1) == "unlimited" else int(match.group(1))


@setting(
    "memlock",
    why="Executors lock memory for their rings. Seen is this shell's limit; a service has its own.",
    cost="none known",
    effect=NO_EFFECT,
)
def memlock(machine, _target):
    limit = hard_limit(machine, "Max locked memory")
    if limit is None:
        return unseen("the limit of locked memory can't be read")
    shown = "unlimited" if limit == float("inf") else f"{int(limit) >> 10} KiB"
    if limit >= MEMLOCK_BYTES_MIN:
        return good(shown)
    by_hand = ["service: LimitMEMLOCK=infinity; shell: ulimit -l unlimited, as root before Quoit's user is taken on"]
    return Finding("unfit", shown, f"at least {MEMLOCK_BYTES_MIN >> 10} KiB", by_hand=by_hand)


@setting(
    "files",
    why="Each connection is an open file; a node takes as many connections as this allows. Seen is this shell's limit; a"
    " service has its own.",
    cost="none known",
    effect=NO_EFFECT,
)
def files(machine, target):
    limit = hard_limit(machine, "Max open files")
    if limit is None:
        return unseen("the limit of open files can't be read")
    needed = FILES_PER_PROCESS + (FILES_PER_CORE + 1) * len(target.cores)
    shown = "unlimited" if limit == float("inf") else str(int(limit))
    by_hand = [f"service: LimitNOFILE={FILES_ADVISED}; shell: ulimit -n {FILES_ADVISED}"]
    if limit < needed:
        return Finding("unfit", shown, f"at least {needed}", by_hand=by_hand)
    if limit < FILES_ADVISED:
        room = int(limit) - needed + len(target.cores)
        return Finding("advice", f"{shown} (some {room} connections)", str(FILES_ADVISED), by_hand=by_hand)
    return good(shown)
