"""Nested grids: one tensor of integers whose top bits are the models of fewer bits (MatQuant, arXiv 2502.06786).

A code q of c bits is sliced to r bits by `S(q, r) = min(round(q / 2^(c - r)), 2^r - 1)`, which stands for the level
`2^(c - r) S` of the grid of c bits, at its scale and offset. What was read: abstracts of its versions; its equation 6
as another implementation quotes it (rounding, and the clamp that rounding makes necessary, one scale and zero point for
all widths); and `matryoshka_slice` of MatGPTQ's authors (arXiv 2602.03537), from which it is that halves go up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from capscale.checks import check_reals, check_whole
from capscale.errors import UserError
from capscale.kernels.project import ScaleOffset, of_level

from .affine import FEWEST, Range
from .affine_error import range_error
from .base import Context, Granularity, Projection, in_dtype
from .distributions import Array64, Distribution, Pieces, cut_pieces
from .grids import Grid, Int
from .groups import GroupSize
from .mse import Mse
from .scalar import Scalar
from .scale import Absmax
from .scaling import ROW, maximum_error
from .storage import Codes, Field, Shape

WIDEST = 8
ENDS = Range()
"""Scales from the smallest value of a group to its largest, with a zero point."""


@dataclass(frozen=True)
class Nested:
    """Integers of `widths[0]` bits, the models of fewer bits being slices of the same codes.

    A run in it trains the mean of the losses of all widths at once, and has a row for each. By itself, and to whatever
    asks for one value, it is the integers of `at` bits.

    Attributes:
      widths: bits of the models, descending.
      scale: `Range()` as the source has it (from the smallest value of a group to its largest), or `Absmax()`.
      group: values that share a scale: "row", or a number of neighbours.
      weights: of the losses, one a width, whose sum they are divided by; empty for equal ones.
      at: bits of the slice; None for all of them.

    Example: `Nested((8, 4, 2))` is MatQuant's.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"weights": (), "at": None}

    widths: tuple[int, ...]
    scale: Range | Absmax = ENDS
    group: GroupSize = "row"
    weights: tuple[float, ...] = ()
    at: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, "at", least=1, optional=True)
        check_reals(self, "weights", least=0)
        whole = all(isinstance(width, int) and not isinstance(width, bool) for width in self.widths)
        if not whole or len(self.widths) < 2 or list(self.widths) != sorted(set(self.widths), reverse=True):
            raise UserError(f"Nested(widths={self.widths}): give two numbers of bits or more, descending, as (8, 4, 2)")
        if self.widths[0] > WIDEST or self.widths[-1] < 1:
            raise UserError(f"Nested(widths={self.widths}): bits must be 1 to {WIDEST}")
        if self.weights and (len(self.weights) != len(self.widths) or not sum(self.weights) > 0):
            raise UserError(f"Nested(weights={self.weights}): give one for each of the widths {self.widths}, not all 0")
        if self.at is not None and self.at not in self.widths:
            raise UserError(f"Nested(at={self.at}): the widths are {', '.join(map(str, self.widths))}")
        if not isinstance(self.scale, Range | Absmax):
            raise UserError(f"Nested(scale={self.scale}): use Range() or Absmax(), whose scale serves every width")
        if self.at == self.widths[0]:
            object.__setattr__(self, "at", None)
        _ = self.parent  # which refuses groups

    @property
    def parent(self) -> Scalar:
        """The integers of the most bits."""
        grid = Int(self.widths[0], "unsigned" if isinstance(self.scale, Range) else "twos-complement")
        return Scalar(grid, self.scale, self.group)

    @property
    def width(self) -> int:
        """Bits of its codes."""
        return self.widths[0] if self.at is None else self.at

    @property
    def dropped(self) -> int:
        """Low bits of the widest codes that it leaves out."""
        return self.widths[0] - self.width

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights of the losses, which sum to 1."""
        weights = self.weights or (1.0,) * len(self.widths)
        return tuple(weight / sum(weights) for weight in weights)

    def sliced(self, bits: int) -> "Nested":
        """The slice of so many bits."""
        return replace(self, at=bits)

    @property
    def bits(self) -> float:
        """Bits of a code, and a scale's share of its group."""
        return self.parent.bits - self.dropped

    @property
    def granularity(self) -> Granularity:
        """That of the widest integers."""
        return self.parent.granularity

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """Quadrature over the ends, or the largest magnitude, of a group, with the cells that slicing makes."""
        if not self.dropped:
            return self.parent.error(distribution, samples)
        values = self.parent.groups.values or samples or ROW
        if isinstance(self.scale, Range):
            if values < FEWEST:
                return None
            standing = self.levels[np.searchsorted(self.edges, np.arange(2 ** self.widths[0]))]
            error = range_error(self.parent.grid, values, distribution, self.scale.offset == "zero-point", standing)
            return Mse(error, f"quadrature, both ends of {values}")
        cells = cast(Grid, _Cut(self))  # read for its levels and edges alone
        error = maximum_error(cells, _OfWidest(self.scale, self.parent.grid), values, distribution)
        return Mse(error, f"quadrature, maximum of {values}")

    @property
    def levels(self) -> Array64:
        """Levels in steps of the widest grid, counted from its lowest."""
        return np.arange(2**self.width, dtype=np.float64) * 2**self.dropped

    @property
    def edges(self) -> Array64:
        """Values between which each of them is chosen, in the same steps: a code is rounded twice."""
        half = 2 ** (self.dropped - 1) if self.dropped else 0
        return self.levels[1:] - half - 0.5

    def project(self, x: Array, ctx: Context) -> Projection:
        """The levels that the slices of the codes stand for."""
        projection = self.parent.project(x, ctx)
        if not self.dropped:
            return projection
        parts = self.parent.measure(x, ctx)
        value = self.values_of(self._slice(self.parent.codes_of(x, parts)), parts, x.dtype)
        step = None if projection.step is None else projection.step * 2**self.dropped
        error = None if step is None else jnp.abs(value.astype(jnp.float32) - x.astype(jnp.float32)) / step
        return projection._replace(value=value, step=step, error_in_steps=error)

    def _slice(self, codes: Array) -> Array:
        if not self.dropped:
            return codes
        half = jnp.asarray(2 ** (self.dropped - 1), codes.dtype)
        return jnp.minimum((codes + half) >> self.dropped, 2**self.width - 1)

    def values_of(self, codes: Array, parts: tuple[Array, ...], dtype: DTypeLike) -> Array:
        """Levels of codes of its own width, as the widest grid scales them."""
        widest = codes << self.dropped
        groups, scale = self.parent.groups, self.parent._scale(parts, codes.shape)
        level = self.parent.grid.decode(groups.split(widest))
        value = of_level(level, scale) if isinstance(scale, ScaleOffset) else level * scale
        return in_dtype(groups.join(value, codes.shape), dtype)

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """A code a value, and the scales."""
        return (Field("codes", prod(shape), 2**self.width), *self.parent.scale_layout(shape))

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Slices of the codes of the widest integers, with their scales."""
        return self.narrowed(self.parent.store(x, ctx))

    def narrowed(self, codes: Mapping[str, Codes]) -> dict[str, Codes]:
        """Fields of this width from those of the widest: the codes sliced, the scales as they are."""
        own = np.asarray(self._slice(jnp.asarray(codes["codes"])), np.uint32)
        return {**codes, "codes": own}

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Values of the codes."""
        return _loaded(self, jnp.asarray(codes["codes"]).reshape(shape), self.parent.load_scales(codes, shape), dtype)


@partial(jax.jit, static_argnums=(0, 3))
def _loaded(nested: Nested, codes: Array, parts: tuple[Array, ...], dtype: DTypeLike) -> Array:
    return nested.values_of(codes, parts, dtype)


class _Cut(NamedTuple):
    """A slice as the error of a grid reads it: its levels in steps of the widest grid, and the cells that it makes."""

    nested: Nested

    @property
    def levels(self) -> Array64:
        return self.nested.levels + self.nested.parent.grid.levels[0]

    def pieces(self, levels: Array64) -> Pieces:
        step = (levels[..., 1:2] - levels[..., :1]) / 2**self.nested.dropped
        return cut_pieces(levels, levels[..., :1] + self.nested.edges * step)


class _OfWidest(NamedTuple):
    """The rule for the scale with the widest grid in place of the one that it is asked for."""

    rule: Absmax
    grid: Grid

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        return self.rule.of_maximum(maximum, self.grid)

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        return self.rule.jumps(low, high, self.grid)
