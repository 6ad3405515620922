"""Cycles of a TPU kernel by its schedule, which libtpu writes while it compiles; no chip is asked.

A bundle is what a TPU core issues in a cycle, so that bundles times the trips of the loops around them are the cycles
of a kernel that never waits: a lower bound of its time. libtpu is told to write schedules while it loads.
"""

import atexit
import os
import re
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from . import aot

FLAG = "LIBTPU_INIT_ARGS"
PASS = "final_bundles"
"""End of the names that libtpu gives to files of a kernel's last schedule."""

_BUNDLE = re.compile(r"^\s*0x[0-9a-f]+\s*([A-Z]{2})?\s*:")
_EXIT = re.compile(r"(%p[\w.]+) = scmp\.ge\.s32\.totalorder (?:\([^)]*\), )?%s[\w.]+, (\d+) /\* loop exit test")
_BACK = re.compile(r"sbr\.rel \(!(%p[\w.]+)\)")
_STAGE = re.compile(r"iteration index, stage = (\d+)")
_MULTIPLIES = re.compile(r"vmatmul\.([\w.]*?)(mxu\d)")
_REGISTER = re.compile(r"%v\d+_v(\d+)\b")
_SPILL = re.compile(r"\bvst \[vmem:\[#allocation\d+_spill\]")

ROWS = 8
"""Rows of 32 bits that a register holds, each multiplied in a cycle; of bfloat16 there are twice as many, and of int8
four times, two of which are multiplied in one."""


class Cost(NamedTuple):
    """Cost of a kernel, as its schedule tells it.

    Attributes:
      bundles: of the schedule, each counted once.
      cycles: those of a kernel that never waits.
      multiplying: cycles of them in which the matrix unit that has most to do is busy.
      registers: vector registers that are used, of 64.
      spilled: places of the schedule where a register goes to memory for want of others.
    """

    bundles: int
    cycles: int
    multiplying: int
    registers: int
    spilled: int


UNKNOWN = Cost(0, 0, 0, 0, 0)
"""Of a kernel whose schedule is not at hand."""


@cache
def folder() -> Path | None:
    """Folder of this process that libtpu writes schedules to from the first call on; None if it was loaded before.

    Everything that is compiled afterwards is written, a file for each fusion and kernel.
    """
    if aot.tpu_devices.cache_info().currsize:
        return None
    made = Path(mkdtemp(prefix="schedules-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    flags = (f"dump_to={made}", "dump_llo_text=true", f"dump_llo_pass_label_regex=.*{PASS}")
    os.environ[FLAG] = " ".join([os.environ.get(FLAG, ""), *(f"--xla_jf_{flag}" for flag in flags)]).strip()
    return made


def schedules(directory: Path) -> dict[str, Path]:
    """Files of schedules by the names that the compiled program gives its kernels and fusions; the newest of a name."""
    named = re.compile(rf"^\d+-(.+)-\d+-{PASS}\.txt$")
    found = {match[1]: path for path in sorted(directory.iterdir()) if (match := named.match(path.name))}
    return {name: path for name, path in found.items() if not name.endswith("schedule-analysis")}


def cost(schedule: str) -> Cost:
    """Cost of a kernel by the text of its schedule.

    Cycles are bundles, each times the trips of the loops that it stands in. A loop whose trips the schedule does not
    name counts once. So does what is skipped in most trips. The loop over the blocks of a Pallas kernel makes a trip
    more for every stage of its pipeline, in which it waits for a block to come or to go: these do not count.
    """
    exits = {predicate: int(trips) for predicate, trips in _EXIT.findall(schedule)}
    counts, stages, bundles = [Counter[str]()], [0], 0
    for line in schedule.splitlines():
        bundle = _BUNDLE.match(line)
        if bundle is None:
            continue
        if bundle[1] == "LB":
            counts.append(Counter())
            stages.append(max(map(int, _STAGE.findall(line)), default=0))
        bundles += 1
        counts[-1]["bundles"] += 1
        for of, unit in _MULTIPLIES.findall(line):
            counts[-1][unit] += ROWS if "f32" in of else 2 * ROWS
        back = _BACK.search(line)
        if back is not None and back[1] in exits and len(counts) > 1:
            inner, trips = counts.pop(), max(exits[back[1]] - stages.pop(), 1)
            counts[-1].update({name: count * trips for name, count in inner.items()})
    total = sum(counts, Counter[str]())
    cycles = total.pop("bundles", 0)
    return Cost(
        bundles=bundles,
        cycles=cycles,
        multiplying=min(max(total.values(), default=0), cycles),
        registers=len(set(_REGISTER.findall(schedule))),
        spilled=len(_SPILL.findall(schedule)),
    )


def cycles(schedule: str) -> int:
    """Cycles of a kernel by the text of its schedule, as `cost` counts them."""
    return cost(schedule).cycles
