"""Differences of losses between runs of the same size and seed, which see the same batches in the same order."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import t

from capscale.analysis.claims import Estimate
from capscale.analysis.evidence import Evidence
from capscale.errors import UserError
from capscale.representation import Representation


class Pair(NamedTuple):
    """Size and seed that the runs of one pair have in common."""

    N: float
    """Parameters, as the law counts them."""
    seed: float


def losses(evidence: Evidence, representation: Representation, correction: str = "none") -> dict[Pair, float]:
    """Loss of every run of a representation, by size and seed. Raises UserError where there is none."""
    curve = evidence.curve(representation, correction)
    return {Pair(row.N, row.seed): row.loss for row in evidence.table.rows if row.curve == curve}


def together(*columns: Mapping[Pair, float]) -> np.ndarray:
    """Losses of the pairs that all columns have (columns, pairs); UserError for fewer than two."""
    shared = [pair for pair in columns[0] if all(pair in column for column in columns[1:])]
    if len(shared) < 2:
        raise UserError(f"{len(shared)} pairs of one size and seed; an interval needs two")
    return np.array([[column[pair] for pair in shared] for column in columns])


def mean(values: np.ndarray) -> Estimate:
    """Mean of differences with Student's 95 % interval."""
    return ratio(values, np.ones_like(values))


def ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Ratio of two means over the same pairs, with Student's 95 % interval to first order in its scatter.

    Raises:
      UserError: a mean below that is not above 0, such as a rise that is none.
    """
    base = float(np.mean(below))
    if base <= 0:
        raise UserError(f"the mean below the line is {base:.3g}; a share of it says nothing")
    value = float(np.mean(above)) / base
    spread = np.std((above - value * below) / base, ddof=1) / np.sqrt(len(above))
    half = float(t.ppf(0.975, len(above) - 1) * spread)
    return Estimate(value, value - half, value + half, f"{len(above)} pairs of one size and seed")
