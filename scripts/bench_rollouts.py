"""Whether predictions of QuEST's public runs from part of them hold: beyond cuts in N and D, and each format left out.

    python scripts/bench_rollouts.py ../QuEST/for_plots/runs_for_scaling.json --json rollouts.json

By the additive law alone, with errors of its numbers and the scatter of single runs, as earlier versions did
("before"), and by the ensemble of laws, as `capscale predict` does. Simulated tables are for bench_coverage.py.
"""

import argparse
import json
from typing import Any

import jax
import numpy as np
from about import about

from capscale.analysis.ensemble import gathered
from capscale.analysis.families import family
from capscale.analysis.fit import Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.predict import predict
from capscale.analysis.rollouts import cuts
from capscale.analysis.rows import read
from capscale.analysis.table import Row, Table
from capscale.analysis.uncertainty import bootstrap
from capscale.cli.compiled import keep_compiled


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
    """Predicts QuEST's runs and prints; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--json")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    keep_compiled()
    lines = of_quest(options.file)
    for line in lines:
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({**about("jax", "scipy", "numpy"), "lines": lines}, file, indent=1)


if __name__ == "__main__":
    main()
