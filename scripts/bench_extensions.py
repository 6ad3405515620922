"""How often the runs of a law are said to ask for a further number that is not in it, and how often for the right one.

    python scripts/bench_extensions.py --tables 60 --designs nothing 'nothing, size' --rows extensions.jsonl
    python scripts/bench_extensions.py --tables 6 --seconds 700 --rows power.jsonl \
        --json docs/benchmarks/extensions.json --designs 'eta .8' 'eta .9' 'delta .05' 'delta .025' 'g .7' 'g .5' \
        'g .7, wide' 'g .5, wide'

Tables are drawn in turn from every design: 4 sizes at 3 ratios of D to N, 3 formats with dense gradients and with
compressed ones, noise .004 nats a run. A design is the additive law, or that with one further number; it may have an
error of .006 that the runs of a size share (", size"), and ratios from 5 on in place of 25 (", wide"). What is said of
one table (`capscale.analysis.extensions`) is a line of --rows as soon as it is known: a run that is stopped, or ends at
its --seconds of CPU, goes on from there.
"""

import argparse
import json
import time
from collections import Counter
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from about import about, commit
from scipy.stats import binomtest

from capscale.analysis.extensions import extensions
from capscale.analysis.laws import LAWS
from capscale.analysis.shipped.capacity import CHINCHILLA_RATIO
from capscale.analysis.table import Table, make_table
from capscale.cli.compiled import keep_compiled

A, ALPHA, B, BETA, E = 406.4, 0.34, 410.7, 0.28, 1.69  # Hoffmann et al. 2022, arXiv 2203.15556, eq. 10
RHO = {"dense": 1.0, "int4": 0.9, "int3": 0.75, "int2": 0.5}
COST = 0.85
"""Capacity that compressed gradients leave of that of the forward formats."""
SIZES, RATIOS, WIDE = (3e7, 1e8, 3e8, 1e9), (25, 50, 200), (5, 25, 200)
NOISE, SHARED = 0.004, 0.006
NUMBERS = {
    "nothing": {},
    "eta .8": {"eta": 0.8},
    "eta .9": {"eta": 0.9},
    "k .5": {"k": 0.5},
    "delta .05": {"delta": 0.05},
    "delta .025": {"delta": 0.025},
    "g .7": {"g": 0.7},
    "g .5": {"g": 0.5},
}
DESIGNS: dict[str, tuple[dict[str, float], float, tuple[int, ...]]] = {
    name + ending: (numbers, shared, ratios)
    for ending, shared, ratios in (("", 0.0, RATIOS), (", size", SHARED, RATIOS), (", wide", 0.0, WIDE))
    for name, numbers in NUMBERS.items()
}


def drawn(design: str, seed: int) -> Table:
    """One table of a design."""
    numbers, shared, ratios = DESIGNS[design]
    random = np.random.default_rng(seed)
    of_size = {N: random.normal(0, shared) for N in SIZES}
    rows = []
    for weights, gradients, N, ratio in product(("dense", "int4", "int2"), ("dense", "quartet"), SIZES, ratios):
        compressed = gradients != "dense"
        rho = RHO[weights] * (COST if compressed else 1.0)
        drift = (ratio / CHINCHILLA_RATIO) ** -numbers.get("delta", 0.0) if weights != "dense" else 1.0
        tokens = N * ratio * rho ** numbers.get("k", 0.0) * (numbers.get("eta", 1.0) if compressed else 1.0)
        reducible = A * (N * rho * drift) ** -ALPHA + B * tokens**-BETA
        loss = reducible ** numbers.get("g", 1.0) + E + of_size[N] + random.normal(0, NOISE)
        rows.append({"run": f"run {len(rows)}", "N": N, "D": N * ratio, "loss": loss, "weights": weights})
        rows[-1] |= {"activations": "dense", "gradients": gradients}
    return make_table(rows, design, strict=False)


def replicate(design: str, seed: int) -> dict[str, Any]:
    """A line of the rows: what is said of one table."""
    begun = time.process_time()
    found = extensions(drawn(design, seed), LAWS["decoupled"])
    assert found is not None
    intervals = {
        asked.shape.number: [round(x, 4) for interval in asked.intervals.values() for x in interval]
        for asked in found.asked
    }
    return {
        "design": design,
        "seed": seed,
        "verdict": found.verdict,
        "allowed": [asked.shape.number for asked in found.allowed],
        "odds": {asked.shape.number: float(f"{asked.odds:.3g}") for asked in found.asked if np.isfinite(asked.odds)},
        "passes": [asked.shape.number for asked in found.asked if asked.passes],
        "held_out": [round(found.held_out, 5), *(round(a.held_out, 5) for a in found.allowed)],
        "intervals": intervals,
        "cpu_seconds": round(time.process_time() - begun, 2),
    }


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by design: verdicts, what was called, and how often the interval of the number in it holds its value.

    With the exact (Clopper-Pearson) 95 % interval of the share of tables on which the right number was called.
    """
    found = {}
    for design, (numbers, *_) in DESIGNS.items():
        mine = [line for line in lines if line["design"] == design]
        if not mine:
            continue
        called = Counter(line["allowed"][0] for line in mine if line["verdict"] == "one")
        found[design] = {"tables": len(mine), "verdicts": dict(Counter(line["verdict"] for line in mine))}
        found[design]["called"] = dict(called)
        for name, value in numbers.items():
            spans = [line["intervals"].get(name) for line in mine]
            told = [span for span in spans if span]
            found[design]["holds"] = [sum(span[1] <= value <= span[2] for span in told), len(told)]
            found[design]["rightly"] = called[name]
            chances = binomtest(called[name], len(mine)).proportion_ci(0.95, "exact")
            found[design]["rightly_95"] = [round(float(chances.low), 3), round(float(chances.high), 3)]
    return found


def main() -> None:
    """Draws until there are enough tables of every design, or the CPU seconds are spent, and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--designs", nargs="*", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of CPU")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    keep_compiled()
    lines = [json.loads(line) for line in chosen.rows.read_text().splitlines()] if chosen.rows.exists() else []
    have = Counter(line["design"] for line in lines)
    with chosen.rows.open("a") as out:
        for design in cycle(chosen.designs):
            if all(have[d] >= chosen.tables for d in chosen.designs) or time.process_time() > chosen.seconds:
                break
            if have[design] < chosen.tables:
                lines.append(replicate(design, have[design]))
                have[design] += 1
                print(json.dumps(lines[-1]), file=out, flush=True)
    result = {"command": about()["command"], "commit": commit(), "designs": summary(lines)} if chosen.json else {}
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary(lines), indent=1))


if __name__ == "__main__":
    main()
