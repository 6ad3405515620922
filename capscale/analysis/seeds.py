"""Capacities of runs with repeated seeds: the scatter of seeds is measured, and carried through the dense curve.

Every cell, a format at one size and number of tokens, with several seeds tells how far losses of equal runs lie apart.
Pooled over all cells that is one deviation with many degrees of freedom, where a bootstrap of two runs has none.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from capscale.analysis.equivalence import LEAST_SIZES, SAME_TOKENS, dense_knots
from capscale.analysis.measure import FARTHEST, LEAST_DENSE_SIZES, Capacities
from capscale.analysis.table import Table

LEAST_FREEDOM = 5
"""Pooled degrees of freedom below which seeds do not say how far equal runs lie apart."""


@dataclass(frozen=True)
class Scatter:
    """Standard deviation of the loss of equal runs by seed, in nats, and the degrees of freedom that it rests on."""

    deviation: float
    freedom: int


def scatter(table: Table) -> Scatter | None:
    """Pooled over the cells of a table; None with fewer degrees of freedom than `LEAST_FREEDOM`."""
    cells = defaultdict(list)
    for r in table.rows:
        cells[r.curve, r.N, r.D].append(r.loss)
    freedom = sum(len(losses) - 1 for losses in cells.values())
    if freedom < LEAST_FREEDOM:
        return None
    squares = sum(float(np.sum(np.square(np.subtract(losses, np.mean(losses))))) for losses in cells.values())
    return Scatter(math.sqrt(squares / freedom), freedom)


def from_seeds(table: Table, resamples: int = 1000, seed: int = 0) -> Capacities | None:
    """Capacities read off the dense curve, with errors by the scatter of seeds; None where seeds do not tell it.

    The capacity of a format is the mean of log rho over its sizes, each from the mean loss of its seeds. A resample
    moves every loss, dense ones too, by a normal draw whose deviation is drawn from what the seeds leave likely. Draws
    of one resample share their dense curve, so that differences of formats are told more sharply than either. Formats
    whose runs are worth sizes further than a factor `FARTHEST` beyond the dense ones are not measured.
    """
    told = scatter(table)
    if told is None:
        return None
    names = tuple(c for c in table.curves if c != "dense")
    random = np.random.default_rng(seed)
    # One deviation for a whole resample, as likely as the seeds leave it: means of several runs have its error too.
    deviations = told.deviation * np.sqrt(told.freedom / random.chisquare(told.freedom, resamples + 1))
    noise = deviations[:, None] * random.standard_normal((resamples + 1, len(table.rows)))
    noise[0] = 0.0  # the first is the estimate itself
    losses = table.column("loss") + noise
    total, counted = np.zeros((resamples + 1, len(names))), np.zeros(len(names))
    beyond: dict[str, str] = {}
    for D in sorted({r.D for r in table.rows if not r.is_dense}):
        at = [i for i, r in enumerate(table.rows) if abs(math.log(r.D / D)) < SAME_TOKENS]
        dense = defaultdict(list)
        cells = defaultdict(list)
        for i in at:
            row = table.rows[i]
            if row.is_dense:
                dense[row.N].append(i)
            elif row.D == D:
                cells[row.curve, row.N].append(i)
        if len(dense) < max(LEAST_SIZES, LEAST_DENSE_SIZES):
            continue
        sizes = sorted(dense)
        curves = np.stack([losses[:, dense[N]].mean(axis=1) for N in sizes], axis=1)
        keys = list(cells)
        means = np.stack([losses[:, cells[key]].mean(axis=1) for key in keys], axis=1)
        read = np.stack([_read(np.log(sizes), c, m) for c, m in zip(curves, means, strict=True)])
        for k, (curve, N) in enumerate(keys):
            column = names.index(curve)
            total[:, column] += read[:, k] - math.log(N)
            counted[column] += 1
            size = math.exp(read[0, k])
            if not sizes[0] / FARTHEST <= size <= sizes[-1] * FARTHEST:
                beyond[curve] = f"at N = {N:.4g} it is worth {size:.3g}, beyond the dense sizes"
    for column, name in enumerate(names):
        if not counted[column]:
            beyond[name] = f"no {LEAST_DENSE_SIZES} dense sizes at the tokens of its runs"
    with np.errstate(invalid="ignore"):
        log_rho = total / np.where(counted, counted, np.nan)
    why_not = tuple(beyond.get(name, "") for name in names)
    return Capacities("dense curve, seeds", names, np.exp(log_rho[0]), np.exp(log_rho[1:]), why_not)


def _read(log_n: np.ndarray, dense: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """log N of the dense model of each loss."""
    knots, curve = dense_knots(log_n, dense)
    return PchipInterpolator(-curve, knots)(np.clip(-losses, -curve[0], -curve[-1]))
