"""Every setting that is looked at, in the order of the report, and the part of the machine that Quoit will use."""

from dataclasses import dataclass

import cpu
import limits
import memory
import network
from machine import Refused, format_cpus

# A setting is a function of (machine, target) that `setting` has given a name, a why, a cost and an effect.
ALL = [
    limits.kernel,
    limits.io_uring,
    cpu.governor,
    cpu.c_states,
    cpu.smt,
    cpu.isolation,
    network.nic_queues,
    network.irq_affinity,
    network.rps,
    network.xps,
    network.busy_poll,
    limits.somaxconn,
    memory.huge_pages,
    memory.numa,
    memory.numa_balancing,
    limits.memlock,
    limits.files,
]
NAMES = [setting.about["name"] for setting in ALL]


@dataclass
class Target:
    """What Quoit will use: its CPUs, the machine's other CPUs, and its network interfaces."""

    cores: list
    others: list
    nics: list


def target_of(machine, cores, nics):
    """The CPUs and interfaces asked for, or all there are; raises Refused for those that don't exist."""
    online = machine.cpus("/sys/devices/system/cpu/online")
    if online is None:
        raise Refused(f"no list of CPUs in {machine.place('/sys/devices/system/cpu/online')}: is /sys mounted?")
    missing = sorted(set(cores or []) - set(online))
    if missing:
        raise Refused(f"there is no CPU {format_cpus(missing)}; online are {format_cpus(online)}")
    for nic in nics or []:
        if not machine.exists(f"/sys/class/net/{nic}"):
            raise Refused(f"there is no network interface {nic}; there are {', '.join(network.all_nics(machine))}")
    cores = cores or online
    others = [cpu for cpu in online if cpu not in cores]
    return Target(cores, others, nics or network.nics_with_hardware(machine))


def check(machine, target):
    """Looks at every setting."""
    found = []
    for setting in ALL:
        finding = setting(machine, target)
        for name, value in setting.about.items():
            setattr(finding, name, value)
        found.append(finding)
    return found
