"""How often the further number in the law of a table's runs could be told from the others, if their noise were known.

    python scripts/bound_extensions.py --tables 200 --json docs/benchmarks/extensions-bound.json

The tables are those of `bench_extensions.py`. Each law is written out here, fitted by least squares in float64 from the
numbers that made the runs, and compared by the ratio of the likelihoods at the optima: no rule that has to find out the
noise, nor whether runs share errors, can be expected to tell more. `distance` is the least sum of squares, over the
variance of the noise, by which another law misses the losses without noise: half of it is the expected logarithm of the
ratio, and it grows in proportion to the number of runs.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from about import about
from bench_extensions import ALPHA, BETA, COST, DESIGNS, NOISE, RHO, A, B, E, drawn
from scipy.optimize import least_squares

from capscale.analysis.odds import ENOUGH
from capscale.analysis.shipped.capacity import CHINCHILLA_RATIO
from capscale.analysis.table import Table

NOTHING = {"g": 1.0, "k": 0.0, "delta": 0.0, "eta": 1.0}
TOLD = [name for name, (numbers, shared, _) in DESIGNS.items() if numbers and not shared]
SMALL = 1e-30
"""Imaginary step of the derivatives, which has no rounding error: (z + ih).imag / h."""


class Columns:
    """The columns of a table, and the formats that have a capacity of their own."""

    def __init__(self, table: Table):
        self.N, self.D, self.loss = (table.column(name) for name in ("N", "D", "loss"))
        self.compressed = np.array([r.weights != "dense" for r in table.rows])
        self.gradients = np.array([r.gradients != "dense" for r in table.rows])
        held = [(r.weights, r.gradients) for r in table.rows]
        self.formats = list(dict.fromkeys(held))
        self.format = np.array([self.formats.index(h) for h in held])

    def start(self, number: str, value: float) -> np.ndarray:
        """The numbers that made the runs: log A N0^-alpha, alpha, log B D0^-beta, beta, E, log rho, and `number`."""
        rho = [np.log(RHO[w] * (1 if g == "dense" else COST)) for w, g in self.formats[1:]]
        terms = [np.log(A) - ALPHA * np.log(self.N[0]), ALPHA, np.log(B) - BETA * np.log(self.D[0]), BETA, E]
        return np.array([*terms, *rho, *([value] if number else [])])

    def predicted(self, z: np.ndarray, number: str) -> np.ndarray:
        """Losses (R,) by the law with this further number, "" for none."""
        x = NOTHING | ({number: z[-1]} if number else {})
        rho = np.concatenate([[0.0], z[5 : 4 + len(self.formats)]])[self.format]
        drift = -x["delta"] * np.log(self.D / self.N / CHINCHILLA_RATIO) * self.compressed
        size = np.log(self.N / self.N[0]) + rho + drift
        tokens = np.log(self.D / self.D[0]) + x["k"] * rho + np.log(x["eta"]) * self.gradients
        reducible = np.exp(z[0] - z[1] * size) + np.exp(z[2] - z[3] * tokens)
        return reducible ** x["g"] + z[4]

    def misfit(self, loss: np.ndarray, number: str, value: float) -> float:
        """Least sum of squares of the law over the variance of the noise, from `value` on."""

        def residuals(z: np.ndarray) -> np.ndarray:
            return (self.predicted(z, number) - loss) / NOISE

        def jacobian(z: np.ndarray) -> np.ndarray:
            steps = z + 1j * SMALL * np.eye(len(z))
            return np.stack([np.imag(self.predicted(one, number)) / SMALL / NOISE for one in steps], axis=1)

        start = self.start(number, value)
        jac: Any = jacobian  # the stubs know its names of finite differences alone
        return float(2 * least_squares(residuals, start, jac, method="lm", x_scale="jac", max_nfev=2000).cost)


def bound(design: str, tables: int) -> dict[str, Any]:
    """Laws told of the tables of a design, and how far each other law is from its losses."""
    ((right, value),) = DESIGNS[design][0].items()
    columns, called = Columns(drawn(design, 0)), Counter[str]()
    exact = columns.predicted(columns.start(right, value), right)
    for seed in range(tables):
        loss = drawn(design, seed).column("loss")
        misfits = {n: columns.misfit(loss, n, value if n == right else at) for n, at in NOTHING.items()}
        first, second = sorted(misfits, key=misfits.__getitem__)[:2]
        called[first if misfits[second] - misfits[first] > 2 * np.log(ENOUGH) else "none"] += 1
    distance = {n or "additive": columns.misfit(exact, n, NOTHING.get(n, 0.0)) for n in ("", *NOTHING) if n != right}
    distance = {n: round(d, 1) for n, d in distance.items()}
    return {"tables": tables, "rightly": called[right], "called": dict(called), "distance": distance}


def main() -> None:
    """Counts over the tables of every design."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--designs", nargs="*", default=TOLD, choices=TOLD)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    result = {"command": about()["command"], "commit": about()["commit"]}
    result["designs"] = {design: bound(design, chosen.tables) for design in chosen.designs}
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["designs"], indent=1))
    print(f"{time.process_time():.0f} CPU seconds")


if __name__ == "__main__":
    main()
