"""How exactly the error of a format is known, and the protocol by which a format gives its own."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .distributions import Distribution
from .stated import CLOSED_FORM, unstated


class Mse(NamedTuple):
    """Mean squared error of a format on data of unit variance."""

    value: float
    method: str
    """"exact", "closed form" or "quadrature", with what it was evaluated at."""


@runtime_checkable
class Exact(Protocol):
    """A format that computes its own error on the host in float64."""

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """`E[(x - R(x))^2]`, x of unit variance, rows of `samples` values (None: unboundedly long).

        None where mathematics gives no exact value for these arguments; it is then measured.
        """
        ...


@runtime_checkable
class ErrorOfShape(Protocol):
    """A format whose error depends on the sides of a matrix, of which `error` says that of squares."""

    def error_of(self, shape: tuple[int, ...], distribution: Distribution) -> float | None:
        """Error of a matrix of this shape; None where no exact value is known."""
        ...


def exact_error(format: Any, distribution: Distribution, samples: int | None) -> Mse | None:
    """Error that the format itself states; None where it states nothing, or inherits another's."""
    if not isinstance(format, Exact) or unstated(format, CLOSED_FORM) is not None:
        return None
    return format.error(distribution, samples)


def effective_bits(gmse: Any) -> Any:
    """`log_{1/4} GMSE`: the rate of an ideal format of that error, -log2(GMSE) / 2; 0 from GMSE = 1 up, infinite at 0.

    By rate-distortion no format of b bits per value has more than b of them. An array of an array, else a float.
    """
    with np.errstate(divide="ignore"):
        bits = np.maximum(np.log2(np.asarray(gmse, np.float64)) / -2, 0.0) + 0.0  # no negative zero
    return bits if bits.ndim else float(bits)
