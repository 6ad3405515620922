"""Scale rules: how many units of the tensor one unit of the grid is, and what of it is stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import capscale.kernels.project as kernel
from capscale.checks import check_choice, check_flag, check_real, check_reals
from capscale.errors import UserError
from capscale.kernels.project import reciprocal
from capscale.kernels.rms import largest_magnitude, root_mean_square

from .base import Context, Granularity
from .distributions import Array64, Distribution
from .floats import E4M3, E8M0_BITS, Float
from .grids import Grid
from .mse import Mse
from .optimum import optimal_clip
from .scale_rule import FLOAT32_BITS, Float32Part, Group, Number, Part, float_codes, float_values, largest, number_bits
from .scaling import Shared, fixed_error, rms_error, two_level_error


@dataclass(frozen=True)
class Rms(Float32Part):
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
        return (self.kernel_rule(grid)(root_mean_square(group.x, group.axes, group.filled), None),)

    def kernel_rule(self, grid: Grid) -> kernel.KernelRule:
        """A factor of the RMS."""
        return kernel.RmsTimes(self.clip(grid) / float(grid.levels[-1]))

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse | None:
        """Closed form over the cells."""
        return rms_error(grid, self.clip(grid), shared, distribution)


GAUSSIAN_RMS = Rms()


@dataclass(frozen=True)
class Absmax:
    """The largest level stands at the largest magnitude of the group.

    `number`: the float that the scale is stored in, and rounded to; float16 has none below 2^-24, which is zero.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"number": "float32"}

    number: Number = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "number", ("float32", "bfloat16", "float16"))

    @property
    def part_bits(self) -> tuple[int, ...]:
        """One float a group."""
        return (number_bits(self.number),)

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Bits of the float."""
        return (float_codes(parts[0], self.number),)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Float of the bits."""
        return (float_values(codes[0], self.number),)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """`max |x| / largest level`."""
        return (self.kernel_rule(grid)(largest(group), None),)

    def kernel_rule(self, grid: Grid) -> kernel.KernelRule:
        """The largest magnitude over the largest level, rounded."""
        return kernel.LargestOver(float(grid.levels[-1]), self.number)

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """The same on the host, in float64."""
        scale = maximum / grid.levels[-1]
        return scale if self.number == "float32" else scale.astype(jnp.dtype(self.number)).astype(np.float64)

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """Midway between two numbers of 16 bits; of float32, which are as good as all numbers, nowhere."""
        if self.number == "float32":
            return np.empty(0)
        infinity = int(np.array(np.inf).astype(jnp.dtype(self.number)).view(np.uint16))
        numbers = np.arange(infinity, dtype=np.uint16).view(jnp.dtype(self.number)).astype(np.float64) * grid.levels[-1]
        at = (numbers[1:] + numbers[:-1]) / 2
        return at[(at > low) & (at < high)]


@dataclass(frozen=True)
class PowerOfTwo:
    """A shared power of two, stored as an E8M0 byte (OCP Microscaling Formats v1.0).

    "floor" is the OCP rule: the exponent of the largest magnitude less that of the largest level, so that magnitudes
    above the largest level saturate. "even": the same once the largest magnitude is rounded to the mantissa of the
    grid, ties up (torchao's EVEN). "ceil": the smallest power of two at which nothing saturates.
    """

    rounding: Literal["floor", "even", "ceil"] = "floor"

    def __post_init__(self) -> None:
        check_choice(self, "rounding", ("floor", "even", "ceil"))

    @property
    def part_bits(self) -> tuple[int, ...]:
        """One byte a group."""
        return (E8M0_BITS,)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """2^(floor(log2 max) - floor(log2 top)), or 2^ceil(log2(max / top)); 2^-126 to 2^127."""
        return (self.kernel_rule(grid)(largest(group), None),)

    def kernel_rule(self, grid: Grid) -> kernel.KernelRule:
        """By the bits of the largest magnitude."""
        return kernel.PowerOfTwoOver(self.reference(grid), "ceil" if self.rounding == "ceil" else "floor")

    def reference(self, grid: Grid) -> float:
        """Level that the ratio is taken to: the power of two below the largest, or the largest itself.

        "even": as much below that power as a significand may be, half a step of the mantissa, to round up to the next.
        """
        top = float(grid.levels[-1])
        power = float(2.0 ** np.floor(np.log2(top)))
        if self.rounding == "even":
            return power - float(grid.levels[-1] - grid.levels[-2]) / 4
        return power if self.rounding == "floor" else top

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """The exponent with float32's bias, which is E8M0's."""
        return (lax.shift_right_logical(lax.bitcast_convert_type(parts[0], jnp.uint32), jnp.uint32(23)),)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """The power of two: 2^-127 for code 0, which float32 holds as a subnormal number, and NaN for code 255."""
        code = codes[0].astype(jnp.uint32)
        bits = jnp.where(code == 0, jnp.uint32(1 << 22), lax.shift_left(code, jnp.uint32(23)))
        bits = jnp.where(code == 255, jnp.uint32(0x7FC00000), bits)
        return (lax.bitcast_convert_type(bits, jnp.float32),)

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """The same on the host, in float64."""
        exponent = np.log2(maximum / self.reference(grid))
        return 2.0 ** (np.ceil(exponent) if self.rounding == "ceil" else np.floor(exponent))

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """Where the exponent changes."""
        reference = self.reference(grid)
        first, last = np.floor(np.log2(low / reference)), np.ceil(np.log2(high / reference))
        return reference * 2.0 ** np.arange(first, last + 1)


@dataclass(frozen=True)
class TwoLevel:
    """A float scale per group under one float32 scale: NVFP4's, with E4M3 scales.

    The outer scale puts the largest magnitude of `granularity` at the largest level of the largest scale:
    `outer = max |x| / (top of scales * top of grid)`; a group's scale is `nearest(max of group / top of grid / outer)`.

    `candidates`: levels of the grid at which the group's maximum may stand, in place of the largest; each group takes
    the one of least squared error, the first of equals. (6, 4) is "four over six" (arXiv 2512.02010). The top of scales
    is then the largest level of which those that any candidate asks for are levels too, 256 in place of 448.
    """

    JSON_FIELDS: ClassVar[Mapping[str, str]] = {"granularity": "scope"}
    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"candidates": ()}

    scales: Float = E4M3
    granularity: Granularity = "matrix"
    candidates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self, "granularity", ("row", "matrix"))
        check_reals(self, "candidates", above=0)

    @property
    def top(self) -> float:
        """The level of the largest scale."""
        levels = self.scales.levels[self.scales.levels > 0]
        ratios = [max(self.candidates) / candidate for candidate in self.candidates]
        fitting = [level for level in levels if all(np.any(levels == level * ratio) for ratio in ratios)]
        if not fitting:
            raise UserError(f"{self}: no level of the scales has levels at the ratios of the candidates; choose others")
        return float(max(fitting))

    @property
    def part_bits(self) -> tuple[int, ...]:
        """A code a group, and one float32."""
        return (int(np.log2(self.scales.codes)), FLOAT32_BITS)

    def parts(self, grid: Grid) -> tuple[Part, ...]:
        """The float32 serves the row, or the matrix."""
        own, outer = self.part_bits
        return Part(own), Part(outer, self.granularity)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """Level of the group's scale, and the outer scale."""
        maximum = largest(group)
        over = tuple(range(-len(group.axes) - (2 if self.granularity == "matrix" else 1), 0))
        at = max(self.candidates, default=float(grid.levels[-1]))
        outer = largest_magnitude(maximum, over[-group.x.ndim :]) * reciprocal(at * self.top)
        if not self.candidates:
            return kernel.LevelTimes(self.scales, at).inner(maximum, outer), outer
        return self._searched(group, maximum, outer, grid), outer

    def _searched(self, group: Group, maximum: Array, outer: Array, grid: Grid) -> Array:
        """The level of least error, by an RMS whose sums do not depend on their order."""
        best = least = None
        for candidate in self.candidates:
            level = kernel.LevelTimes(self.scales, candidate).inner(maximum, outer)
            value = kernel.on_grid(grid, group.x, level * jnp.broadcast_to(outer, level.shape)).value
            error = root_mean_square(value - group.x, group.axes)
            if best is None or least is None:
                best, least = level, error
            else:
                best, least = jnp.where(error < least, level, best), jnp.minimum(error, least)
        assert best is not None
        return best

    def kernel_rule(self, grid: Grid) -> kernel.KernelRule | kernel.Unsupported:
        """The group's scale under an outer one, which is given."""
        if self.candidates:
            return kernel.Unsupported("a search over scales is left to XLA")
        return kernel.LevelTimes(self.scales, float(grid.levels[-1]))

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Code of the level, bits of the float32."""
        return self.scales.encode(parts[0]), lax.bitcast_convert_type(parts[1], jnp.uint32)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Parts of the codes, the inverse of `encode`."""
        return self.scales.decode(codes[0]), lax.bitcast_convert_type(codes[1], jnp.float32)

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse | None:
        """Quadrature over the largest magnitudes of groups and of the tensor; measured where scales are searched."""
        if self.candidates:
            return None
        values = shared.row**2 if self.granularity == "matrix" else shared.row
        error = two_level_error(grid, self.scales, shared.values, values, distribution)
        return Mse(error, f"quadrature, tensor of {values}")


@dataclass(frozen=True)
class Learned(Float32Part):
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

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse:
        """Of the step that is optimal for Gaussian data, as it starts: closed form over the cells."""
        return Mse(fixed_error(grid, optimal_clip(grid), distribution), "closed form")

    def kernel_rule(self, grid: Grid) -> kernel.KernelRule:
        """The step is given."""
        return kernel.ExternalScale()

    def gain(self, values: int, grid: Grid) -> float:
        """Factor on the gradient of the step, of `values` values a step."""
        top = float(grid.levels[-1])
        # At 1 bit there is no positive integer code, and LSQ's formula has no value.
        most = max(float(np.floor(top)), 1.0) if self.positive_levels == "integer" else top
        return (values * most) ** -0.5 if self.gradient_scale else 1.0
