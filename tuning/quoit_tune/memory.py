"""Settings of memory: the size of its pages, and which node of the machine it lies on."""

import os
import re

from declare import NEEDS_METAL, setting
from finding import Change, Finding, good, unseen
from machine import chosen, format_cpus, parse_cpus

NODES = "/sys/devices/system/node"


@setting(
    "huge_pages",
    why="The arena asks for huge pages (madvise): with small ones nearly every random read misses the TLB too.",
    cost="memory in steps of 2 MiB; touching it first took 2.2 s instead of 0.5 s per GiB in the same measurement",
    effect="measured on a 2-core virtual machine, random reads over 1 GiB: 30 -> 18.5 ns each where they overlap, 370 ->"
    " 270 ns where each waits for the one before; defrag: not measured",
)
def huge_pages(machine, _target):
    folder = "/sys/kernel/mm/transparent_hugepage"
    enabled, defrag = (chosen(machine.raw(f"{folder}/{file}") or "") for file in ("enabled", "defrag"))
    if enabled is None:
        return unseen("this kernel has no transparent huge pages")
    # With "defer" and "never" memory that is fragmented gives small pages, though huge ones were asked for.
    fit = {"enabled": ("madvise", "always"), "defrag": (None, "madvise", "defer+madvise", "always")}
    changes = [Change(f"{folder}/{file}", "choice", "madvise") for file, mode in (("enabled", enabled), ("defrag", defrag))
               if mode not in fit[file]]
    value = enabled if defrag is None else f"{enabled}, defrag {defrag}"
    if not changes:
        return good(value)
    advice = ", ".join("madvise" if change.path.endswith("enabled") else "defrag madvise" for change in changes)
    return Finding("advice", value, advice, changes)


@setting(
    "numa",
    why="Memory and packets of another node come over the interconnect: every miss waits for it.",
    cost="a node per NUMA node, or the other node's cores unused",
    effect=NEEDS_METAL + " with more than one node",
)
def numa(machine, target):
    nodes = {int(os.path.basename(path)[4:]): machine.cpus(f"{path}/cpulist") or [] for path in
             machine.list(f"{NODES}/node[0-9]*")}
    if not nodes:
        return unseen("this kernel lists no NUMA nodes")
    used = [node for node, cpus in nodes.items() if set(cpus) & set(target.cores)]
    homes = {}
    for nic in target.nics:
        # -1: the firmware does not say. A virtio interface's device is below the PCI one.
        home = machine.number(f"/sys/class/net/{nic}/device/numa_node")
        home = machine.number(f"/sys/class/net/{nic}/device/../numa_node") if home is None else home
        homes[nic] = home if home is not None and home >= 0 else None
    cards = ", ".join(f"{nic} on {'an unknown node' if home is None else f'node {home}'}" for nic, home in homes.items())
    value = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}; Quoit's CPUs on {format_cpus(used)}"
    value += f"; {cards}" if cards else ""
    memory = {node: memory_of(machine, node) for node in used}
    told = ", ".join(f"node {node} has {kib / (1 << 20):.1f} GiB" for node, kib in memory.items() if kib is not None)
    value += f"; {told}" if told else ""
    known = {home for home in homes.values() if home is not None}
    # A core's memory is taken from its own node, if that has any and the process may have it.
    allowed = memory_nodes_allowed(machine)
    barren = [node for node, kib in memory.items() if kib == 0]
    barred = [node for node in used if allowed is not None and node not in allowed]
    if barren:
        fed = [cpu for node, cpus in nodes.items() if memory_of(machine, node) for cpu in cpus]
        return Finding("advice", value, f"CPUs of a node with memory: node {format_cpus(barren)} has none",
                       by_hand=[f"quoit serve --cores {format_cpus(fed)} (or some of them)"])
    if barred:
        return Finding("advice", value, f"memory of node {format_cpus(barred)} for Quoit, which may use that of node"
                       f" {format_cpus(allowed)} alone",
                       by_hand=[f"AllowedMemoryNodes={format_cpus(used)} in the service, or cpuset.mems of its cgroup"])
    if len(nodes) == 1 or (len(used) == 1 and known <= set(used)):
        return good(value)
    home = min(known) if known else used[0]
    cpus = format_cpus(nodes.get(home, []))
    return Finding("advice", value, f"Quoit on the card's node {home}" if known else "Quoit on one node",
                   by_hand=[f"quoit serve --cores {cpus} (or some of them)"])


def memory_of(machine, node):
    """KiB of memory that a node has; None where the kernel does not tell."""
    found = re.search(r"MemTotal:\s*(\d+) kB", machine.text(f"{NODES}/node{node}/meminfo") or "")
    return None if found is None else int(found.group(1))


def memory_nodes_allowed(machine):
    """The nodes whose memory this process may use, and so what it starts; None where the kernel does not tell."""
    found = re.search(r"^Mems_allowed_list:\s*(\S+)$", machine.text("/proc/self/status") or "", re.MULTILINE)
    return None if found is None else parse_cpus(found.group(1))


@setting(
    "numa_balancing",
    why="The kernel takes pages away from a process now and then to see who touches them: a fault on a page that is"
    " served. Quoit's memory lies on its core's node from the start.",
    cost="programs that are not pinned may lie on the wrong node for longer",
    effect=NEEDS_METAL + " with more than one node",
)
def numa_balancing(machine, _target):
    path = "/proc/sys/kernel/numa_balancing"
    mode = machine.text(path)
    if mode is None:
        return good("this kernel has none")
    if mode == "0" or len(machine.list(f"{NODES}/node[0-9]*")) < 2:
        return good(mode)
    return Finding("advice", mode, "0", [Change(path, "text", "0")])
