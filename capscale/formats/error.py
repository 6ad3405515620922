"""How exactly the error of a format is known, and the protocol by which a format gives its own."""

from typing import NamedTuple, Protocol, runtime_checkable

from .distributions import Distribution


class Error(NamedTuple):
    """Mean squared error of a format on data of unit variance."""

    value: float
    method: str
    """"exact", "closed form" or "quadrature", with what it was evaluated at."""


@runtime_checkable
class Exact(Protocol):
    """A format that computes its own error on the host in float64."""

    def error(self, distribution: Distribution, samples: int | None) -> Error | None:
        """`E[(x - R(x))^2]`, x of unit variance, rows of `samples` values (None: unboundedly long).

        None where mathematics gives no exact value for these arguments; it is then measured.
        """
        ...
