"""Settings of the network path: which CPU takes a card's interrupts, and who hands its packets on."""

import os
import re

from declare import NEEDS_NIC, setting
from finding import Change, Finding, good, unseen
from machine import format_cpus, format_mask, parse_mask

NET = "/sys/class/net"
NO_NIC = "no network interface with hardware behind it"


def all_nics(machine):
    """Every network interface."""
    return [os.path.basename(path) for path in machine.list(f"{NET}/*") if machine.exists(f"{path}/queues")]


def nics_with_hardware(machine):
    """The interfaces with a device behind them, virtual machines' included: no loopback, bridge or tunnel."""
    return [nic for nic in all_nics(machine) if machine.exists(f"{NET}/{nic}/device")]


def queues(machine, nic, kind):
    return machine.list(f"{NET}/{nic}/queues/{kind}-*")


def cpu_of_queue(target, index):
    """The CPU for a card's queue: the queues go around Quoit's CPUs."""
    return target.cores[index % len(target.cores)]


@setting(
    "nic_queues",
    why="With a queue for each of Quoit's CPUs, a connection's packets are taken by one CPU all the way up.",
    cost="the link is down for a moment; interrupts have to be set again",
    effect=NEEDS_NIC,
)
def nic_queues(machine, target):
    if not target.nics:
        return unseen(NO_NIC)
    counts = {nic: len(queues(machine, nic, "rx")) for nic in target.nics}
    value = ", ".join(f"{nic}: {count}" for nic, count in counts.items())
    few = [nic for nic, count in counts.items() if count < len(target.cores)]
    if not few:
        return good(value)
    # How many a card can have is only told by an ioctl, which a copy of the files does not answer.
    by_hand = [f"ethtool -l {nic}; ethtool -L {nic} combined {len(target.cores)}" for nic in few]
    return Finding("advice", value, f"{len(target.cores)} queues, or as many as the card has", by_hand=by_hand)


def queue_interrupts(machine, nic):
    """The card's interrupts that belong to a queue: (number, queue)."""
    # A virtio interface's device is the virtio one; its interrupts are those of the PCI device above.
    places = [f"{NET}/{nic}/device/msi_irqs", f"{NET}/{nic}/device/../msi_irqs"]
    numbers = {os.path.basename(path) for place in places for path in machine.list(f"{place}/*")}
    found = []
    for line in (machine.text("/proc/interrupts") or "").splitlines():
        number, _, rest = line.strip().partition(":")
        name = rest.split()[-1] if rest.split() else ""
        # eth0-TxRx-3, virtio2-input.0, mlx5_comp7@pci:0000:03:00.0; not eth0, virtio2-config or mlx5_async0.
        queue = re.search(r"(\d+)(@.*)?$", name.replace(nic, ""))
        if number in numbers and queue and not re.search("config|async|control|fdir", name):
            found.append((int(number), int(queue.group(1))))
    return found


def is_balanced(machine):
    """Whether irqbalance is running, which would move the interrupts again."""
    return any(machine.text(path) == "irqbalance" for path in machine.list("/proc/[0-9]*/comm"))


@setting(
    "irq_affinity",
    why="An interrupt taken on another CPU than the one that serves costs a hop and cold caches; moved about, it costs"
    " both at random.",
    cost="the kernel no longer spreads these interrupts",
    effect=NEEDS_NIC,
)
def irq_affinity(machine, target):
    if not target.nics:
        return unseen(NO_NIC)
    interrupts = {nic: queue_interrupts(machine, nic) for nic in target.nics}
    if not any(interrupts.values()):
        return unseen(f"no interrupts are listed for {', '.join(target.nics)}")
    changes, value = [], []
    for nic, found in interrupts.items():
        shared = len(queues(machine, nic, "rx")) < len(target.cores) and target.others
        for number, queue in found:
            path = f"/proc/irq/{number}/smp_affinity_list"
            # Fewer queues than CPUs: the few that would do all the work are better not Quoit's.
            wanted = target.others if shared else [cpu_of_queue(target, queue)]
            current = machine.cpus(path)
            if current is None:
                continue
            value.append(f"{number}: {format_cpus(current)}")
            if current != wanted:
                changes.append(Change(path, "cpus", format_cpus(wanted)))
    shown = ", ".join(value[:4]) + (f" and {len(value) - 4} more" if len(value) > 4 else "")
    if not value:
        return unseen("the interrupts' affinity can't be read")
    if not changes:
        return good(shown)
    by_hand = ["systemctl stop irqbalance (it would move them again)"] if is_balanced(machine) else []
    return Finding("advice", shown, "each queue's interrupt on one CPU", changes, by_hand)


def steering(machine, nic, kind, wanted_of):
    """What a card's queues of one kind are steered to, and the changes that make it `wanted_of(index, queues)`."""
    names = queues(machine, nic, kind)
    file = {"rx": "rps_cpus", "tx": "xps_cpus"}[kind]
    value, changes = [], []
    for index, queue in enumerate(names):
        path = f"{queue}/{file}"
        text = machine.text(path)
        if not text:
            continue
        current, wanted = parse_mask(text), wanted_of(index, len(names))
        value.append(format_cpus(current) or "off")
        if current != wanted:
            changes.append(Change(path, "mask", format_mask(wanted)))
    return value, changes


def steering_finding(machine, target, kind, advice, wanted_of):
    if not target.nics:
        return unseen(NO_NIC)
    values, changes = [], []
    for nic in target.nics:
        value, wanted = steering(machine, nic, kind, wanted_of)
        if value:
            values.append(f"{nic}: {', '.join(dict.fromkeys(value))}")
        changes += wanted
    if not values:
        return unseen("these interfaces can't be steered: one queue, or a kernel without it")
    return Finding("advice", "; ".join(values), advice, changes) if changes else good("; ".join(values))


@setting(
    "rps",
    why="With a hardware queue per CPU, handing packets on in software is a needless hop; with fewer queues it is what"
    " keeps one CPU from doing all the work.",
    cost="where it is on: an interrupt between CPUs for each burst",
    effect=NEEDS_NIC,
)
def rps(machine, target):
    def wanted(_, count):
        return [] if count >= len(target.cores) else target.cores

    return steering_finding(machine, target, "rx", "off with a queue per CPU, else over Quoit's CPUs", wanted)


@setting(
    "xps",
    why="A CPU that always sends through its own queue shares no lock with the others, and frees the buffers it used.",
    cost="none known",
    effect=NEEDS_NIC,
)
def xps(machine, target):
    def wanted(index, count):
        # Every CPU needs a queue, so with fewer queues than CPUs some have several.
        return [cpu for place, cpu in enumerate(target.cores) if place % count == index] or target.cores

    return steering_finding(machine, target, "tx", "each queue for its own CPUs", wanted)


@setting(
    "busy_poll",
    why="These make every poll and blocking read of the machine spin for packets. Quoit's rings don't look at them,"
    " and don't ask the kernel for busy polling; --idle spin is the way to spin.",
    cost="where they are on: CPU time of every process with a socket",
    effect=NEEDS_NIC,
    when_named=True,
)
def busy_poll(machine, target):
    paths = ["/proc/sys/net/core/busy_poll", "/proc/sys/net/core/busy_read"]
    found = {path: machine.number(path) for path in paths}
    if None in found.values():
        return unseen("this kernel has no busy polling")
    value = ", ".join(f"{os.path.basename(path)} {number} µs" for path, number in found.items())
    if not any(found.values()):
        return good(value)
    changes = [Change(path, "text", "0") for path, number in found.items() if number]
    return Finding("advice", value, "0, unless another program was tuned for it", changes)
