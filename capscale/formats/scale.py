"""Scale rules: how many units of the tensor one unit of the grid is, and what of it is stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import capscale.kernels.project as kernel
from capscale.checks import check_choice, check_flag, check_real
from capscale.errors import UserError
from capscale.kernels.project import reciprocal
from capscale.kernels.rms import largest_magnitude, root_mean_square

from .base import Context, Scope
from .distributions import Array64
from .floats import E4M3, E8M0_BITS, Float
from .grids import Grid
from .optimum import optimal_clip

FLOAT32_BITS = 32


class Group(NamedTuple):
    """What a scale is measured on."""

    x: Array
    """float32, (..., group) or (..., groups, group)."""
    axes: tuple[int, ...]
    """Axes that share one scale."""
    filled: Array | None
    """Share of each group that counts (survivors, a ragged last group), where it is not all."""


class ScaleRule(Protocol):
    """Scale of every group, as the product of its stored parts; a frozen, hashable dataclass."""

    @property
    def part_bits(self) -> tuple[int, ...]:
        """Bits of each stored part: one part a group first, then any that all groups share."""
        ...

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """Parts of the scale, float32, broadcast over the group; their product is the scale."""
        ...

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Stored code of each part, uint32 below 2^bits."""
        ...

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Inverse of `encode`."""
        ...


class _Float32Part:
    """Storage of rules whose scale is one float32."""

    @property
    def part_bits(self) -> tuple[int, ...]:
        """One float32 a group."""
        return (FLOAT32_BITS,)

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Bits of the float32."""
        return tuple(lax.bitcast_convert_type(part, jnp.uint32) for part in parts)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """float32 of the bits."""
        return tuple(lax.bitcast_convert_type(code, jnp.float32) for code in codes)


@dataclass(frozen=True)
class Rms(_Float32Part):
    """The largest level stands at `multiple` times the RMS of the group.

    None: the multiple that is MSE-optimal for Gaussian data, computed for the grid (`optimal_clip`).
    """

    multiple: float | None = None

    def __post_init__(self) -> None:
        check_real(self, "multiple", above=0, optional=True)

    def clip(self, grid: Grid) -> float:
        """Where the largest level stands, in multiples of the RMS."""
        return optimal_clip(grid) if self.multiple is None else self.multiple

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """`clip * RMS / largest level`."""
        rms = root_mean_square(group.x, group.axes, group.filled)
        return (rms * jnp.float32(self.clip(grid) / grid.levels[-1]),)


GAUSSIAN_RMS = Rms()


@dataclass(frozen=True)
class Absmax(_Float32Part):
    """The largest level stands at the largest magnitude of the group."""

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """`max |x| / largest level`."""
        return (largest(group) * reciprocal(grid.levels[-1]),)

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """The same on the host, in float64."""
        return maximum / grid.levels[-1]

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """Where `of_maximum` is not continuous: nowhere."""
        return np.empty(0)


@dataclass(frozen=True)
class PowerOfTwo:
    """A shared power of two, stored as an E8M0 byte (OCP Microscaling Formats v1.0).

    "floor" is the OCP rule: the exponent of the largest magnitude less that of the largest level, so that magnitudes
    above the largest level saturate. "ceil": the smallest power of two at which nothing saturates.
    """

    rounding: Literal["floor", "ceil"] = "floor"

    def __post_init__(self) -> None:
        check_choice(self, "rounding", ("floor", "ceil"))

    @property
    def part_bits(self) -> tuple[int, ...]:
        """One byte a group."""
        return (E8M0_BITS,)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """2^(floor(log2 max) - floor(log2 top)), or 2^ceil(log2(max / top)); 2^-126 to 2^127."""
        return (kernel.PowerOfTwo(self.reference(grid), self.rounding)(largest(group), None),)

    def reference(self, grid: Grid) -> float:
        """What the ratio is taken to: the power of two below the largest level, or the level itself."""
        top = float(grid.levels[-1])
        return float(2.0 ** np.floor(np.log2(top))) if self.rounding == "floor" else top

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """The exponent with float32's bias, which is E8M0's."""
        return (lax.shift_right_logical(lax.bitcast_convert_type(parts[0], jnp.uint32), jnp.uint32(23)),)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """The power of two."""
        return (lax.bitcast_convert_type(lax.shift_left(codes[0], jnp.uint32(23)), jnp.float32),)

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """The same on the host, in float64."""
        exponent = np.log2(maximum / self.reference(grid))
        return 2.0 ** (np.floor(exponent) if self.rounding == "floor" else np.ceil(exponent))

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """Where the exponent changes."""
        reference = self.reference(grid)
        first, last = np.floor(np.log2(low / reference)), np.ceil(np.log2(high / reference))
        return reference * 2.0 ** np.arange(first, last + 1)


@dataclass(frozen=True)
class TwoLevel:
    """A float scale per group under one float32 scale: NVFP4's, with E4M3 scales.

    The outer scale puts the largest magnitude of `scope` at the largest level of the largest scale:
    `outer = max |x| / (top of scales * top of grid)`; a group's scale is `nearest(max of group / top of grid / outer)`.
    """

    scales: Float = E4M3
    scope: Scope = "matrix"

    def __post_init__(self) -> None:
        check_choice(self, "scope", ("row", "matrix"))

    @property
    def part_bits(self) -> tuple[int, ...]:
        """A code a group, and one float32."""
        return (int(np.log2(self.scales.codes)), FLOAT32_BITS)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """Level of the group's scale, and the outer scale."""
        top, scale_top = jnp.float32(grid.levels[-1]), self.scales.levels[-1]
        maximum = largest(group)
        over = tuple(range(-len(group.axes) - (2 if self.scope == "matrix" else 1), 0))
        outer = largest_magnitude(maximum, over[-group.x.ndim :]) * reciprocal(grid.levels[-1] * scale_top)
        # A product with a reciprocal, which is what XLA makes of some divisions by a broadcast number, not of all.
        wanted = maximum * (1.0 / (top * jnp.where(outer > 0, outer, 1.0)))
        return self.scales.nearest(wanted)[0], outer

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Code of the level, bits of the float32."""
        return self.scales.encode(parts[0]), lax.bitcast_convert_type(parts[1], jnp.uint32)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Inverse of `encode`."""
        return self.scales.decode(codes[0]), lax.bitcast_convert_type(codes[1], jnp.float32)


@dataclass(frozen=True)
class Learned(_Float32Part):
    """A learned step (LSQ, arXiv 1902.08153): the scale is a parameter, `ctx.learned`.

    `gradient_scale`: multiply its gradient by LSQ's `1 / sqrt(values it scales * Q_P)`.
    `positive_levels`: Q_P is the largest integer code, 2^(b-1) - 1 ("integer", as in LSQ and in QuEST's code), or the
    largest level ("top"), half a step more on a mid-rise grid.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"positive_levels": "top"}

    gradient_scale: bool = True
    positive_levels: Literal["integer", "top"] = "integer"

    def __post_init__(self) -> None:
        check_flag(self, "gradient_scale")
        check_choice(self, "positive_levels", ("integer", "top"))

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """The parameter itself, of the shape that `Scalar.learned_shape` names."""
        if ctx.learned is None:
            raise UserError("Scalar(scale=Learned()) needs its step in Context.learned; see Scalar.initial_learned")
        return (ctx.learned.astype(jnp.float32),)

    def gain(self, values: int, grid: Grid) -> float:
        """Factor on the gradient of the step, of `values` values a step."""
        top = float(grid.levels[-1])
        # At 1 bit there is no positive integer code, and LSQ's formula has no value.
        most = max(float(np.floor(top)), 1.0) if self.positive_levels == "integer" else top
        return (values * most) ** -0.5 if self.gradient_scale else 1.0


def largest(group: Group) -> Array:
    """Largest magnitude of each group; entries outside `filled` are zero already."""
    return largest_magnitude(group.x, group.axes)
