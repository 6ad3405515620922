"""Where the time of a training step goes on a CPU: the operations of XLA's program by what they do, from a trace.

    python scripts/profile_step.py                         # the 30M model, batch 4 x 512, float32, dense
    python scripts/profile_step.py --format int4 --top 20 --json profile.json

Milliseconds are summed over threads, several of which may work at one time: they tell shares, not how long a step is.
"""

import argparse
import json
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from about import about
from bench_step import WARM_UP, step_of

KINDS = (
    ("writing of stacked layers", r"dynamic-update-slice"),
    ("reading of stacked layers", r"dynamic-slice"),
    ("copies and transposes", r"^(copy|transpose)"),
    ("fills", r"^(wrapped_broadcast|broadcast\.)"),
)
"""Kinds of operations by their names; products are told by what they were made of."""


class Operation(NamedTuple):
    """An operation of the compiled program.

    Attributes:
      opcode: of HLO.
      source: what it was made of, a path of names.
    """

    opcode: str
    source: str


def operations(text: str) -> dict[str, Operation]:
    """Those of a compiled program, by name."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"\s*(?:ROOT )?%([\w.\-]+) = .*? ([a-z][\w\-]*)\(", line):
            source = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = Operation(match[2], source[1] if source else "")
    return found


def kind(name: str, operation: Operation) -> str:
    """Group that an operation is counted in, by its name and what it was made of."""
    for each, pattern in KINDS:
        if re.search(pattern, name):
            return each
    if operation.source.endswith("dot_general"):
        if "layers/" not in operation.source:
            return "products of the head"
        return "products of attention" if "attention/vmap" in operation.source else "products of layers"
    return "elementwise operations and sums"


def seconds(directory: Path, known: dict[str, Operation]) -> Counter[str]:
    """Seconds of every operation, from the trace in `directory`."""
    import jax

    found: Counter[str] = Counter()
    (trace,) = directory.rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for event in (event for line in plane.lines for event in line.events):
            if event.name in known and known[event.name].opcode not in ("while", "call", "conditional"):
                found[event.name] += event.duration_ns * 1e-9
    return found


def measure(size: str, batch: int, fmt: str) -> tuple[dict[str, Operation], Counter[str]]:
    """The operations of a step, and the seconds that each took once."""
    from capscale.heap import keep_freed_memory

    keep_freed_memory()
    import jax

    step, state, rest = step_of(size, batch, "float32", fmt)
    compiled = step.lower(state, *rest).compile()
    for _ in range(WARM_UP):
        state, _ = compiled(state, *rest)
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            jax.block_until_ready(compiled(state, *rest))
        known = operations(compiled.as_text())
        return known, seconds(Path(directory), known)


def rows(known: dict[str, Operation], found: Counter[str]) -> list[dict[str, Any]]:
    """Milliseconds of every kind of operation, most first."""
    kinds: Counter[str] = Counter()
    for name, s in found.items():
        kinds[kind(name, known[name])] += s
    return [{"kind": name, "ms": round(1e3 * s, 1)} for name, s in kinds.most_common()]


def main() -> None:
    """Profiles one step and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="30M")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--format", default="dense", help="dense, int4, int4-both, or another representation")
    parser.add_argument("--top", type=int, default=12, help="operations printed by themselves")
    parser.add_argument("--json", metavar="FILE", help="write the table there")
    arguments = parser.parse_args()
    begun = about("jax")
    known, found = measure(arguments.size, arguments.batch, arguments.format)
    table, total = rows(known, found), sum(found.values())
    for row in table:
        print(f"{row['ms']:>9.1f} ms {row['ms'] / total / 10:>5.1f} %  {row['kind']}")
    print(f"{1e3 * total:>9.1f} ms in all, of which")
    for name, s in found.most_common(arguments.top):
        print(f"{1e3 * s:>9.1f} ms  {name}  {known[name].source[-80:]}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**begun, "format": arguments.format, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
