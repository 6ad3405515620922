"""Moments of a format on Gaussian data, which a backward pass needs beside GMSE: how much is lost, how much is noise.

The error of a forward pass is `E[(x - Q(x))^2]`. In a backward pass errors add up over the steps, and two parts of it
act apart: what is lost along x in every step, a bias, and what is random, which averages out. Both follow from two
moments of Gaussian data, `E[x Q(x)]` and `E[Q(x)^2]` (quantized gradients: Quartet, arXiv 2505.14669;
unbiased scales: EDEN, arXiv 2108.08842). The names below are defined here, and may differ from those of the papers.
Measured, whatever the format's error is known by.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from capscale.formats.base import Format
from capscale.formats.distributions import NORMAL, Distribution
from capscale.formats.mse import effective_bits
from capscale.formats.scaling import ROW
from capscale.gaussian_mse import FEWEST_ROWS, drawn

PRECISION = 5e-5
"""Standard error of either moment at which a measurement stops."""


class Moments(NamedTuple):
    """`E[x Q(x)]` and `E[Q(x)^2]` on unit-variance data, relative to the sum of squares of what was drawn."""

    along: float
    """`E[x Q(x)]`: 1 for a format that is unbiased, and for values kept as they are."""
    square: float
    """`E[Q(x)^2]`."""
    along_error: float
    """Standard error of `along`."""
    square_error: float
    """Standard error of `square`."""

    @property
    def shrinkage(self) -> float:
        """`1 - E[x Q(x)]`: the share of a gradient that is lost in every step, whatever is averaged; below 0, gained.

        Optimal levels (Lloyd-Max, optimal clips) lose as much as their GMSE.
        """
        return 1 - self.along

    @property
    def misalignment(self) -> float:
        """`1 - cos^2` of the angle between x and Q(x): the error that the best scale of Q(x) would leave."""
        return 1 - self.along**2 / self.square if self.square > 0 else 1.0

    @property
    def noise(self) -> float | None:
        """`E[Q(x)^2] / E[x Q(x)]^2 - 1`: variance over signal once scaled to be unbiased; None where it cannot be."""
        return self.square / self.along**2 - 1 if self.along > 0 else None

    @property
    def effective_bits(self) -> float | None:
        """Bits of an ideal format of this misalignment, `log_1/4`; None of a format that loses nothing."""
        return effective_bits(self.misalignment) if self.misalignment > 0 else None


@cache
def moments(format: Format, distribution: Distribution = NORMAL, samples: int = ROW) -> Moments:
    """Moments of `format` on rows of `samples` independent values, over its draws where it rounds by chance.

    Monte Carlo to a standard error of `PRECISION`: ratios to the sum of squares of the very values, which vary little.

    Example: `moments(Scalar(Int(4))).shrinkage` is about 0.011, as its GMSE.
    """
    sums, found = np.zeros((3, 0)), Moments(1.0, 1.0, 0.0, 0.0)
    for x, value in drawn(format, distribution, samples):
        more = np.stack([(x * value).sum((1, 2)), np.square(value).sum((1, 2)), np.square(x).sum((1, 2))])
        sums = np.concatenate([sums, more], axis=1)
        found = of_sums(*sums)
        if sums.shape[1] >= FEWEST_ROWS and max(found.along_error, found.square_error) <= PRECISION:
            break
    return found


def of_sums(along: np.ndarray, square: np.ndarray, whole: np.ndarray) -> Moments:
    """Ratios of sums over draws, `sum x Q(x)`, `sum Q(x)^2` and `sum x^2` of each, with errors from their residuals."""
    found, errors = [], []
    for part in (along, square):
        ratio = part.sum() / whole.sum()
        found.append(float(ratio))
        errors.append(float(np.sqrt(np.sum(np.square(part - ratio * whole))) / whole.sum()))
    return Moments(*found, *errors)
