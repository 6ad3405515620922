"""GMSE: the error of a format on Gaussian data, the one number that the capacity metric reads.

`GMSE(R) = E[(x - R(x))^2]`, x ~ N(0, 1) (arXiv 2506.01863, section 3); other laws of unit variance for the
paper's ablation. Computed in float64 on the host: in float32 the 8-bit value is off by 0.2 %.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from capscale.formats.base import Format
from capscale.formats.distributions import NORMAL, Distribution
from capscale.formats.error import Exact


class Gmse(NamedTuple):
    """A mean squared error on unit-variance data, how well it is known, and how."""

    value: float
    standard_error: float
    """0 where the value is computed, not measured."""
    method: str


@cache
def gmse(format: Format, distribution: Distribution = NORMAL, samples: int | None = None) -> Gmse:
    """Error of `format` on rows of `samples` independent values (None: unboundedly long rows).

    Example: `gmse(Scalar(Int(4))).value` is 0.0115428844.
    """
    if isinstance(format, Exact):
        error = format.error(distribution, samples)
        if error is not None:
            return Gmse(error.value, 0.0, error.method)
    raise NotImplementedError(f"no exact error for {format!r}")


def effective_bits(gmse: float) -> float:
    """`log_{1/4} GMSE`: the rate of an ideal format of that error, b >= -log2(GMSE) / 2. Zero from GMSE = 1 up."""
    return max(0.0, -0.5 * float(np.log2(gmse))) if gmse > 0 else float("inf")


def bound(bits: float) -> float:
    """`4^-b`: no format of b bits per value has a smaller Gaussian error (rate-distortion)."""
    return 4.0**-bits
