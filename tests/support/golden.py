"""Numbers of before, in JSON files by name: held to them, or written anew where pytest is given --regenerate."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

CPUINFO = Path("/proc/cpuinfo")
VECTORS = "AVX-512" if CPUINFO.exists() and " avx512f " in CPUINFO.read_text() else "AVX2"
"""Of this machine. Sums are added up in parts as wide as its vectors, and exponentials of float64, by which scales are
found, are approximated by those: what has last bits of either has an entry for each."""


def hold(found: Any, path: Path, name: str, *, regenerate: bool) -> None:
    """Fails unless `found` is what the file has under this name; with `regenerate` puts it there first.

    Names that are new come last, each on a line of its own. Several workers may write.
    """
    if regenerate:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            known = json.load(file) | {name: found}
            lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in known.items()]
            file.seek(0)
            file.truncate()
            file.write("{\n" + ",\n".join(lines) + "\n}\n")
    known = json.loads(path.read_text())
    assert name in known, f"{path.name} has no {name}: run this test with --regenerate"
    if _by_vectors(known[name]) and VECTORS not in known[name]:
        pytest.skip(f"{path.name} has no {name} of a machine with {VECTORS}: run this test with --regenerate on one")
    expected = known[name][VECTORS] if _by_vectors(known[name]) else known[name]
    assert expected == json.loads(json.dumps(found))


def _by_vectors(entry: Any) -> bool:
    """Whether a name has entries by kinds of vectors."""
    return isinstance(entry, dict) and len(entry) > 0 and set(entry) <= {"AVX-512", "AVX2"}
