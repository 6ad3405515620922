"""Whether stated 95 % intervals hold the truth, by simulation: fits of eight designs, and predictions far beyond.

    python scripts/bench_coverage.py --replicates 200 --rows coverage.jsonl --json coverage.json
    python scripts/bench_coverage.py --designs size cell --jobs 14 --seconds 200 --rows coverage.jsonl

Designs are those of coverage_designs.py and rollout_designs.py. Tables are drawn in turn from every design, each by a
seed of its own, and what is stated of one is a line of the file --rows as soon as it is known: a run that is stopped,
or ends at its --seconds, goes on from there. Every process keeps to a core of its own.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import coverage_designs
import numpy as np
import rollout_designs
from about import about, commit
from coverage_designs import Found

from capscale.cli.compiled import keep_compiled

BEGUN = time.monotonic()
DESIGNS = (*coverage_designs.DESIGNS, *rollout_designs.ROLLOUTS)


def keep_to_a_core(cores: "Queue[int]") -> None:
    """Has this process run on one core: XLA makes as many threads as there are cores to run on."""
    os.sched_setaffinity(0, {cores.get()})


def replicate(task: tuple[str, int]) -> dict[str, Any]:
    """A line of the rows: what is stated of one table, or the error that ended it, and the CPU seconds it took."""
    name, seed = task
    of = rollout_designs if name in rollout_designs.ROLLOUTS else coverage_designs
    begun, line = time.process_time(), {"design": name, "seed": seed}
    try:
        line["found"] = [list(map(_plain, f)) for f in of.replicate(name, seed)]
    except Exception as error:  # one table must not end the others
        line["error"] = f"{type(error).__name__}: {error}"
    return {**line, "cpu_seconds": round(time.process_time() - begun, 2)}


def _plain(x: Any) -> Any:
    return bool(x) if isinstance(x, np.bool_) else float(f"{x:.5g}") if isinstance(x, float) else x


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of rows, none where there is none yet; one that was cut short is taken off."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def measure(tasks: list[tuple[str, int]], jobs: int, until: float) -> Iterator[dict[str, Any]]:
    """Lines of the tasks as they come, those that are known by the monotonic time `until`."""
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    mine = sorted(os.sched_getaffinity(0))
    for k in range(jobs):
        cores.put(mine[k % len(mine)])
    with context.Pool(jobs, keep_to_a_core, (cores,)) as pool:
        coming = pool.imap_unordered(replicate, tasks)
        for _ in tasks:
            try:
                yield coming.next(until - time.monotonic())
            except multiprocessing.TimeoutError:
                return


def summary(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Coverage and width of every number of every design, by the rows.

    `reach` is the share of its half width at which an interval would have held 95 %: 1 is calibrated.
    """
    cells: dict[tuple[str, str, str], list[Found]] = {}
    for line in sorted(lines, key=lambda x: (DESIGNS.index(x["design"]), x["seed"])):
        for each in itertools.starmap(Found, line.get("found", ())):
            cells.setdefault((line["design"], each.number, each.method), []).append(each)
    out = []
    for (design, number, method), each in cells.items():
        stated = [f for f in each if not f.refused]
        out.append(
            {
                "design": design,
                "number": number,
                "method": method,
                "intervals": len(each),
                "refused": len(each) - len(stated),
                "coverage": float(np.mean([f.hit for f in stated])) if stated else None,
                "coverage_of_all": float(np.mean([f.hit for f in each])),
                "reach": float(np.quantile([abs(f.place) for f in stated], 0.95)) if stated else None,
                "median_width": float(np.median([f.width for f in stated])) if stated else None,
            }
        )
    return out


def show(found: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Prints the table, what each design cost, and the errors."""
    for r in found:
        stated = (
            "refused"
            if r["coverage"] is None
            else f"{r['coverage']:.3f}  reach {r['reach']:.2f}  width {r['median_width']:.4g}"
        )
        said = f"refused {r['refused']} of {r['intervals']}, all {r['coverage_of_all']:.3f}"
        print(f"{r['design']:25} {r['number']:26} {r['method']:9} {stated:36} {said}")
    for name in DESIGNS:
        cpu = [line["cpu_seconds"] for line in lines if line["design"] == name]
        if cpu:
            print(f"{name}: {len(cpu)} tables, {np.median(cpu):.2f} CPU s each, {np.sum(cpu):.0f} in all")
    for line in lines:
        if "error" in line:
            print(f"{line['design']}, seed {line['seed']}: {line['error']}")


def main() -> None:
    """Simulates what is not among the rows yet, and prints the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of wall time, then what is known counts")
    parser.add_argument("--rows", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--json", type=Path)
    arguments, begun = parser.parse_args(), about("jax", "scipy", "numpy")
    until = BEGUN + min(arguments.seconds, 1e6)
    os.environ |= {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of the processes
    keep_compiled()
    done = {(line["design"], line["seed"]) for line in lines_of(arguments.rows) if "found" in line}
    tasks = [(d, s) for s in range(arguments.replicates) for d in arguments.designs if (d, s) not in done]
    which = {"commit": commit(), "jax": begun["versions"]["jax"]}
    with arguments.rows.open("a", encoding="utf-8") as rows:
        for line in measure(tasks, arguments.jobs, until):
            rows.write(json.dumps({**line, **which}) + "\n")
            rows.flush()
    lines = [line for line in lines_of(arguments.rows) if line["design"] in arguments.designs]
    found = summary(lines)
    show(found, lines)
    if arguments.json:
        text = json.dumps({**begun, "resamples": coverage_designs.RESAMPLES, "lines": found}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
