"""What a scale rule is: from what is measured of a group to the parts of its scale, and what is stored of them."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array, lax

import capscale.kernels.project as kernel
from capscale.kernels.rms import largest_magnitude

from .base import Context
from .grids import Grid

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
