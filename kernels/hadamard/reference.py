"""Fast Walsh-Hadamard transform of blocks of the last axis, as additions alone.

Butterflies, not a matrix product: every output is the same tree of float32 additions on every backend,
under vmap and however the other axes are sharded, and on a CPU they are faster than the product.
"""

import jax.numpy as jnp
from jax import Array, lax


def rotate(x: Array, block: int) -> Array:
    """`H x` on each run of `block` values of the last axis; H symmetric, orthonormal, entries ±block^-1/2.

    `block` is a power of two that divides the last axis. Computed in float32, returned in the dtype of x.
    Its own inverse.
    """
    y = x.astype(jnp.float32).reshape(*x.shape[:-1], x.shape[-1] // block, block)
    lead = y.shape[:-1]
    half = 1
    while half < block:
        pairs = y.reshape(*lead, block // (2 * half), 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = jnp.stack([a + b, a - b], axis=-2)
        half *= 2
    return (y.reshape(x.shape) * jnp.float32(block**-0.5)).astype(x.dtype)


def signs(block: int, i: Array, j: Array) -> Array:
    """±1 at row `i` and column `j` of the rotation's matrix times block^1/2, 0 off its blocks; bfloat16."""
    odd = lax.population_count(i & j & (block - 1)) & 1
    return jnp.where(i // block == j // block, 1 - 2 * odd, 0).astype(jnp.bfloat16)
