"""Capacities of a table with their errors, and a form of rho(GMSE) through them.

Two ways to a capacity. "dense curve" reads each compressed run's dense-equivalent size off the dense losses at
equal D and averages its logarithm over the runs: no alpha, no E. "joint fit" is the decoupled law, for tables
whose dense runs do not cover the compressed losses.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from capscale.analysis.equivalence import equivalents
from capscale.analysis.operands import parts_of
from capscale.analysis.table import Row, Table
from capscale.analysis.uncertainty import Bootstrap
from capscale.capacity import Capacity, Factor, Form

LEAST_DENSE_SIZES = 4
"""Dense sizes below which their interpolation is not trusted."""
FARTHEST = 1.6
"""Factor by which a dense-equivalent size may lie beyond the dense sizes."""
REFITS = 300
"""Resamples that the form is refitted to."""


@dataclass(frozen=True)
class Capacities:
    """rho of every compressed format: estimates (C,) and resamples (S, C)."""

    method: str
    curves: tuple[str, ...]
    rho: np.ndarray
    draws: np.ndarray


def from_joint_fit(draws: Bootstrap) -> Capacities:
    """Capacities of the decoupled law."""
    names = [c for c in draws.fit.rho if c != "dense"]
    columns = [list(draws.fit.rho).index(c) for c in names]
    return Capacities("joint fit", tuple(names), np.array([draws.fit.rho[c] for c in names]), draws.rho[:, columns])


def from_dense_curve(table: Table, resamples: int, seed: int) -> Capacities | None:
    """Capacities read off the dense curve; None where the dense runs do not cover the compressed losses.

    A resample weighs a format's runs by exponential draws, and moves every dense loss by a normal draw whose deviation
    is that of what the formats of one size share: their mean departure from one capacity per format. Deviations are
    widened by sqrt(n / (n - 1)) for the n runs of a format.
    """
    points = equivalents(table)
    names = tuple(c for c in table.curves if c != "dense")
    counts = np.array([sum(p.curve == c for p in points) for c in names])
    dense = [r.N for r in table.rows if r.is_dense]
    if len(set(dense)) < LEAST_DENSE_SIZES or np.any(counts < 2):
        return None
    if any(not min(dense) / FARTHEST <= p.size <= max(dense) * FARTHEST for p in points):
        return None
    member = np.array([[p.curve == c for p in points] for c in names], float)

    def means(log_rho: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return (member * weight) @ log_rho / (member @ weight)

    log_rho = np.log([p.rho for p in points])
    centre = means(log_rho, np.ones(len(points)))
    slope = np.array([p.slope for p in points])
    off = slope * (log_rho - member.T @ centre)
    shared = [np.mean([o for o, p in zip(off, points, strict=True) if p.N == N]) for N in sorted({p.N for p in points})]
    scatter = float(np.sqrt(np.sum(np.square(shared)) / max(len(shared) - 1, 1)))
    random = np.random.default_rng(seed)
    widen = np.sqrt(counts / (counts - 1))
    draws = np.empty((resamples, len(names)))
    for k in range(resamples):
        moved = np.log([p.rho for p in equivalents(_moved(table, scatter, random), noisy=True)])
        draws[k] = centre + widen * (means(moved, random.exponential(size=len(points))) - centre)
    return Capacities("dense curve", names, np.exp(centre), np.exp(draws))


def _moved(table: Table, scatter: float, random: np.random.Generator) -> Table:
    """The table with a normal draw added to every dense loss."""
    rows = tuple(r._replace(loss=r.loss + random.normal(0, scatter)) if r.is_dense else r for r in table.rows)
    return Table(rows, table.source, table.sha256)


@dataclass(frozen=True)
class CapacityLaw:
    """A form of rho through measured capacities: its numbers, and those of refits to resamples (S, k)."""

    form: Form
    values: np.ndarray
    draws: np.ndarray

    @property
    def capacity(self) -> Capacity:
        """The fitted form."""
        return Capacity(
            self.form, tuple((p.name, float(v)) for p, v in zip(self.form.parameters, self.values, strict=True))
        )

    def curve(self, gmse: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """rho of one compressed operand at each GMSE (M,), and the ends of its band."""
        every = np.stack([_with(self.form, d).rho(gmse) for d in self.draws])
        low, high = np.quantile(every, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return self.capacity.rho(gmse), low, high

    def of(self, row: Row) -> float:
        """rho of a representation: the product over its operands."""
        return float(np.exp(_log_rho(self.form, self.values, row)))


def _with(form: Form, values: np.ndarray) -> Capacity:
    return Capacity(form, tuple((p.name, float(v)) for p, v in zip(form.parameters, values, strict=True)))


def _log_rho(form: Form, values: np.ndarray, row: Row) -> float:
    named = {p.name: v for p, v in zip(form.parameters, values, strict=True)}
    total = 0.0
    for part in parts_of(row, product=False):
        factor = Factor(*(np.array([x]) for x in (part.effective_bits, part.storage_bits, part.sparsity)))
        total += float(form.log_rho(named, factor, np.nan)[0])
    return total


def through_points(form: Form, capacities: Capacities, table: Table) -> CapacityLaw:
    """Least squares of rho on the formats whose estimators are their own, with one refit for each resample."""
    first = table.first_of_curve
    use = [i for i, c in enumerate(capacities.curves) if first[c].is_plain]
    rows = [first[capacities.curves[i]] for i in use]
    lower, upper = np.array([p.lower for p in form.parameters]), np.array([p.upper for p in form.parameters])

    def best(rho: np.ndarray, start: np.ndarray) -> np.ndarray:
        def off(values: np.ndarray) -> np.ndarray:
            return np.exp([_log_rho(form, values, r) for r in rows]) - rho

        return least_squares(off, start, bounds=(lower, upper), x_scale=np.abs(start)).x

    starts = [np.array([p.start[0] + s * (p.start[1] - p.start[0]) for p in form.parameters]) for s in (0.2, 0.5, 0.8)]
    tried = [best(capacities.rho[use], s) for s in starts]
    costs = [np.sum((np.exp([_log_rho(form, v, r) for r in rows]) - capacities.rho[use]) ** 2) for v in tried]
    values = tried[int(np.argmin(costs))]
    refits = np.stack([best(d[use], values) for d in capacities.draws[:REFITS]])
    return CapacityLaw(form, values, refits)
