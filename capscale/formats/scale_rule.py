"""Protocol of scale rules: from measures of a group to the parts of its scale, and their storage."""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array, lax

import capscale.kernels.project as kernel
from capscale.kernels.rms import largest_magnitude

from .base import Context
from .grids import Grid

FLOAT32_BITS = 32


class Group(NamedTuple):
    """Values that a scale is measured on."""

    x: Array
    """float32, (..., group) or (..., groups, group)."""
    axes: tuple[int, ...]
    """Axes that share one scale."""
    filled: Array | None
    """Share of each group that counts (survivors, a ragged last group), where it is not all."""


Number = kernel.Number
"""Floats that a scale, or an offset, is stored in."""


class Part(NamedTuple):
    """Storage of one part of the scales: codes of so many bits, and how many groups share one."""

    bits: int
    shared_by: int | Literal["row", "matrix"] = 1
    """A number of groups that follow each other in a row, or all groups of a row or a matrix."""


class ScaleRule(Protocol):
    """Scale of every group, as the product of its stored parts; a frozen, hashable dataclass.

    One with more than one part says what they are in `parts` (see `HasParts`), one whose parts are more than factors
    how they combine (see `Combines`).
    """

    @property
    def part_bits(self) -> tuple[int, ...]:
        """Bits of each stored part."""
        ...

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """Parts of the scale, float32, broadcast over the group; their product is the scale."""
        ...

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Stored code of each part, uint32 below 2^bits."""
        ...

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Parts of the codes, the inverse of `encode`."""
        ...


@runtime_checkable
class HasParts(Protocol):
    """A scale rule that stores more than one number a group, or shares some between groups."""

    def parts(self, grid: Grid) -> tuple[Part, ...]:
        """Each stored part, in the order of `measure`."""
        ...


@runtime_checkable
class Combines(Protocol):
    """A scale rule whose scale is not the product of its parts, such as one with an offset."""

    def combine(self, parts: tuple[Array, ...], grid: Grid) -> Array | kernel.ScaleOffset:
        """The scale of every group, and its offset, from what is stored."""
        ...


@runtime_checkable
class Chooses(Protocol):
    """A scale rule that stores other scales than levels are chosen by."""

    def choosing(self, group: Group, grid: Grid, ctx: Context) -> Array | kernel.ScaleOffset:
        """The scale of every group that its values are rounded in units of."""
        ...


@runtime_checkable
class ChecksGrid(Protocol):
    """A scale rule that not every grid goes with."""

    def check_grid(self, grid: Grid) -> None:
        """Raises UserError for a grid that it cannot scale."""
        ...


def parts_of(rule: ScaleRule, grid: Grid) -> tuple[Part, ...]:
    """Parts that a rule stores: one number a group, unless it says more."""
    return rule.parts(grid) if isinstance(rule, HasParts) else tuple(Part(bits) for bits in rule.part_bits)


def scale_of(rule: ScaleRule, parts: tuple[Array, ...], grid: Grid) -> Array | kernel.ScaleOffset:
    """One number a group, and an offset where the rule has one, from all parts."""
    if isinstance(rule, Combines):
        return rule.combine(parts, grid)
    scale = parts[0]
    for part in parts[1:]:
        scale = scale * jnp.broadcast_to(part, scale.shape)
    return scale


def float_codes(x: Array, number: Number) -> Array:
    """Bits of float32 numbers that `number` holds, as uint32."""
    unsigned = jnp.uint32 if number == "float32" else jnp.uint16
    return lax.bitcast_convert_type(x.astype(number), unsigned).astype(jnp.uint32)


def float_values(codes: Array, number: Number) -> Array:
    """Inverse of `float_codes`, float32."""
    unsigned = jnp.uint32 if number == "float32" else jnp.uint16
    return lax.bitcast_convert_type(codes.astype(unsigned), jnp.dtype(number)).astype(jnp.float32)


def number_bits(number: Number) -> int:
    """Bits of a float of that name."""
    return 8 * jnp.dtype(number).itemsize


@runtime_checkable
class HasKernelRule(Protocol):
    """A scale rule that kernels evaluate too."""

    def kernel_rule(self, grid: Grid) -> kernel.KernelRule | kernel.Unsupported:
        """The same scale, elementwise, from what the kernel measures of a group or is given for a row; or why not."""
        ...


class Float32Part:
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


def largest(group: Group) -> Array:
    """Largest magnitude of each group; entries outside `filled` are zero already."""
    return largest_magnitude(group.x, group.axes)
