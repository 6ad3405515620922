"""Whether stated 95 % intervals hold the truth: simulated tables of seven designs, fitted as `capscale fit` does.

    python scripts/bench_coverage.py --replicates 40
    python scripts/bench_coverage.py --designs size cell --json coverage.json

Runs of 4 sizes, 4 ratios of tokens to parameters and 4 formats, noise .004 nats a run and, where a design says so, .006
shared by the runs of a size, of a cell (N and D), or by the checkpoints of a run. An interval that the fit says not to
quote (not identified, not measured) counts as refused, whatever it holds. Of the wrong law no number is asked that only
the right one has.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from about import about

from capscale.analysis.fit import Settings, fit
from capscale.analysis.inspection import inspect
from capscale.analysis.laws import LAWS
from capscale.analysis.operands import gaussian_error
from capscale.analysis.predict import target
from capscale.analysis.sentences.quotable import refused
from capscale.analysis.shared_errors import LEVELS
from capscale.analysis.table import Table, make_table
from capscale.analysis.uncertainty import Bootstrap, bootstrap
from capscale.capacity import TANH, Capacity, Scaling

TRUTH = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69)  # Hoffmann et al. 2022, arXiv 2203.15556
COUPLED = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69, g=0.7)
RHO = Capacity(TANH, (("F", 0.41), ("C", 1.39)))  # arXiv 2506.01863, table 3, Llama
FORMATS = ("dense", "int4", "int3", "int2")
SIZES, RATIOS = np.array([3e7, 1e8, 3e8, 1e9]), np.array([25.0, 50.0, 100.0, 200.0])
NEW = (2e9, 2e11)
"""N and D of the new run."""
NOISE, SHARED = 0.004, 0.006
RESAMPLES = 300


@dataclass(frozen=True)
class Design:
    """A table to draw: its sizes, its ratios, and which error its runs share."""

    shared: str = ""
    sizes: tuple[float, ...] = tuple(SIZES)
    ratios: tuple[float, ...] = tuple(RATIOS)
    law: Scaling = TRUTH
    checkpoints: bool = False

    def table(self, random: np.random.Generator) -> Table:
        """Runs of every size, ratio and format; a run's ten checkpoints in place of its ratios."""
        ratios = tuple(20.0 * k for k in range(1, 11)) if self.checkpoints else self.ratios
        keys = [(n, f, r) for n in self.sizes for f in FORMATS for r in ratios]
        units: dict[Any, float] = {}
        records = []
        for N, name, ratio in keys:
            rho = 1.0 if name == "dense" else float(RHO.rho(gaussian_error(name)))
            loss = float(self.law.loss(N, N * ratio, rho)) + random.normal(0, 1e-4 if self.checkpoints else NOISE)
            unit = {"": None, "size": N, "cell": (N, ratio), "run": (N, name)}[self.shared]
            if self.shared:
                loss += units.setdefault(unit, random.normal(0, SHARED))
            run = f"{name}-{N:g}" if self.checkpoints else f"{name}-{N:g}-{ratio:g}"
            row = {"run": run, "N": N, "D": N * ratio, "loss": loss, "weights": name, "activations": "dense"}
            records.append(row)
        return make_table(records, "simulated")


DESIGNS = {
    "independent": Design(),
    "cell": Design("cell"),
    "size": Design("size"),
    "size, 6 sizes": Design("size", sizes=(3e7, 6e7, 1.2e8, 2.5e8, 5e8, 1e9)),
    "trajectory": Design("run", checkpoints=True),
    "D/N constant": Design(ratios=(100.0,)),
    "one size": Design(sizes=(1e8,)),
    "law wrong": Design(law=COUPLED),
}


def new_run(draws: Bootstrap, random: np.random.Generator) -> tuple[float, float]:
    """95 % interval of a dense run at a new size, its own and its size's errors included."""
    problem = draws.fit.problem
    loss = problem.predict(draws.z, problem.gather([target("dense", N=NEW[0], D=NEW[1])]))[:, 0]
    low, high = np.quantile(loss + draws.run_errors(LEVELS, random), [0.025, 0.975])
    return float(low), float(high)


def replicate(task: tuple[str, int]) -> list[tuple[str, str, bool, bool, float]]:
    """Of each interval of one table: number, method, whether it holds the truth, whether it is refused, its width."""
    name, seed = task
    design = DESIGNS[name]
    random = np.random.default_rng([seed, list(DESIGNS).index(name)])
    found = fit(design.table(random), LAWS["tanh"], Settings(starts=16))
    draws = bootstrap(found, RESAMPLES)
    inspected = inspect(found, draws=draws)
    unsaid = refused(inspected)
    truth = {} if design.law is not TRUTH else {n: getattr(TRUTH, n) for n in ("alpha", "beta", "E")}
    truth |= {f"rho[{f}]": float(RHO.rho(gaussian_error(f))) for f in FORMATS[1:]}
    out = []
    for number, value in truth.items():
        intervals = {"bootstrap": draws.interval(number)[1:]}
        if number in inspected.profiles:
            intervals["profile"] = inspected.profiles[number].interval()[1:]
        for method, (low, high) in intervals.items():
            out.append((number, method, low <= value <= high, number in unsaid, high - low))
    own = random.normal(0, NOISE) + (random.normal(0, SHARED) if design.shared else 0.0)
    low, high = new_run(draws, random)
    out.append(
        (
            "new run",
            "bootstrap",
            low <= float(design.law.loss(*NEW)) + own <= high,
            bool(inspected.not_told),
            high - low,
        )
    )
    return out


def measure(name: str, replicates: int, map: Callable[..., Any]) -> list[dict[str, Any]]:
    """Coverage of every number of one design."""
    cells: dict[tuple[str, str], list[tuple[bool, bool, float]]] = {}
    for rows in map(replicate, [(name, seed) for seed in range(replicates)]):
        for number, method, *rest in rows:
            cells.setdefault((number, method), []).append(tuple(rest))
    lines = []
    for (number, method), each in cells.items():
        stated = [(hit, width) for hit, refused, width in each if not refused]
        lines.append(
            {
                "design": name,
                "number": number,
                "method": method,
                "tables": len(each),
                "refused": len(each) - len(stated),
                "coverage": float(np.mean([hit for hit, _ in stated])) if stated else None,
                "coverage_of_all": float(np.mean([hit for hit, _, _ in each])),
                "median_width": float(np.median([width for _, width in stated])) if stated else None,
            }
        )
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    """Prints one design."""
    for r in lines:
        stated = "refused" if r["coverage"] is None else f"{r['coverage']:.3f}  width {r['median_width']:.4g}"
        print(
            f"{r['design']:14} {r['number']:10} {r['method']:9} {stated:24} refused {r['refused']} of {r['tables']}, "
            f"all {r['coverage_of_all']:.3f}",
            flush=True,
        )


def main() -> None:
    """Simulates, fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--json", metavar="FILE")
    arguments, begun = parser.parse_args(), about("jax", "scipy", "numpy")
    os.environ["JAX_PLATFORMS"] = "cpu"
    found = []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for name in arguments.designs:
            start = time.perf_counter()
            lines = measure(name, arguments.replicates, pool.imap_unordered)
            show(lines)
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
            found += lines
            if arguments.json:
                text = json.dumps({**begun, "resamples": RESAMPLES, "lines": found}, indent=1)
                Path(arguments.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
