"""What the commands print: a table for people, JSON for programs."""

import shutil
import textwrap

from machine import format_cpus

MARKS = {"good": "good", "advice": "advice", "unfit": "UNFIT", "unseen": "not seen"}
WIDTH_MIN, WIDTH_MAX = 100, 160
# Shares of the width for value, advice, why and cost, behind the setting's own column.
SHARES = (0.20, 0.22, 0.38, 0.20)


def as_table(machine, target, found):
    width = max(WIDTH_MIN, min(WIDTH_MAX, shutil.get_terminal_size((120, 24)).columns))
    first = max(len(finding.name) for finding in found) + 1
    columns = [first] + [int((width - first - 8) * share) for share in SHARES]
    lines = [heading(machine, target), ""]
    lines += row(["setting", "value", "advice", "why, and by how much", "cost"], columns)
    lines.append("  ".join("-" * column for column in columns))
    for finding in (finding for finding in found if finding.verdict != "unseen"):
        if finding.verdict == "good":
            lines += row([finding.name, finding.value, "good", "", ""], columns)
            continue
        advice = finding.advice if finding.verdict == "advice" else f"{MARKS['unfit']}: {finding.advice}"
        why = f"{finding.why} ({finding.effect})"
        lines += row([finding.name, finding.value, advice, why, finding.cost], columns)
        for hand in finding.by_hand:
            lines += textwrap.wrap(f"by hand: {hand}", width - first - 2, initial_indent=" " * (first + 2),
                                   subsequent_indent=" " * (first + 4))
    lines += not_seen(machine, found) + [""] + summary(found)
    return "\n".join(line.rstrip() for line in lines)


def heading(machine, target):
    kind = "a virtual machine" if machine.is_virtual() else "a machine without a hypervisor"
    cpus = f"CPUs {format_cpus(target.cores)}" + (f" (others: {format_cpus(target.others)})" if target.others else "")
    nics = ", ".join(target.nics) if target.nics else "none with hardware"
    return f"quoit-tune: {kind}; Quoit on {cpus}; network interfaces: {nics}"


def row(cells, columns):
    wrapped = [textwrap.wrap(cell, column) or [""] for cell, column in zip(cells, columns)]
    height = max(len(cell) for cell in wrapped)
    padded = [cell + [""] * (height - len(cell)) for cell in wrapped]
    return ["  ".join(part.ljust(column) for part, column in zip(parts, columns)) for parts in zip(*padded)]


def not_seen(machine, found):
    unseen = [f"  {finding.name}: {finding.value}" for finding in found if finding.verdict == "unseen"]
    if machine.is_virtual():
        unseen.append("  the host: whether its cores are shared with others, how they are clocked and how deep they"
                      " sleep, and its network card")
    return ["", "Not seen from here:"] + unseen if unseen else []


def summary(found):
    def count(verdict):
        return sum(finding.verdict == verdict for finding in found)

    changes = sum(len(finding.changes) for finding in found if not finding.when_named)
    lines = [f"{count('good')} good, {count('advice')} with advice, {count('unfit')} unfit, {count('unseen')} not seen."]
    if changes:
        lines.append(f"quoit-tune apply would change {changes} file{'s' if changes > 1 else ''}; undo restores them.")
    for finding in found:
        if finding.when_named and finding.changes:
            lines.append(f"{finding.name} is only changed when named: quoit-tune apply --also {finding.name}")
    return lines


def as_json(machine, target, found):
    return {
        "virtual": machine.is_virtual(),
        "cores": target.cores,
        "network_interfaces": target.nics,
        "settings": [
            {
                "name": finding.name,
                "verdict": finding.verdict,
                "value": finding.value,
                "advice": finding.advice,
                "why": finding.why,
                "cost": finding.cost,
                "effect": finding.effect,
                "changes": [vars(change) for change in finding.changes],
                "by_hand": finding.by_hand,
                "when_named": finding.when_named,
            }
            for finding in found
        ],
    }


def applied_as_text(outcome):
    lines = [f"{entry['setting']}: {entry['path']}: {entry['before']} -> {entry['after']}" for entry in
             outcome["changed"]]
    lines += [f"{entry['setting']}: {entry['path']}: left out, {entry['problem']}" for entry in outcome["skipped"]]
    failed = outcome["failed"]
    if failed:
        lines.append(f"refused: {failed['path']}: {failed['error']}; everything was taken back"
                     + (f", but for {', '.join(failed['not_restored'])}" if failed["not_restored"] else ""))
    elif not outcome["changed"]:
        lines.append("nothing to change")
    elif outcome["dry_run"]:
        lines.append(f"{len(outcome['changed'])} to change; nothing was touched")
    else:
        lines.append(f"{len(outcome['changed'])} changed, until undo or the next restart")
    return "\n".join(lines)


def undone_as_text(outcome):
    if outcome["restarted"]:
        return "the machine was restarted since: its settings went back by themselves, and there is nothing to undo"
    lines = [f"{entry['setting']}: {entry['path']}: {entry['after']} -> {entry['before']}" for entry in
             outcome["restored"]]
    lines += [f"{entry['setting']}: {entry['path']}: left at {entry['now']}, which is not what apply wrote"
              " (--force restores it all the same)" for entry in outcome["left"]]
    lines.append(f"{len(outcome['restored'])} restored" + (f", {len(outcome['left'])} left" if outcome["left"] else ""))
    return "\n".join(lines)
