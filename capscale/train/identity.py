"""Which process this is, so that others can tell whether it lives: the machine since its start, and a mark of it."""

import os
import platform
import uuid
from functools import cache
from pathlib import Path


@cache
def place() -> str:
    """The machine since its start, and the process namespace: where a process number means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node()} {uuid.getnode():x}"


def process(pid: int) -> str | None:
    """Mark of a living process against a later one of its number (its start time, where known); None if dead."""
    if not isinstance(pid, int) or pid < 1:
        return None  # read from a file, and part of a path below
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
