"""Protocol of compressed formats: frozen dataclasses with `bits`, `granularity` and `project`.

Every format works on the LAST axis of its input; leading axes are batch. Weights `(in, out)` reach a
format as `(out, in)`, activations as `(..., tokens, features)`; see `capscale.representation.linear`.
"""

from math import prod
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError
from capscale.kernels.project import Projection, in_dtype, rounded
from capscale.kernels.renamed import warn_of_old

Granularity = Literal["row", "matrix"]
"""Values that a projected value may depend on: its own row (last axis) or the whole matrix (last two axes)."""


class Context(NamedTuple):
    """Inputs that change from step to step: everything else about a format is static.

    `learned` and `state` hold this tensor's own learnable parameters (LSQ's step) and state (RigL's mask),
    for formats that declare them.
    """

    progress: Array | float = 0.0
    """Share of training done, in [0, 1]; read by schedules."""
    key: Array | None = None
    """PRNG key; read by noise."""
    learned: Array | None = None
    state: Array | None = None


NO_CONTEXT = Context()
"""For formats without schedules, noise, learnable parameters or state."""


@runtime_checkable
class Format(Protocol):
    """A compressed format: a frozen, hashable dataclass, usable as a jit-static argument."""

    @property
    def bits(self) -> float:
        """Storage bits per value of an unboundedly large bfloat16 matrix: codes, scales, indices and masks."""
        ...

    @property
    def granularity(self) -> Granularity:
        """Values that a projected value may depend on. Activations must be "row", so that no token sees another."""
        ...

    def project(self, x: Array, ctx: Context) -> Projection:
        """Nearest representable tensor to `x` along its last axis."""
        ...


@runtime_checkable
class Rowwise(Format, Protocol):
    """A format of matrix granularity that knows its row-by-row variant."""

    def per_row(self) -> Format:
        """The same with every shared number measured per row."""
        ...


def per_row(format: Format) -> Format:
    """`format` such that no row depends on another, as activations need."""
    if granularity_of(format) == "row":
        return format
    if not isinstance(format, Rowwise):
        raise UserError(f"{format!r} works on whole matrices and has no row-by-row variant (no per_row method)")
    return format.per_row()


def granularity_of(format: Format) -> Granularity:
    """The `granularity` of a format, which formats from outside may still call `scope`.

    Raises:
      UserError: where a format from outside has neither.
    """
    if hasattr(format, "granularity"):
        return format.granularity
    name = type(format).__name__
    if not hasattr(format, "scope"):
        raise UserError(f'{name} does not say its granularity; give it `granularity`, which is "row" or "matrix"')
    warn_of_old(f"{name}.scope", f"{name}.granularity")
    return cast(Any, format).scope


FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


def to_float32(x: Array, name: str) -> Array:
    """`x` in float32, in which every projection is computed; other than 16- and 32-bit floats are refused."""
    if x.dtype not in FLOATS:
        raise UserError(f"{name} projects float32, bfloat16 and float16 tensors, not {x.dtype}; cast the tensor first")
    if x.ndim == 0:
        raise UserError(f"{name} projects along the last axis, and a scalar has none; pass at least one axis")
    return x.astype(jnp.float32)


def axes_of_shard(x: Array) -> list[str]:
    """Axes of a `jax.shard_map` around over which `x` varies: those that it may have been split along."""
    mesh = jax.sharding.get_abstract_mesh()
    return sorted(name for name in jax.typeof(x).manual_axis_type.varying if mesh.shape[name] > 1)


def refuse_shard(x: Array, what: str) -> None:
    """Raises UserError for `x` that `jax.shard_map` has split over devices: `what` is a number of the whole tensor.

    Known where `shard_map` checks what varies over its axes, as it does unless told not to (`check_vma=False`); in pmap
    every device has a tensor of its own, as every entry has in vmap.
    """
    if axes := axes_of_shard(x):
        shape = jax.sharding.get_abstract_mesh().shape
        devices = prod(shape[name] for name in axes)
        raise UserError(
            f"{what} is measured on the whole tensor, and inside jax.shard_map each of {devices} devices along {axes} "
            "has a part of it; project outside shard_map, where XLA splits the work, choose a format that works per "
            "row, or say check_vma=False where every device holds a whole tensor of its own"
        )


def granularity_axes(granularity: Granularity, ndim: int) -> tuple[int, ...]:
    """Axes that `granularity` reduces over, of a tensor with `ndim` axes."""
    return (-1,) if granularity == "row" or ndim == 1 else (-2, -1)


__all__ = [
    "FLOATS",
    "NO_CONTEXT",
    "Context",
    "Format",
    "Granularity",
    "Projection",
    "Rowwise",
    "axes_of_shard",
    "granularity_axes",
    "granularity_of",
    "in_dtype",
    "per_row",
    "refuse_shard",
    "rounded",
    "to_float32",
]
