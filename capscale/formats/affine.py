"""Scales with an offset or a sign: levels over the range of a group, as GPTQ, AWQ and GGML have them."""

from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

import capscale.kernels.project as kernel
from capscale.checks import check_choice
from capscale.errors import UserError
from capscale.kernels.project import ScaleOffset, extremes

from .affine_error import range_error
from .base import Context
from .distributions import Array64, Distribution
from .grids import Grid
from .mse import Mse
from .scale_rule import Group, Number, Part, float_codes, float_values, number_bits
from .scaling import Shared, maximum_error
from .stochastic import Drawn

NUMBERS = ("float32", "bfloat16", "float16")
FEWEST = 32  # values of a group, of which all have one sign once in 2^31


@dataclass(frozen=True)
class Range:
    """The levels of the grid span the group from its smallest value to its largest.

    "zero-point": `value = scale * (code - zero)`, the zero point being a code, so that zero is a level; the range
    reaches to zero where the group does not (GPTQ, arXiv 2210.17323; AWQ, arXiv 2306.00978). "minimum": `value =
    scale * code + minimum`, the smallest value being stored (GGML's Q4_1).

    `number`: the float that the scale and the minimum are stored in. The zero point takes the bits of a code.

    Example: `Scalar(Int(4, "unsigned"), Range(), group=128)` is INT4 as GPTQ and AWQ store it.
    """

    offset: Literal["zero-point", "minimum"] = "zero-point"
    number: Number = "float16"

    def __post_init__(self) -> None:
        check_choice(self, "offset", ("zero-point", "minimum"))
        check_choice(self, "number", NUMBERS)

    @property
    def part_bits(self) -> tuple[int, ...]:
        """Those of the scale; `parts` has the rest."""
        return (number_bits(self.number),)

    def parts(self, grid: Grid) -> tuple[Part, ...]:
        """A scale and an offset a group."""
        number = number_bits(self.number)
        return Part(number), Part(ceil(log2(len(grid.levels))) if self.offset == "zero-point" else number)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """The scale, and the zero point or the minimum."""
        return self.kernel_rule(grid).parts(extremes(group.x, group.axes))

    def combine(self, parts: tuple[Array, ...], grid: Grid) -> ScaleOffset:
        """Scale and offset of the grid as it is."""
        return self.kernel_rule(grid).combine(*parts)

    def check_grid(self, grid: Grid) -> None:
        """A zero point counts levels of step 1."""
        if self.offset == "zero-point" and set(np.diff(grid.levels).tolist()) != {1.0}:
            raise UserError(f"{self} on {grid}: a zero point counts levels of step 1; use Int, or offset='minimum'")

    def kernel_rule(self, grid: Grid) -> kernel.RangeOver:
        """By both ends of the group."""
        bottom, top = float(grid.levels[0]), float(grid.levels[-1])
        return kernel.RangeOver(bottom, top, self.number, self.offset == "zero-point")

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Bits of the floats; the zero point itself."""
        scale, second = parts
        zero = self.offset == "zero-point"
        return float_codes(scale, self.number), second.astype(jnp.uint32) if zero else float_codes(second, self.number)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Parts of the codes, the inverse of `encode`."""
        scale, second = codes
        zero = self.offset == "zero-point"
        return (
            float_values(scale, self.number),
            second.astype(jnp.float32) if zero else float_values(second, self.number),
        )

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse | None:
        """Quadrature over both ends of the group, scales as they are before they are rounded.

        None for groups below 32 values, some of which have one sign, for grids of unequal steps, and for rounding by
        chance.
        """
        if shared.values < FEWEST or len(set(np.diff(grid.levels).tolist())) > 1 or isinstance(grid, Drawn):
            return None
        value = range_error(grid, shared.values, distribution, self.offset == "zero-point")
        return Mse(value, f"quadrature, both ends of {shared.values}")


@dataclass(frozen=True)
class SignedMax:
    """The lowest level of the grid stands at the value of largest magnitude of the group, whichever its sign.

    Two's complement has one level more below zero than above; this uses it in every group (GGML's Q4_0). Where two
    values of opposite sign are as large, the negative one is taken. `number`: the float that the scale is stored in,
    with a sign.

    Example: `Scalar(Int(4, "twos-complement"), SignedMax(), group=32)` is Q4_0.
    """

    number: Number = "float16"

    def __post_init__(self) -> None:
        check_choice(self, "number", NUMBERS)

    @property
    def part_bits(self) -> tuple[int, ...]:
        """One float a group."""
        return (number_bits(self.number),)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """`-largest / lowest level`, negative where the largest magnitude is that of a value above zero."""
        return self.kernel_rule(grid).parts(extremes(group.x, group.axes))

    def combine(self, parts: tuple[Array, ...], grid: Grid) -> ScaleOffset:
        """The magnitude of the scale, and what mirrors the grid."""
        return self.kernel_rule(grid).combine(*parts)

    def check_grid(self, grid: Grid) -> None:
        """Mirrored levels are the same, moved."""
        bottom, top = float(grid.levels[0]), float(grid.levels[-1])
        if not bottom < 0 or not np.array_equal((bottom + top - grid.levels)[::-1], grid.levels):
            raise UserError(
                f"{self} on {grid}: it mirrors the grid; use equal steps that reach below zero, as those of Int"
            )

    def kernel_rule(self, grid: Grid) -> kernel.SignedLargestOver:
        """By both ends of the group."""
        bottom, top = float(grid.levels[0]), float(grid.levels[-1])
        return kernel.SignedLargestOver(bottom, top, self.number)

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Bits of the float."""
        return (float_codes(parts[0], self.number),)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Parts of the codes, the inverse of `encode`."""
        return (float_values(codes[0], self.number),)

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """The magnitude of the scale on the host, before it is rounded."""
        return maximum / -float(grid.levels[0])

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """No jumps are counted, at any magnitude."""
        return np.empty(0)

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse | None:
        """Quadrature over the largest magnitude, which is a level; scales as they are before they are rounded."""
        value = maximum_error(grid, self, shared.values, distribution, own=_exact)
        return Mse(value, f"quadrature, maximum of {shared.values}")


def _exact(grid: Grid, scale: Array64, maximum: Array64) -> Array64:
    """Squared error of a largest value that stands at a level."""
    return np.zeros_like(maximum)
