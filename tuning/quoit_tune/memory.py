"""Settings of memory: the size of its pages, and which node of the machine it lies on."""

import os

from declare import NEEDS_METAL, setting
from finding import Change, Finding, good, unseen
from machine import chosen, format_cpus

NODES = "/sys/devices/system/node"


@setting(
    "huge_pages",
    why="The arena asks for huge pages (madvise): with small ones nearly every random read misses the TLB too.",
    cost="memory in steps of 2 MiB; touching it first took 2.2 s instead of 0.5 s per GiB in the same measurement",
    effect="measured on a 2-core virtual machine, random reads over 1 GiB: 30 -> 18.5 ns each where they overlap, 370 ->"
    " 270 ns where each waits for the one before",
)
def huge_pages(machine, _target):
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    mode = chosen(machine.raw(path) or "")
    if mode is None:
        return unseen("this kernel has no transparent huge pages")
    if mode in ("madvise", "always"):
        return good(mode)
    return Finding("advice", mode, "madvise", [Change(path, "choice", "madvise")])


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
    known = {home for home in homes.values() if home is not None}
    if len(nodes) == 1 or (len(used) == 1 and known <= set(used)):
        return good(value)
    home = min(known) if known else used[0]
    cpus = format_cpus(nodes.get(home, []))
    return Finding("advice", value, f"Quoit on the card's node {home}" if known else "Quoit on one node",
                   by_hand=[f"quoit serve --cores {cpus} (or some of them)"])


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
