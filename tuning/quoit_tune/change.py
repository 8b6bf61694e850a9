"""Applying and undoing: no file is written that could not be restored, and none before its old value is on disk.

The state file lists every file with its value before and after. It is written, and synced, before the first change; undo
removes it after the last. So after a crash at any point undo brings everything back. That a file can be restored is tried
by writing its own value to it, which may not be without effect either: that comes after the state file, too. State from before a restart of
the machine is void: the kernel's settings went with it, and interrupt numbers may mean something else now.
"""

import json
import os
import tempfile

from finding import READERS
from machine import Refused, chosen

FORMAT = 1


def apply(machine, findings, dry_run):
    """Carries out the findings' changes; returns what was done, skipped and failed."""
    refuse_if_applied(machine)
    if not dry_run and not machine.is_copy and os.geteuid() != 0:
        raise Refused("changing the kernel's settings needs root")
    planned, skipped = plan(machine, findings)
    if planned and not dry_run:
        save_state(machine, planned)
        planned, not_restorable = restorable(machine, planned)
        skipped += not_restorable
        if planned:
            save_state(machine, planned)
        else:
            os.remove(machine.state_path)
    outcome = {"dry_run": dry_run, "changed": planned, "skipped": skipped, "failed": None}
    if dry_run or not planned:
        return outcome
    for index, entry in enumerate(planned):
        try:
            put(machine, entry, "after")
        except OSError as error:
            restored = planned[: index + 1]
            # The last one was refused, so it mostly stands as it was; writing it again does no harm.
            left = [entry for entry in reversed(restored) if not put_back(machine, entry)]
            if not left:
                os.remove(machine.state_path)
            outcome["failed"] = {"path": entry["path"], "error": str(error), "not_restored": [e["path"] for e in left]}
            outcome["changed"] = []
            break
    return outcome


def undo(machine, force):
    """Restores what the state file says; returns what was restored and what somebody else has changed since."""
    state = load_state(machine)
    if state is None:
        raise Refused(f"nothing to undo: there is no {machine.state_path}")
    outcome = {"restarted": state["boot"] != machine.boot(), "restored": [], "left": []}
    if outcome["restarted"]:
        os.remove(machine.state_path)
        return outcome
    left = []
    for entry in reversed(state["changes"]):
        now = value_now(machine, entry)
        if now == shown_value(entry, "before"):
            continue
        if now != shown_value(entry, "after") and not force:
            left.append({**entry, "now": machine.text(entry["path"])})
        elif put_back(machine, entry):
            outcome["restored"].append(entry)
        else:
            left.append({**entry, "now": machine.text(entry["path"])})
    outcome["left"] = left
    if left:
        kept = [{key: value for key, value in entry.items() if key != "now"} for entry in reversed(left)]
        save_state(machine, kept)
    else:
        os.remove(machine.state_path)
    return outcome


def refuse_if_applied(machine):
    state = load_state(machine)
    if state is not None and state["boot"] == machine.boot():
        raise Refused(f"already applied (it is noted in {machine.state_path}): run undo first")


def plan(machine, findings):
    """The changes with their values before and after, and those without a value that could be noted. Writes nothing."""
    planned, skipped = [], []
    for finding in findings:
        for change in finding.changes:
            raw = machine.raw(change.path)
            before = None if raw is None else chosen(raw) or raw.strip()
            entry = {"setting": finding.name, "path": change.path, "kind": change.kind, "before": before,
                     "after": change.wanted}
            if before is None:
                skipped.append({**entry, "problem": "can't be read"})
            else:
                planned.append(entry)
    return planned, skipped


def restorable(machine, planned):
    """Writes each file's own value to it: where that fails, or reads back differently, it can't be restored and is left out."""
    kept, skipped = [], []
    for entry in planned:
        try:
            put(machine, entry, "before")
            kept.append(entry)
        except OSError as error:
            skipped.append({**entry, "problem": f"can't be restored: {error.strerror or error}"})
    return kept, skipped


def put(machine, entry, which):
    """Writes the value before or after, and reads it back; raises OSError where it did not take."""
    # An empty write is no write at all to the kernel; the empty list of CPUs is spelt 0 as a mask.
    machine.write(entry["path"], entry[which] or "0")
    if value_now(machine, entry) != shown_value(entry, which):
        raise OSError(None, f"{entry['path']} reads {machine.text(entry['path'])!r} after writing {entry[which]!r}")


def put_back(machine, entry):
    try:
        put(machine, entry, "before")
    except OSError:
        return False
    return True


def value_now(machine, entry):
    """What the file holds, in the form it is compared in; None where it can't be read as that."""
    raw = machine.raw(entry["path"])
    try:
        return None if raw is None else READERS[entry["kind"]](raw)
    except ValueError:
        return None


def shown_value(entry, which):
    return READERS[entry["kind"]](entry[which])


def save_state(machine, entries):
    """Replaces the state file as a whole, on disk before anything is changed."""
    state = {"format": FORMAT, "boot": machine.boot(), "changes": entries}
    directory = os.path.dirname(machine.state_path) or "."
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=directory, prefix=".state-", delete=False) as file:
            json.dump(state, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, machine.state_path)
        directory_descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(directory_descriptor)
        finally:
            os.close(directory_descriptor)
    except OSError as error:
        raise Refused(f"can't note the changes in {machine.state_path}: {error.strerror}; give another --state") from None


def load_state(machine):
    try:
        with open(machine.state_path, encoding="utf-8") as file:
            state = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise Refused(f"{machine.state_path} can't be read: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not is_whole(state.get("changes")):
        raise Refused(f"{machine.state_path} is no state of this version of quoit-tune")
    return state


def is_whole(entries):
    keys = ("setting", "path", "kind", "before", "after")
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in keys)
        and entry["kind"] in READERS
        and entry["path"].startswith(("/sys/", "/proc/"))
        for entry in entries
    )
