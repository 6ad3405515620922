"""What a compressed format is: a frozen dataclass with `bits`, `scope` and `project`.

Every format works on the LAST axis of its input; leading axes are batch. Weights `(in, out)` reach a
format as `(out, in)`, activations as `(..., tokens, features)`; see `capscale.representation.linear`.
"""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError

Scope = Literal["row", "matrix"]
"""What a projected value may depend on: its own row (last axis) or the whole matrix (last two axes)."""


class Projection(NamedTuple):
    """The nearest representable tensor, with what an estimator needs to build its backward mask.

    All arrays broadcast to `value.shape`. Fields that a format has nothing to say about are None; fields
    that an estimator does not read cost nothing under jit.
    """

    value: Array
    """The representable tensor, in the dtype of the input."""
    step: Array | None = None
    """Distance between neighbouring levels around the value, in units of the input."""
    distance: Array | None = None
    """`|value - x| / step`, taken before `value` is rounded to the dtype of the input: at most 1/2 inside the grid."""
    radius: Array | None = None
    """Magnitude of x (of its vector, for codebooks) over that of the outermost level: at most 1 inside the grid."""
    keep: Array | None = None
    """Boolean, False where sparsity zeroed the entry."""
    threshold: Array | None = None
    """Smallest kept magnitude, of the shape that shares it."""
    rms: Array | None = None
    """Root mean square of what shares a threshold, or a scale."""
    slope: Array | None = None
    """Derivative of `value` by the learned number that scales it."""
    rotated: "Projection | None" = None
    """In the basis that a format itself rotates to, what its grid did there; `value` is that, rotated back."""


class Context(NamedTuple):
    """What changes from step to step: everything else about a format is static.

    `learned` and `state` hold this tensor's own learned numbers (LSQ's step) and state (RigL's mask),
    for formats that declare them.
    """

    progress: Array | float = 0.0
    """Share of training done, in [0, 1]; read by schedules."""
    key: Array | None = None
    """PRNG key; read by noise."""
    learned: Array | None = None
    state: Array | None = None


NO_CONTEXT = Context()
"""For formats without schedules, noise, learned numbers or state."""


@runtime_checkable
class Format(Protocol):
    """A compressed format: a frozen, hashable dataclass, usable as a jit-static argument."""

    @property
    def bits(self) -> float:
        """Storage bits per value of an unboundedly large bfloat16 matrix: codes, scales, indices and masks."""
        ...

    @property
    def scope(self) -> Scope:
        """What a value may depend on. Activations must be "row", so that no token sees another."""
        ...

    def project(self, x: Array, ctx: Context) -> Projection:
        """Nearest representable tensor to `x` along its last axis."""
        ...


@runtime_checkable
class Rowwise(Format, Protocol):
    """A format of matrix scope that knows its row-by-row variant."""

    def per_row(self) -> Format:
        """The same with every shared number measured per row."""
        ...


def per_row(format: Format) -> Format:
    """`format` such that no row depends on another, as activations need."""
    if format.scope == "row":
        return format
    if not isinstance(format, Rowwise):
        raise UserError(f"{format!r} works on whole matrices and has no row-by-row variant (no per_row method)")
    return format.per_row()


FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


def to_float32(x: Array, name: str) -> Array:
    """`x` in float32, in which every projection is computed; other than 16- and 32-bit floats are refused."""
    if x.dtype not in FLOATS:
        raise UserError(f"{name} projects float32, bfloat16 and float16 tensors, not {x.dtype}; cast the tensor first")
    if x.ndim == 0:
        raise UserError(f"{name} projects along the last axis, and a scalar has none; pass at least one axis")
    return x.astype(jnp.float32)


def scope_axes(scope: Scope, ndim: int) -> tuple[int, ...]:
    """Axes that `scope` reduces over, of a tensor with `ndim` axes."""
    return (-1,) if scope == "row" or ndim == 1 else (-2, -1)


def rounded(product: Array) -> Array:
    """`product` as it rounds by itself; NaN where it is not finite.

    Compilers fuse a product into the addition that follows, unrounded, so that a projected value would depend on what
    it is used for. They do not look through a selection. (An optimization barrier is gone before they fuse.)
    """
    return jnp.where(jnp.abs(product) < jnp.inf, product, jnp.nan)
