"""Compiles a step of all six paper sizes in six kinds of representation for v5e and v6e, and writes what it needs.

Needs libtpu, no TPU: `pip install 'capscale[tpu]'`. Hours of CPU time at full effort; started again it goes on. Cells
that another jax or libtpu compiled, or in another setting, or that say no time, are compiled again, and with `--again`
all that are asked for; a cell's last row counts. `--sizes`, `--formats` and `--topologies` ask for some of them.

Run: `python scripts/preflight_paper.py --quick` (results in docs/benchmarks/preflight.jsonl, tables in preflight.md;
without --quick at XLA's full effort, in a table of its own)
"""

import argparse
import importlib.metadata
import itertools
import json
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jax
from about import commit
from capscale.experiments.paper_capacity import SIX

from capscale.data.corpus import DataId
from capscale.models.ladder import PAPER
from capscale.sweep.estimate import BEYOND, KEPT, QUICK_ERROR, Unit
from capscale.sweep.preflight import Setting, compile_step, device_hours
from capscale.sweep.slices import Slice, find_slice
from capscale.train.flops import flops_per_token
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.run import Optimizer, Run

VOCABULARY, TOKENS_PER_PARAMETER = 32_000, 100
TOPOLOGIES = ("v5e:4x4", "v6e:4x4")
COLUMNS = ("format", "size", "topology")
MEMORY = {
    "30M": AT_ONCE,
    "50M": AT_ONCE,
    "100M": AT_ONCE,
    "200M": Memory(microbatches=2),
    "430M": AT_ONCE,
    "800M": Memory(microbatches=2),
}
"""On v5e; half as many micro-batches on v6e, which has twice the memory. The fewest that fit, as split weights are sent
anew for each."""
SHARED_BY = {"430M": 16, "800M": 8}
"""Chips that share a copy of the parameters, of sizes that do not fit on each. Less is sent among eight, and XLA keeps
parts of sums that over a whole slice it adds up everywhere; 430M in int4 with activations has no room for that."""


def planned(size: str, name: str) -> Run:
    """The run of a cell of the table."""
    return Run(
        size=size,
        model=PAPER.model(size, VOCABULARY),
        tokens=TOKENS_PER_PARAMETER * PAPER.sizes[size].non_embedding_parameters,
        data=DataId("32000 symbols", "0" * 64, VOCABULARY),
        optimizer=Optimizer(PAPER.learning_rates[size]),
        batch=PAPER.batch,
        ladder=PAPER.name,
        representation=SIX[name],
    )


def setting_of(size: str, topology: str) -> Setting:
    """Where that cell is trained."""
    slice_ = find_slice(topology)
    memory = MEMORY[size]
    if not topology.startswith("v5e"):
        memory = replace(memory, microbatches=max(memory.microbatches // 2, 1))
    return Setting(slice_, SHARED_BY.get(size, 1), memory)


def cell(size: str, name: str, topology: str, quick: bool) -> dict[str, Any]:
    """One row: compiles the step."""
    run, setting, began = planned(size, name), setting_of(size, topology), time.process_time()
    assert isinstance(setting.slice, Slice)
    compiled = compile_step(run, setting, quick)
    found = compiled.estimate
    told = (
        {}
        if found is None
        else {
            "step_ms": round(1e3 * found.step, 1),
            "mfu": round(found.mfu(run, setting.slice), 3),
            "ms_by_unit": {unit: round(1e3 * seconds, 1) for unit, seconds in found.units.items()},
            "wire_ms": round(1e3 * (found.beside + found.alone), 1),
            "wire_alone_ms": round(1e3 * found.alone, 1),
            "gb_sent": round(found.sent / 1e9, 2),
            "bound_by": found.bottleneck,
            "kernels_by": "schedule" if found.by_schedule else "bytes",
            "chip_hours": round(device_hours(run, setting.slice, found.mfu(run, setting.slice)), 1),
        }
    )
    return {
        "size": size,
        "format": name,
        "setting": str(setting),
        "topology": topology,
        "fits": compiled.fits,
        "gb_per_chip": round(compiled.bytes / 1e9, 2),
        "compile_cpu_s": round(time.process_time() - began, 1),
        "steps": run.steps,
        "flops": flops_per_token(run.model) * run.trained_tokens,
        **told,
        "quick": quick,
        "refused": compiled.reason,
        "date": time.strftime("%Y-%m-%d"),
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu"),
        "python": platform.python_version(),
        "commit": commit(),
    }


def stored(path: Path) -> list[dict[str, Any]]:
    """Rows of a file, the last of each cell; none where there is no file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({(row["quick"], row["size"], row["format"], row["topology"]): row for row in rows}.values())


def page(rows: list[dict[str, Any]]) -> str:
    """Tables of the rows, one of each effort that there are rows of."""
    parts = [table([row for row in rows if row["quick"] == quick]) for quick in (True, False)]
    return "\n".join(["# Preflight of the paper's ladder\n", *filter(None, parts)])


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of one effort as a table, with what they rest on; nothing of none."""
    if not rows:
        return ""
    quick = rows[0]["quick"]
    date, jax_, libtpu, python = (
        " and ".join(sorted({row[name] for row in rows})) for name in ("date", "jax", "libtpu", "python")
    )
    order = (list(SIX), list(PAPER.sizes), list(TOPOLOGIES))
    rows = sorted(rows, key=lambda row: [names.index(row[key]) for names, key in zip(order, COLUMNS, strict=True)])
    by = (
        f"{BEYOND} times what products take at the chip's peak and values of more than {KEPT / 1e6:.0f} MB at the "
        f"bandwidth of its memory, kernels by their bytes ({QUICK_ERROR}; on v6e none was compared), and what is sent "
        "at the book's bandwidth. XLA's lowest effort tends to ask for more memory."
        if quick
        else "XLA's cycles, kernels' schedules or else their bytes, and what is sent at the book's bandwidth."
    )
    names = ["size", "format", "setting", "GB a chip", "fits", "estimated ms a step", "estimated MFU %"]
    names += [f"{name}, estimated ms" for name in (*_units(quick), "wire")]
    names += ["bottleneck, estimated", "GB sent by a chip", "estimated chip-hours", "compile, CPU s", "compiled"]
    lines = [
        f"## {'Lowest' if quick else 'Full'} effort",
        "",
        f"`python scripts/preflight_paper.py{' --quick' if quick else ''}`, {date}, "
        f"jax {jax_}, libtpu {libtpu}, Python {python}, on a machine without a TPU. "
        f"A step is 512 sequences of 512 tokens, vocabulary {VOCABULARY:,}; chip-hours are for {TOKENS_PER_PARAMETER} "
        "tokens per parameter. GB are 10^9 bytes: arguments, temporaries and code of the compiled step. "
        f"Times are estimates; no TPU was asked. They are by {by} Milliseconds say what a step waits for, those of the "
        "wire what is sent, beside other work or alone. A time is beside the cells that were compiled since times are "
        "told; the last column says of which commit a cell is.",
        "",
        _line(names),
        _line(["---"] * len(names)),
    ]
    lines += [_line(_cells(row)) for row in rows]
    missing = len(SIX) * len(PAPER.sizes) * len(TOPOLOGIES) - len(rows)
    if missing:
        lines += ["", f"{missing} cells have not been compiled this way; the command goes on from these."]
    return "\n".join(lines) + "\n"


def _units(quick: bool) -> tuple[str, ...]:
    return ("chip",) if quick else get_args(Unit)


def _cells(row: dict[str, Any]) -> list[Any]:
    first = [row["size"], row["format"], f"`{row['setting']}`", row["gb_per_chip"], "yes" if row["fits"] else "no"]
    last = [row["compile_cpu_s"], f"{row['date']}, {row['commit']}"]
    if "ms_by_unit" not in row:
        return [*first, *[""] * (6 + len(_units(row["quick"]))), *last]
    units = [row["ms_by_unit"][unit] for unit in _units(row["quick"])]
    told = [f"{row['step_ms']:,}", f"{100 * row['mfu']:.0f}", *units, row["wire_ms"], row["bound_by"], row["gb_sent"]]
    return [*first, *told, f"{row['chip_hours']:,}", *last]


def _line(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Exit status 1 if a cell does not fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--sizes", nargs="*", choices=PAPER.sizes, default=list(PAPER.sizes))
    parser.add_argument("--formats", nargs="*", choices=SIX, default=list(SIX))
    parser.add_argument("--topologies", nargs="*", choices=TOPOLOGIES, default=TOPOLOGIES)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    arguments = parser.parse_args()
    path = arguments.out / "preflight.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    cells = {(row["quick"], row["size"], row["format"], row["topology"]): row for row in stored(path)}
    compilers = {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}
    jax.config.update("jax_platforms", "cpu")
    asked = itertools.product(arguments.formats, arguments.sizes, arguments.topologies)
    for name, size, topology in asked:
        found = cells.get((arguments.quick, size, name, topology))
        now = compilers | {"setting": str(setting_of(size, topology))}
        whole = found and ("ms_by_unit" in found or not found["fits"]) and now.items() <= found.items()
        if whole and not arguments.again:
            continue
        cells[arguments.quick, size, name, topology] = row = cell(size, name, topology, arguments.quick)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(size, name, topology, row["gb_per_chip"], "GB", row["compile_cpu_s"], "s", flush=True)
        (arguments.out / "preflight.md").write_text(page(list(cells.values())))
    (arguments.out / "preflight.md").write_text(page(list(cells.values())))
    return 0 if all(row["fits"] for row in cells.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
