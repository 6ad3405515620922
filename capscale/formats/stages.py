"""The stages that a format is made of, for whoever reads a format and need not know its classes."""

from typing import NamedTuple

from .base import Format
from .compose import SparseQuantized
from .rotated import ThenRotated
from .rounding import Rounding
from .scalar import Scalar
from .sparse import Sparse


class Stages(NamedTuple):
    """Sparsity, then rounding; None where a format has no such stage."""

    sparse: Sparse | None
    rounding: Rounding | None
    scales_from: str = ""
    """Of two stages: "survivors" or "dense", what the scales are measured on."""
    rotates_between: bool = False
    """Whether the second stage is in a rotated basis of its own."""

    @property
    def scalar(self) -> Scalar | None:
        """The rounding, where it is of values one by one."""
        return self.rounding if isinstance(self.rounding, Scalar) else None

    @property
    def composed(self) -> bool:
        """Whether there are two."""
        return self.sparse is not None and self.rounding is not None


def stages_of(format: Format) -> Stages:
    """The stages of a format; both None for those of another kind, such as noise and kept outliers."""
    if isinstance(format, SparseQuantized):
        return Stages(format.sparse, format.rounding, format.scales_from, isinstance(format, ThenRotated))
    return Stages(
        format if isinstance(format, Sparse) else None,
        format if isinstance(format, Rounding) else None,
    )


def scalar_alone(format: Format) -> Scalar | None:
    """`format`, where it is one scalar stage alone, as containers of other libraries hold; None elsewhere."""
    stages = stages_of(format)
    return stages.scalar if stages.sparse is None else None
