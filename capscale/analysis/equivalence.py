"""Dense-equivalent size read off the dense runs' own curve: a check of capacities that uses no law.

At one number of tokens the dense losses give log N as a piecewise linear function of the loss. A compressed run
of loss L is worth the size where that curve passes L; the capacity is its share of the run's own size. Outside
the dense sizes the end segment is prolonged, and the result says so.
"""

import math
from typing import NamedTuple

import numpy as np

from capscale.analysis.table import Table
from capscale.errors import UserError

SAME_TOKENS = 0.01
"""Relative difference of D that counts as none."""


class Equivalent(NamedTuple):
    """One run's dense-equivalent size."""

    run: str
    curve: str
    N: float
    D: float
    loss: float
    size: float
    """N rho: parameters of the dense model of equal loss at equal D."""
    prolonged: bool
    """True where the dense curve had to be prolonged beyond its sizes."""

    @property
    def rho(self) -> float:
        """Capacity of this run."""
        return self.size / self.N


def equivalents(table: Table) -> list[Equivalent]:
    """Dense-equivalent sizes of every compressed run whose D has dense runs of at least two sizes."""
    found: list[Equivalent] = []
    for D in sorted({r.D for r in table.rows if not r.is_dense}):
        # whole steps round one budget differently for different sizes
        same = [r for r in table.rows if abs(math.log(r.D / D)) < SAME_TOKENS]
        sizes = sorted({r.N for r in same if r.is_dense})
        if len(sizes) < 2:
            continue
        loss = np.array([np.mean([r.loss for r in same if r.is_dense and r.N == N]) for N in sizes])
        log_n = np.log(sizes)
        if np.any(np.diff(loss) >= 0):
            worse = np.array(sizes)[1:][np.diff(loss) >= 0]
            raise UserError(
                f"{table.source}: dense loss does not fall with size at D={D:g} (N={worse.astype(int).tolist()}); "
                "no dense-equivalent can be read off it; check the learning rates"
            )
        for r in (r for r in table.rows if r.D == D and not r.is_dense):
            k = int(np.clip(np.searchsorted(-loss, -r.loss) - 1, 0, len(loss) - 2))
            share = (r.loss - loss[k]) / (loss[k + 1] - loss[k])
            size = float(np.exp(log_n[k] + share * (log_n[k + 1] - log_n[k])))
            outside = not loss[-1] <= r.loss <= loss[0]
            found.append(Equivalent(r.run, r.curve, r.N, r.D, r.loss, size, outside))
    return found


def direct_capacity(points: list[Equivalent]) -> dict[str, float]:
    """Geometric mean of the runs' capacities, by format."""
    by_curve: dict[str, list[float]] = {}
    for p in points:
        by_curve.setdefault(p.curve, []).append(np.log(p.rho))
    return {curve: float(np.exp(np.mean(logs))) for curve, logs in by_curve.items()}
