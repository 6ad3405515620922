"""Hadamard transform of blocks of an axis: by additions on CPUs, by products with matrices of ±1 elsewhere.

On a CPU every output is the same tree of float32 additions under vmap and however the other axes are sharded: that of
butterflies, and of kernels where they are interpreted. Additions leave matrix units idle, and what they share between
outputs goes through memory: on accelerators a product reads and writes every value once.
"""

from functools import partial
from math import prod
from typing import cast

import jax
import jax.numpy as jnp
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.rounding import rounded_to
from jax import Array, lax

from .orders import base_of, hadamard_matrix

RADIX = 16
"""Length of the transforms that one pass over memory makes: shorter ones take more passes, longer ones more
additions."""


LARGEST_FACTOR = {"bfloat16": 1024, "float32": 128}
"""Order of the largest matrix that a block is multiplied by at once; larger ones are products of smaller. Another pass
over memory costs as much as about 1,000 (bfloat16, in one pass of the matrix unit) or 200 operations a value."""


LANES = 128
"""Columns that a matrix unit takes at once."""


def rotate(x: Array, block: int, axis: int = -1) -> Array:
    """`H x` on each run of `block` values of `axis`; H symmetric, orthonormal, entries ±block^-1/2.

    `block` divides the axis: a power of two, or one times 12, 20, 28 or 36. Computed in float32, returned in the dtype
    of x. Its own inverse, and its own gradient, bit for bit.
    """
    return cast(Array, _rotate(block, axis % x.ndim, x))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
@jit_inline(0, 1)
def _rotate(block: int, axis: int, x: Array) -> Array:
    return lax.platform_dependent(x, cpu=partial(by_sums, block, axis), default=partial(by_products, block, axis))


def _forward(block: int, axis: int, x: Array) -> tuple[Array, None]:
    return _rotate(block, axis, x), None


def _backward(block: int, axis: int, _: None, g: Array) -> tuple[Array]:
    return (_rotate(block, axis, g),)


_rotate.defvjp(_forward, _backward)


def by_sums(block: int, axis: int, x: Array) -> Array:
    """`rotate` by additions in the order of butterflies."""
    base = base_of(block)
    assert base is not None
    radices = _radices(block // base)
    y, inner = _factored(x.astype(jnp.float32), axis, block, (base, *radices[::-1])), axis + len(radices) + 1
    for place, radix in enumerate(radices):
        y = _signed_sums(y, inner - place, radix)
    y = y if base == 1 else _combinations(y, axis + 1, base)
    return rounded_to(y.reshape(x.shape) * jnp.float32(block**-0.5), x.dtype)


def by_products(block: int, axis: int, x: Array) -> Array:
    """`rotate` by a product with each factor of its matrix.

    Products with ±1 are exact, and what has 8 significant bits needs one pass of a matrix unit.
    """
    dtype = jnp.dtype(jnp.bfloat16 if x.dtype == jnp.bfloat16 else jnp.float32)
    sizes, y = _factors(block, LARGEST_FACTOR[dtype.name]), x.astype(dtype)
    inner = prod(x.shape[axis + 1 :])
    for i, size in enumerate(sizes):
        y = _along(y, size, prod(sizes[i + 1 :]) * inner)
    y = y.reshape(x.shape) * jnp.float32(block**-0.5)
    # What crosses a barrier is rounded, as `rounded_to` would; that would not become part of the product's own kernel.
    return lax.optimization_barrier(y.astype(dtype)) if x.dtype == jnp.bfloat16 else rounded_to(y, x.dtype)


def _factored(x: Array, axis: int, block: int, sizes: tuple[int, ...]) -> Array:
    """`x` with `axis` as blocks, each of them an array of these sizes."""
    return x.reshape(*x.shape[:axis], x.shape[axis] // block, *sizes, *x.shape[axis + 1 :])


def _along(y: Array, size: int, inner: int) -> Array:
    """Products of a matrix with runs of `size` values that lie `inner` apart.

    A batch of products moves nothing, and takes a matrix unit whole where `inner` fills it.
    """
    precision = lax.Precision.DEFAULT if y.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    matrix = jnp.asarray(hadamard_matrix(size), y.dtype)
    y = y.reshape(y.size // (size * inner), size, inner)
    if inner < LANES:
        product = jnp.tensordot(y, matrix, (1, 0), precision=precision, preferred_element_type=jnp.float32)
        return jnp.moveaxis(product, -1, 1)
    each = jnp.broadcast_to(matrix, (len(y), size, size))
    return jnp.matmul(each, y, precision=precision, preferred_element_type=jnp.float32)


def _factors(block: int, largest: int) -> tuple[int, ...]:
    """Orders up to `largest` whose product is `block`, that of the nearest neighbours last; few, and of like size."""
    base = base_of(block)
    assert base is not None
    if block <= largest:
        return (block,)
    steps, most = (block // base).bit_length() - 1, largest.bit_length() - 1
    count = -(-steps // most)
    powers = (2 ** ((steps + i) // count) for i in range(count))
    return tuple(size for size in (base, *powers) if size > 1)


def _radices(block: int) -> tuple[int, ...]:
    """Powers of two whose product is `block`, that of the nearest neighbours first."""
    steps, largest = block.bit_length() - 1, RADIX.bit_length() - 1
    full, rest = divmod(steps, largest)
    return (*[RADIX] * full, *((2**rest,) if rest else ()))


def _combinations(y: Array, axis: int, order: int) -> Array:
    """The transform of an axis whose length is one of `orders.BASES`, unscaled: a sum with signs, value by value."""
    matrix = hadamard_matrix(order)
    shape = tuple(order if i == axis else 1 for i in range(y.ndim))
    total = lax.slice_in_dim(y, 0, 1, axis=axis) * jnp.asarray(matrix[0], jnp.float32).reshape(shape)
    for j in range(1, order):
        part = lax.slice_in_dim(y, j, j + 1, axis=axis)
        total = total + part * jnp.asarray(matrix[j], jnp.float32).reshape(shape)
    return total


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
