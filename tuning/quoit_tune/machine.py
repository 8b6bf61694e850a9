"""The machine as files under /sys and /proc, read and written in one place.

With another root than / it is a copy of those files, taken from another machine or made by a test. Then a file that lists
its choices ("always [madvise] never") is written as the kernel would show it, and limits are those in the copy.
"""

import errno
import glob
import os
import re

# A setting is a line or two. More than this is no setting.
READ_BYTES_MAX = 1 << 20


class Refused(Exception):
    """A command can't be carried out; nothing was touched."""


class Machine:
    """Reads and writes settings by their paths on a running machine."""

    def __init__(self, root, state_path):
        self.root = os.path.abspath(root)
        self.is_copy = self.root != "/"
        if not os.path.isdir(self.root):
            raise Refused(f"there is no directory {self.root}: give --root a copy of /sys and /proc")
        self.state_path = state_path or self.place("/var/lib/quoit-tune/state.json")

    def place(self, path):
        """Where `path` lies under the root."""
        return os.path.join(self.root, path.lstrip("/"))

    def raw(self, path):
        """The file's bytes as text; None where it is missing or can't be read."""
        try:
            with open(self.place(path), "rb") as file:
                return file.read(READ_BYTES_MAX).decode("utf-8", "surrogateescape")
        except OSError:
            return None

    def text(self, path):
        """The file's text without the white space around it; None where it is missing or can't be read."""
        raw = self.raw(path)
        return None if raw is None else raw.strip()

    def number(self, path):
        """The file's number; None where there is none."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def cpus(self, path):
        """The file's list of CPUs; None where it is missing."""
        text = self.text(path)
        try:
            return None if text is None else parse_cpus(text)
        except ValueError:
            return None

    def exists(self, path):
        return os.path.exists(self.place(path))

    def list(self, pattern):
        """The paths that match, ordered as people count: cpu2 before cpu10."""
        prefix = len(self.root) if self.is_copy else 0
        found = glob.glob(self.place(pattern))
        return sorted((path[prefix:] for path in found), key=by_number)

    def write(self, path, text):
        """Writes a setting that exists; raises OSError where the kernel refuses."""
        if self.is_copy:
            text = self.as_the_kernel_would_show(path, text)
        descriptor = os.open(self.place(path), os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, text.encode("utf-8", "surrogateescape"))
        finally:
            os.close(descriptor)

    def as_the_kernel_would_show(self, path, text):
        shown = self.raw(path) or ""
        ending = "\n" if shown.endswith("\n") else ""
        choices = [choice.strip("[]") for choice in shown.split()]
        if chosen(shown) is None:
            return text + ending
        if text not in choices:
            raise OSError(errno.EINVAL, "not one of its choices", path)
        return " ".join(f"[{choice}]" if choice == text else choice for choice in choices) + ending

    def boot(self):
        """Which start of the machine this is."""
        return self.text("/proc/sys/kernel/random/boot_id") or "unknown"

    def is_virtual(self):
        """Whether a hypervisor stands between this kernel and the hardware."""
        flags = re.search(r"^flags\s*:(.*)$", self.text("/proc/cpuinfo") or "", re.MULTILINE)
        return self.exists("/sys/hypervisor/type") or (flags is not None and " hypervisor" in flags.group(1))


def chosen(shown):
    """The chosen one of a file that lists its choices; None where it lists none."""
    match = re.search(r"\[([^\]]+)\]", shown)
    return match.group(1) if match else None


def by_number(path):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def parse_cpus(text):
    """[2, 3, 4, 8] of "2-4,8"; raises ValueError."""
    cpus = set()
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return sorted(cpus)


def format_cpus(cpus):
    """ "2-4,8" of [2, 3, 4, 8]."""
    runs = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_mask(text):
    """[0, 1] of the kernel's hexadecimal CPU mask "00000000,00000003"; raises ValueError."""
    bits = int(text.replace(",", "") or "0", 16)
    return [cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1]


def format_mask(cpus):
    """The kernel's hexadecimal CPU mask, in groups of 32 bits."""
    bits = sum(1 << cpu for cpu in cpus)
    groups = []
    while True:
        groups.append(f"{bits & 0xFFFFFFFF:x}" if bits >> 32 == 0 else f"{bits & 0xFFFFFFFF:08x}")
        bits >>= 32
        if bits == 0:
            return ",".join(reversed(groups))
