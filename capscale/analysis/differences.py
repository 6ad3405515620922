"""Capacities of two formats compared, resample by resample."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from capscale.analysis.measure import Capacities
from capscale.analysis.table import Row, Table
from capscale.analysis.uncertainty import Interval

REVERSED = 0.025
"""Neighbours whose order turns round in more than this share of resamples are near-ties."""


@dataclass(frozen=True)
class Difference:
    """Two formats' capacities compared, resample by resample."""

    first: str
    second: str
    rho: Interval
    """The first one's less the second one's, with its 95 % interval."""
    deviation: float
    reversed: float
    """Share of resamples with the opposite order; those with equal capacities count half."""


def difference(measured: Capacities, first: int, second: int) -> Difference:
    """Two formats by their places in `measured`."""
    draws = measured.draws[:, first] - measured.draws[:, second]
    estimate = float(measured.rho[first] - measured.rho[second])
    low, high = np.quantile(draws, [0.025, 0.975])
    turned = float(np.mean(draws * np.sign(estimate) < 0) + np.mean(draws == 0) / 2) if estimate else 0.5
    names = measured.curves[first], measured.curves[second]
    return Difference(*names, Interval(estimate, float(low), float(high)), float(np.std(draws)), turned)


def ties(measured: Capacities) -> tuple[Difference, ...]:
    """Neighbours in rho whose order turns round in more than `REVERSED` of the resamples."""
    order: Sequence[int] = [i for i in np.argsort(-measured.rho, kind="stable") if measured.measured[i]]
    found = (difference(measured, int(upper), int(lower)) for upper, lower in pairwise(order))
    return tuple(d for d in found if d.reversed > REVERSED)


def other_estimators(core: Table, measured: Capacities) -> tuple[Difference, ...]:
    """Formats with another estimator than their own, or compressed gradients, less the same format without."""
    first = core.first_of_curve
    own = {_formats(first[c]): i for i, c in enumerate(measured.curves) if first[c].is_plain and measured.measured[i]}
    found = []
    for i, curve in enumerate(measured.curves):
        row = first[curve]
        if not row.is_plain and measured.measured[i] and _formats(row) in own:
            found.append(difference(measured, i, own[_formats(row)]))
    return tuple(found)


def _formats(row: Row) -> tuple[str, str, str]:
    return row.weights, row.activations, row.hadamard
