"""Whether predictions beyond the runs hold: intervals of `capscale predict` at up to 4 times N and 4 times D.

    python scripts/bench_rollouts.py --replicates 40
    python scripts/bench_rollouts.py --quest ../QuEST/for_plots/runs_for_scaling.json

Simulated tables are of 5 sizes (30M to 480M, each twice the other), 4 lengths of training and 5 formats; what is asked
are runs of formats in the table, and of one that is not, at 2 and 4 times the largest size and the longest training.
Laws: the additive one, and the coupled one that the additive law of the ensemble does not know; noise .004, and .006
shared by the runs of a size. An interval that is not stated counts as refused.

With --quest, QuEST's public runs are predicted from those below every cut in N and in D, by the additive law alone as
earlier versions did (numbers of the law and scatter of single runs), and by the ensemble; and each format is left out.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from about import about

from capscale.analysis.ensemble import gathered
from capscale.analysis.families import family
from capscale.analysis.fit import Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.operands import gaussian_error
from capscale.analysis.predict import Predictor, predict
from capscale.analysis.rollouts import cuts
from capscale.analysis.rows import read
from capscale.analysis.table import Row, Table, make_table
from capscale.analysis.uncertainty import bootstrap
from capscale.capacity import TANH, Capacity, Scaling

TRUTH = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69)  # Hoffmann et al. 2022, arXiv 2203.15556
COUPLED = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69, g=0.7)
RHO = Capacity(TANH, (("F", 0.41), ("C", 1.39)))  # arXiv 2506.01863, table 3, Llama
FORMATS, NEW_FORMAT = ("dense", "int8", "int4", "int3", "int2"), "int5"
SIZES, RATIOS = 3e7 * 2.0 ** np.arange(5), np.array([25.0, 50.0, 100.0, 200.0])
NOISE, SHARED = 0.004, 0.006
DESIGNS = {
    "independent": (TRUTH, 0.0),
    "shared by size": (TRUTH, SHARED),
    "law wrong": (COUPLED, 0.0),
    "law wrong, shared by size": (COUPLED, SHARED),
}
TIMES = (1.0, 2.0, 4.0)


def _rho(name: str) -> float:
    return 1.0 if name == "dense" else float(RHO.rho(gaussian_error(name)))


def table_of(law: Scaling, shared: float, random: np.random.Generator) -> Table:
    """The runs that are known."""
    of_size = {n: random.normal(0, shared) for n in SIZES}
    records = []
    for n in SIZES:
        for r in RATIOS:
            for f in FORMATS:
                loss = float(law.loss(n, n * r, _rho(f))) + of_size[n] + random.normal(0, NOISE)
                records.append({"N": n, "D": n * r, "loss": loss, "weights": f, "activations": "dense"})
    return make_table(records, "simulated")


def replicate(task: tuple[str, int]) -> list[tuple[str, float, float, bool, bool, float]]:
    """Of each prediction: format, times N, times D, whether it is stated, whether it holds a new run, its width."""
    name, seed = task
    law, shared = DESIGNS[name]
    random = np.random.default_rng([seed, list(DESIGNS).index(name)])
    ensemble = gathered(table_of(law, shared, random), family(LAWS["tanh"]), Settings(starts=16))
    out = []
    rows = {f: _row(f) for f in (*FORMATS, NEW_FORMAT)}
    predictor = Predictor(ensemble, tuple(rows.values()), 400)
    for more_N in TIMES:
        for more_D in TIMES:
            N, D = float(SIZES[-1] * more_N), float(SIZES[-1] * more_N * RATIOS[-1] * more_D)
            error = random.normal(0, shared)
            for f, row in rows.items():
                found = predictor.predict(row._replace(N=N, D=D))
                loss = float(law.loss(N, D, _rho(f))) + error + random.normal(0, NOISE)
                low, high = found.loss[1:]
                out.append((f, more_N, more_D, found.stated, low <= loss <= high, high - low))
    return out


def _row(name: str) -> Row:
    from capscale.analysis.predict import target

    return target(name)


def simulate(name: str, replicates: int, map: Callable[..., Any]) -> list[dict[str, Any]]:
    """Coverage of one design by distance, for formats of the table and for the new one."""
    cells: dict[tuple[str, float, float], list[tuple[bool, bool, float]]] = {}
    for rows in map(replicate, [(name, seed) for seed in range(replicates)]):
        for f, more_N, more_D, *rest in rows:
            cells.setdefault(("new" if f == NEW_FORMAT else "known", more_N, more_D), []).append(tuple(rest))
    lines = []
    for (kind, more_N, more_D), each in cells.items():
        stated = [(hit, width) for said, hit, width in each if said]
        lines.append(
            {
                "design": name,
                "format": kind,
                "times_N": more_N,
                "times_D": more_D,
                "predictions": len(each),
                "refused": len(each) - len(stated),
                "coverage": float(np.mean([h for h, _ in stated])) if stated else None,
                "median_width": float(np.median([w for _, w in stated])) if stated else None,
            }
        )
    return lines


def of_quest(path: str) -> list[dict[str, Any]]:
    """Rollouts and formats left out, before and after."""
    table = read(path)
    lines = []
    for cut in cuts(table):
        known, asked = table.select(cut.train), [r for r, t in zip(table.rows, cut.test, strict=True) if t]
        lines.append({"held_out": f"{cut.axis}: {cut.words}", **_before(known, asked), **_after(known, asked)})
    for curve in table.curves[1:]:
        mine = np.array([r.curve == curve for r in table.rows])
        asked = [r for r in table.rows if r.curve == curve]
        lines.append({"held_out": curve, **_before(table.select(~mine), asked), **_after(table.select(~mine), asked)})
    return lines


def _before(known: Table, asked: list[Row]) -> dict[str, Any]:
    found = fit(known, LAWS["tanh"], Settings(starts=16, shared="none"))
    draws = bootstrap(found, 400)
    random = np.random.default_rng(0)
    losses = found.problem.predict(draws.z, found.problem.gather(asked))
    n, p = len(found.table), int(found.free.sum())
    scatter = random.choice(found.residuals, len(losses)) * np.sqrt(n / max(n - p, 1))
    low, high = np.quantile(losses + scatter[:, None], [0.025, 0.975], axis=0)
    measured = np.array([r.loss for r in asked])
    inside = (low <= measured) & (measured <= high)
    return {"rows": len(asked), "coverage_before": float(inside.mean()), "width_before": float(np.median(high - low))}


def _after(known: Table, asked: list[Row]) -> dict[str, Any]:
    ensemble = gathered(known, family(LAWS["tanh"]), Settings(starts=16))
    found = [predict(ensemble, r, 400) for r in asked]
    stated = [(p, r) for p, r in zip(found, asked, strict=True) if p.stated]
    hits = [p.loss.low <= r.loss <= p.loss.high for p, r in stated]
    widths = [p.loss.high - p.loss.low for p, _ in stated]
    return {
        "stated": len(stated),
        "coverage": float(np.mean(hits)) if hits else None,
        "width": float(np.median(widths)) if widths else None,
    }


def main() -> None:
    """Simulates, or predicts QuEST's runs, and prints; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=40)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--quest")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if options.quest:
        lines = of_quest(options.quest)
    else:
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            lines = [line for name in options.designs for line in simulate(name, options.replicates, pool.map)]
    for line in lines:
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            begun = about("jax", "scipy", "numpy")
            json.dump({**begun, "replicates": options.replicates, "lines": lines}, file, indent=1)


if __name__ == "__main__":
    main()
