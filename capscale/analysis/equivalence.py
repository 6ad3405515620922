"""Dense-equivalent size read off the dense runs' own curve: capacities that use no law.

At one number of tokens the dense losses give log N as a monotone cubic function of the loss. A compressed run
of loss L is worth the size where that curve passes L; the capacity is its share of the run's own size. Beyond
the dense sizes the curve is prolonged by the slope of its last three, and the result says so.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from capscale.analysis.table import Table

SAME_TOKENS = 0.01
"""Relative difference of D that counts as none: whole steps round one budget differently for different sizes."""
LEAST_SLOPE = 0.02
"""Fall of loss per e-fold of N below which a dense curve says nothing about sizes, in nats."""
LEAST_SIZES = 3
"""Dense sizes at one D below which no curve is drawn through them."""
PROLONGED = 3.0
"""e-folds of N by which the dense curve is prolonged on either side."""


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
    slope: float
    """d loss / d log N of the dense curve there, negative."""

    @property
    def rho(self) -> float:
        """Capacity of this run."""
        return self.size / self.N


def equivalents(table: Table, *, noisy: bool = False) -> list[Equivalent]:
    """Dense-equivalent sizes of every compressed run whose D has dense runs of at least three sizes.

    None at a D where the dense loss rises with size (`rising`); with `noisy` (resamples, whose losses carry added
    noise) the closest falling curve is taken there instead.
    """
    found: list[Equivalent] = []
    for D in sorted({r.D for r in table.rows if not r.is_dense}):
        sizes, loss = _dense_curve(table, D)
        if len(sizes) < LEAST_SIZES or (not noisy and np.any(np.diff(loss) >= 0)):
            continue
        log_n, curve = dense_knots(np.log(sizes), loss)
        reader = PchipInterpolator(-curve, log_n)
        for r in (r for r in table.rows if r.D == D and not r.is_dense):
            at = float(np.clip(-r.loss, -curve[0], -curve[-1]))
            outside = not loss[-1] <= r.loss <= loss[0]
            size, slope = math.exp(float(reader(at))), -1 / float(reader(at, 1))
            found.append(Equivalent(r.run, r.curve, r.N, r.D, r.loss, size, outside, slope))
    return found


def rising(table: Table) -> dict[float, list[float]]:
    """Sizes whose dense loss is no lower than that of the size below, by the D of compressed runs."""
    found = {}
    for D in sorted({r.D for r in table.rows if not r.is_dense}):
        sizes, loss = _dense_curve(table, D)
        worse = [N for N, rise in zip(sizes[1:], np.diff(loss), strict=True) if rise >= 0]
        if worse and len(sizes) >= LEAST_SIZES:
            found[D] = worse
    return found


def _dense_curve(table: Table, D: float) -> tuple[list[float], np.ndarray]:
    """Dense sizes at one D, ascending, with the mean loss of each."""
    same = [r for r in table.rows if r.is_dense and abs(math.log(r.D / D)) < SAME_TOKENS]
    sizes = sorted({r.N for r in same})
    return sizes, np.array([np.mean([r.loss for r in same if r.N == N]) for N in sizes])


def dense_knots(log_n: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A falling curve through the dense losses, prolonged at both ends: log N (M,) and loss (M,)."""
    falling = np.asarray(isotonic_regression(loss, increasing=False).x)
    # Levelled stretches get the least slope, so that every loss has one size.
    falling = falling - LEAST_SLOPE * 1e-3 * (log_n - log_n[0])
    ends = [max(-np.polyfit(log_n[part], loss[part], 1)[0], LEAST_SLOPE) for part in (slice(None, 3), slice(-3, None))]
    return (
        np.concatenate([[log_n[0] - PROLONGED], log_n, [log_n[-1] + PROLONGED]]),
        np.concatenate([[falling[0] + ends[0] * PROLONGED], falling, [falling[-1] - ends[1] * PROLONGED]]),
    )
