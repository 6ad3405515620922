"""Writes capscale/analysis/data/kind_departures.json: how far kinds of formats stand from the curve of integers.

    python scripts/kind_departures.py

Studies: the paper's printed figures (INT weights and activations of Figure 6, sparse weights and activations of Figure
2b), the capacities that QuEST's authors fitted, and the committed rows of `experiments/results/micro_capacity.csv`.
Formats with rho above .97 are left out: the logarithm of what is nearly 1 is noise.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from capscale.analysis.equivalence import equivalents
from capscale.analysis.operands import facts, gaussian_error
from capscale.analysis.printed import Printed, printed
from capscale.analysis.rows import read
from capscale.analysis.study import core_rows
from capscale.capacity import TANH, Capacity

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "capscale" / "analysis" / "data" / "kind_departures.json"
NEARLY_DENSE = 0.97


def curve(points: list[tuple[str, float]]) -> Capacity:
    """The curve rho(GMSE) through all formats."""
    error, rho = np.array([gaussian_error(n) for n, _ in points]), np.array([r for _, r in points])

    def of(values: np.ndarray) -> Capacity:
        return Capacity(TANH, (("F", float(values[0])), ("C", float(values[1]))))

    return of(least_squares(lambda v: of(v).rho(error) - rho, [0.4, 1.4], bounds=([0.01, 0.05], [5, 10])).x)


def side(figure: Printed, name: str, *, columns: bool) -> list[tuple[str, float]]:
    """Catalog names and capacities of one operand of a printed figure, the other dense."""
    axis, rho = figure.grid.axes[int(columns)], figure.grid.line(int(columns))
    pairs = zip(axis.levels, rho, strict=True)
    return [(name.format(float(n)), float(r)) for n, r in pairs if n != axis.dense]


def entries(study: str, operand: str, points: list[tuple[str, float]], integers: Capacity) -> list[dict[str, Any]]:
    """Departures of formats from the curve of the integers of their study."""
    return [
        {
            "study": study,
            "operand": operand,
            "kind": facts(name).kind,
            "format": name,
            "gmse": float(f"{gaussian_error(name):.6g}"),
            "rho": round(rho, 4),
            "departure": round(float(-np.log(np.log(rho) / np.log(integers.rho(gaussian_error(name))))), 4),
        }
        for name, rho in points
        if rho <= NEARLY_DENSE
    ]


def of_figures() -> list[dict[str, Any]]:
    """Of the paper's printed figures."""
    bits, sparse = printed()["6"], printed()["2b"]
    weights = side(bits, "int{:.0f}", columns=False)
    integers = curve(weights)

    def top(figure: Printed, *, columns: bool) -> list[tuple[str, float]]:
        return [(f"top{round(100 * float(n))}", r) for n, r in side(figure, "{}", columns=columns)]

    study = "arXiv 2506.01863, Figures 2b and 6"
    return [
        *entries(study, "weights", weights, integers),
        *entries(study, "activations", side(bits, "int{:.0f}", columns=True), integers),
        *entries(study, "weights", top(sparse, columns=False), integers),
        *entries(study, "activations", top(sparse, columns=True), integers),
    ]


def of_experiment(name: str) -> list[dict[str, Any]]:
    """Of committed rows: the mean log rho of each format off the dense curve, default estimators only."""
    table = core_rows(read(ROOT / "experiments" / "results" / f"{name}.csv"))
    first = table.first_of_curve
    measured: dict[str, list[float]] = {}
    for point in equivalents(table):
        row = first[point.curve]
        if row.is_plain and row.activations == "dense":
            measured.setdefault(row.weights, []).append(np.log(point.rho))
    points = [(n, float(np.exp(np.mean(v)))) for n, v in sorted(measured.items())]
    integers = curve([(n, r) for n, r in points if facts(n).kind == "int"])
    return entries(f"experiments/results/{name}.csv", "weights", points, integers)


QUEST = {"int1": 0.0205, "int2": 0.1519, "int3": 0.4331, "int4": 0.6918, "e2m1": 0.6296}
"""Capacities of weights and activations together that QuEST's authors fitted to their runs (`for_plots` of their
repository, arXiv 2502.05003)."""


def of_quest() -> list[dict[str, Any]]:
    """The floating-point format of QuEST beside its integers: both operands alike, so that a root makes one's."""
    points = [(name, float(rho**0.5)) for name, rho in QUEST.items()]
    integers = curve([(n, r) for n, r in points if n != "e2m1"])
    return entries("arXiv 2502.05003, stored fit", "weights", points, integers)


def main() -> None:
    """Computes the departures and writes them."""
    content = {
        "source": "scripts/kind_departures.py",
        "unit": "u of log rho = exp(-u) log rho(GMSE), the curve that of the integer weights of the same study",
        "departures": [*of_figures(), *of_quest(), *of_experiment("micro_capacity")],
    }
    OUT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
