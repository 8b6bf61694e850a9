"""Settings of the CPUs that Quoit is pinned to: clock, sleep, siblings, and who else may run there."""

from declare import NEEDS_METAL, setting
from finding import Change, Finding, good, unseen
from machine import format_cpus

CPU = "/sys/devices/system/cpu"

# Sleep states that take longer to leave than this are advised against: a request over loopback that needs no
# wake-up takes some 23 µs, so such a state would be felt in every one that does.
EXIT_LATENCY_US_MAX = 10


@setting(
    "governor",
    why="A core that is clocked down answers the first requests of a burst slowly, and the governor only sees load it"
    " has already had.",
    cost="power and heat while idle",
    effect=NEEDS_METAL,
)
def governor(machine, target):
    paths = [f"{CPU}/cpu{cpu}/cpufreq/scaling_governor" for cpu in target.cores]
    found = {path: machine.text(path) for path in paths}
    if None in found.values():
        return unseen(
            "no cpufreq: the host sets the frequency" if machine.is_virtual() else "no cpufreq driver is loaded"
        )
    others = {path: governor for path, governor in found.items() if governor != "performance"}
    if not others:
        return good("performance")
    value = ", ".join(sorted(set(found.values())))
    offered = machine.text(f"{CPU}/cpu{target.cores[0]}/cpufreq/scaling_available_governors") or ""
    if "performance" not in offered.split():
        return Finding("advice", value, "the governor performance, which this kernel does not offer")
    changes = [Change(path, "text", "performance") for path in others]
    return Finding("advice", value, f"performance on {len(others)} of Quoit's CPUs", changes)


@setting(
    "c_states",
    why=f"A parked core that sleeps deeper than {EXIT_LATENCY_US_MAX} µs adds the time it takes to wake to the next"
    " request. With --idle spin it never sleeps, and this does not matter.",
    cost="power while idle; less turbo for the other cores",
    effect=NEEDS_METAL + ". (On a virtual machine over loopback a depth-1 request took 54 µs parked and 23 µs"
    " spinning: that whole difference is the wake-up.)",
)
def c_states(machine, target):
    names, changes, deepest = set(), [], 0
    states = [state for cpu in target.cores for state in machine.list(f"{CPU}/cpu{cpu}/cpuidle/state*")]
    if not states:
        return unseen("no cpuidle: the host decides how deep a core sleeps" if machine.is_virtual() else "no cpuidle")
    for state in states:
        latency_us = machine.number(f"{state}/latency") or 0
        if machine.text(f"{state}/disable") != "0":
            continue
        deepest = max(deepest, latency_us)
        if latency_us > EXIT_LATENCY_US_MAX:
            names.add(f"{machine.text(f'{state}/name')} ({latency_us} µs)")
            changes.append(Change(f"{state}/disable", "text", "1"))
    if not changes:
        note = "; the host may sleep deeper, which is not seen here" if machine.is_virtual() else ""
        return good(f"deepest takes {deepest} µs to leave{note}")
    return Finding("advice", ", ".join(sorted(names)), "disable these states on Quoit's CPUs", changes)


@setting(
    "smt",
    why="Two threads of one core share its caches and execution units: a neighbour makes a request's time jump.",
    cost="half of the hardware threads do other work, or none",
    effect=NEEDS_METAL,
)
def smt(machine, target):
    siblings = {cpu: machine.cpus(f"{CPU}/cpu{cpu}/topology/thread_siblings_list") for cpu in target.cores}
    if None in siblings.values():
        return unseen("no topology of threads")
    note = " (the host's own is not seen here)" if machine.is_virtual() else ""
    if all(len(threads) == 1 for threads in siblings.values()):
        return good(f"one thread per core{note}")
    one_each = sorted({min(set(threads) & set(target.cores)) for threads in siblings.values()})
    if len(one_each) == len(target.cores):
        return good(f"one thread of each core is Quoit's{note}")
    cores = format_cpus(one_each)
    return Finding(
        "advice",
        f"both threads of a core are Quoit's: {len(target.cores)} CPUs on {len(one_each)} cores",
        "one thread of each core, the other left idle",
        by_hand=[f"quoit serve --cores {cores}, and quoit-tune --cores {cores}"],
    )


@setting(
    "isolation",
    why="Other processes, kernel threads and the timer tick interrupt a core that serves: these make the slowest"
    " requests.",
    cost="the CPUs are lost to everything else; a restart",
    effect=NEEDS_METAL,
)
def isolation(machine, target):
    isolated = machine.cpus(f"{CPU}/isolated")
    if isolated is None:
        return unseen("this kernel does not list isolated CPUs")
    # Kernels without CONFIG_NO_HZ_FULL have no such file; those that have it may write "(null)".
    tickless = machine.cpus(f"{CPU}/nohz_full") or []
    value = f"isolated: {format_cpus(isolated) or 'none'}; nohz_full: {format_cpus(tickless) or 'none'}"
    if set(target.cores) <= set(isolated) & set(tickless):
        return good(value)
    if not target.others:
        advice = "leave at least one CPU to the system (--cores), then isolate the others"
        return Finding("advice", value, advice)
    cores = format_cpus(target.cores)
    parameters = f"isolcpus=managed_irq,domain,{cores} nohz_full={cores} rcu_nocbs={cores}"
    if not machine.exists(f"{CPU}/nohz_full"):
        parameters = f"isolcpus=managed_irq,domain,{cores}"
    return Finding("advice", value, f"isolate {cores}", by_hand=[f"boot with: {parameters}"])
