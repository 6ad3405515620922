"""Selection per row on Hopper (Mosaic GPU): a block of threads holds one row in registers, read once from memory.

    x (R, C)  --> a row, padded to 512 n, in the registers of 128 threads --> counted up to 31 times, bit by bit
    mask (R, C) int8, and the bits of the k-th (R, 1) <-- written once

Whole matrices are left to XLA: they do not fit on the chip, and without a histogram in shared memory (Mosaic GPU has
no atomics there) counting many candidates in a pass costs as much as it saves.
"""

from functools import partial

import jax
import jax.numpy as jnp
from capscale.kernels.hopper import COMPILER_PARAMS, interpreter
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from .bits import MAGNITUDE_BITS, largest_with, lowest_bit, patterns, position_bits

THREADS = 128  # of a block
PADDED = 4 * THREADS  # a row is padded to a multiple: four bytes of the mask a thread
LARGEST_ROW = 2**14  # values, 128 a thread


def unsupported(shape: tuple[int, int], dtype: DTypeLike, axes: tuple[int, ...]) -> str | None:
    """Why this kernel cannot run on matrices of `shape`, or None."""
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"the values are {jnp.dtype(dtype)}; the kernel reads float32 and bfloat16"
    if axes != (-1,):
        return "a whole matrix does not stay on the chip"
    return None if shape[1] <= LARGEST_ROW else f"rows of {shape[1]} values; the kernel holds {LARGEST_ROW}"


def largest(x: Array, k: Array, axes: tuple[int, ...], interpret: bool = False) -> tuple[Array, Array]:
    """Mask (M, R, C) of the k entries of largest magnitude of every row of x (M, R, C), and the bits of the k-th.

    The bits are those of a float32, int32 (M, R, 1). Rows are padded with zeros, which are the last to be chosen.
    """
    assert axes == (-1,)
    matrices, rows, columns = x.shape
    padded = -(-columns // PADDED) * PADDED
    x = jnp.pad(x.reshape(matrices * rows, columns), ((0, 0), (0, padded - columns)))
    mask, kth = plgpu.kernel(
        partial(_kernel, lowest=lowest_bit(x.dtype)),
        out_type=(
            jax.ShapeDtypeStruct(x.shape, jnp.int8),
            jax.ShapeDtypeStruct((x.shape[0], THREADS), jnp.int32),
        ),
        grid=(x.shape[0],),
        grid_names=("row",),
        compiler_params=COMPILER_PARAMS,
        interpret=interpreter(interpret),
    )(x, jnp.broadcast_to(jnp.asarray(k, jnp.int32), (1,)))
    return mask[:, :columns].reshape(matrices, rows, columns).astype(jnp.bool), kth[:, :1].reshape(matrices, rows, 1)


def _kernel(x_ref, k_ref, mask_ref, kth_ref, lowest: int) -> None:
    row, k = lax.axis_index("row"), k_ref[0]
    pattern = patterns(x_ref[row])

    def count(chosen: Array) -> Array:
        return jnp.sum(jnp.where(chosen, jnp.int32(1), jnp.int32(0)))

    kth = largest_with(lambda c: count(pattern >= c) >= k, jnp.int32(0), range(lowest, MAGNITUDE_BITS))
    kth_ref[row] = lax.broadcast(kth, (THREADS,))
    wanted = k - count(pattern > kth)
    tied = pattern == kth
    position = lax.broadcasted_iota(jnp.int32, pattern.shape, 0)
    bits = position_bits(pattern.shape[0])
    last = largest_with(lambda c: count(tied & (position < c)) < wanted, jnp.int32(0), bits)
    mask_ref[row] = ((pattern > kth) | (tied & (position <= last))).astype(jnp.int8)
