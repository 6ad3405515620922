"""Fast Walsh-Hadamard transform of blocks of an axis, as additions alone.

Butterflies, not a matrix product: every output is the same tree of float32 additions on every backend,
under vmap and however the other axes are sharded.
"""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.rounding import rounded_to
from jax import Array, lax

RADIX = 16
"""Length of the transforms that one pass over memory makes: shorter ones take more passes, longer ones more
additions."""


def rotate(x: Array, block: int, axis: int = -1) -> Array:
    """`H x` on each run of `block` values of `axis`; H symmetric, orthonormal, entries ±block^-1/2.

    `block` is a power of two that divides the axis. Computed in float32, returned in the dtype of x. Its own inverse,
    and its own gradient, bit for bit.
    """
    return cast(Array, _rotate(block, axis % x.ndim, x))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
@jit_inline(0, 1)
def _rotate(block: int, axis: int, x: Array) -> Array:
    radices = _radices(block)
    y = x.astype(jnp.float32).reshape(*x.shape[:axis], x.shape[axis] // block, *radices[::-1], *x.shape[axis + 1 :])
    for place, radix in enumerate(radices):
        y = _signed_sums(y, axis + len(radices) - place, radix)
    return rounded_to(y.reshape(x.shape) * jnp.float32(block**-0.5), x.dtype)


def _forward(block: int, axis: int, x: Array) -> tuple[Array, None]:
    return _rotate(block, axis, x), None


def _backward(block: int, axis: int, _: None, g: Array) -> tuple[Array]:
    return (_rotate(block, axis, g),)


_rotate.defvjp(_forward, _backward)


def _radices(block: int) -> tuple[int, ...]:
    """Powers of two whose product is `block`, that of the nearest neighbours first."""
    steps, largest = block.bit_length() - 1, RADIX.bit_length() - 1
    full, rest = divmod(steps, largest)
    return (*[RADIX] * full, *((2**rest,) if rest else ()))


def _signed_sums(y: Array, axis: int, radix: int) -> Array:
    """The transform of an axis of that length, unscaled.

    The last butterfly joins two arrays, each of all the sums of one sign; the others are sums with signs of their own.
    Outputs share fewer additions than in butterflies all through, but XLA on a CPU vectorizes them; and it does not
    compute again for each use what is joined, as it does what is not.
    """
    shape = (*y.shape[:axis], radix // 2, *y.shape[axis + 1 :])
    parts = [jnp.broadcast_to(lax.slice_in_dim(y, i, i + 1, axis=axis), shape) for i in range(radix)]
    place = lax.broadcasted_iota(jnp.int32, tuple(radix // 2 if i == axis else 1 for i in range(y.ndim)), axis)
    bit = 1
    while len(parts) > 2:
        sign = jnp.where(place & bit, jnp.float32(-1), jnp.float32(1))
        parts = [even + sign * odd for even, odd in zip(parts[::2], parts[1::2], strict=True)]
        bit *= 2
    lower, upper = parts
    return jnp.concatenate([lower + upper, lower - upper], axis)


def signs(block: int, i: Array, j: Array) -> Array:
    """±1 at row `i` and column `j` of the rotation's matrix times block^1/2, 0 off its blocks; bfloat16."""
    odd = lax.population_count(i & j & (block - 1)) & 1
    return jnp.where(i // block == j // block, 1 - 2 * odd, 0).astype(jnp.bfloat16)
