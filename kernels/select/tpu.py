"""Selection on a TPU with the data resident in VMEM: one pass over HBM in place of one for every count.

    rows     (R, C) --> block (2^16 values, in whole rows) in VMEM --> slab (32 rows), counted up to 31 times
    matrix   (R, C) --> all of it in VMEM, up to 10 MiB with its mask --> slab (32 rows), counted up to 31 times
    mask     int8, the shape of x; bits of the k-th, int32, one a row or one a matrix

Bit by bit, as the reference says, but each count reads VMEM. Which of the tied entries stay is found in the same way,
on the bits of their position, and only where there are more of them than wanted.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from .bits import MAGNITUDE_BITS, largest_with, lowest_bit, patterns, position_bits

RESIDENT = 10 * 2**20  # bytes of a matrix and its mask, of the 16 MiB of VMEM that a kernel gets by default
SLAB = 32  # rows worked on at a time: the rows of a tile of masks
BLOCK = 2**16  # values of a block of rows


def unsupported(shape: tuple[int, int], dtype: DTypeLike, axes: tuple[int, ...]) -> str | None:
    """Why this kernel cannot run on matrices of `shape`, or None."""
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"the values are {jnp.dtype(dtype)}; the kernel reads float32 and bfloat16"
    rows, columns = shape
    if axes == (-1,):
        return None if columns * SLAB <= 8 * BLOCK else f"rows of {columns} values do not fit into VMEM"
    held = -(-rows // SLAB) * SLAB * -(-columns // 128) * 128 * (jnp.dtype(dtype).itemsize + 1)
    return None if held <= RESIDENT else f"{held} bytes of matrix and mask do not stay in {RESIDENT} bytes of VMEM"


def largest(x: Array, k: Array, axes: tuple[int, ...], interpret: bool = False) -> tuple[Array, Array]:
    """Mask (M, R, C) of the k entries of largest magnitude over `axes` of x (M, R, C), and the bits of the k-th.

    The bits are those of a float32, int32; shape (M, R, 1) for axes (-1,), (M, 1, 1) for axes (-2, -1).
    """
    matrices, rows, columns = x.shape
    by_row = axes == (-1,)
    block = min(-(-rows // SLAB), max(1, BLOCK // (SLAB * columns))) * SLAB if by_row else rows
    kth_rows = block if by_row else 1
    # A matrix fills VMEM: the next one is read when it is done, which is short beside the counts.
    buffers = None if by_row else pl.Buffered(buffer_count=1)
    mask, kth = pl.pallas_call(
        partial(_by_row if by_row else _by_matrix, lowest=lowest_bit(x.dtype)),
        out_shape=(
            jax.ShapeDtypeStruct(x.shape, jnp.int8),
            jax.ShapeDtypeStruct((matrices, rows if by_row else 1, 1), jnp.int32),
        ),
        grid=(matrices, pl.cdiv(rows, block)),
        in_specs=[
            pl.BlockSpec((1, 1), lambda m, i: (0, 0), memory_space=pltpu.SMEM),
            pl.BlockSpec((1, block, columns), lambda m, i: (m, i, 0), pipeline_mode=buffers),
        ],
        out_specs=(
            pl.BlockSpec((1, block, columns), lambda m, i: (m, i, 0), pipeline_mode=buffers),
            pl.BlockSpec((1, kth_rows, 1), lambda m, i: (m, i, 0)),
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=3 * x.size * (MAGNITUDE_BITS - lowest_bit(x.dtype)),  # a comparison, a choice and a sum for every bit
            bytes_accessed=x.nbytes + x.size,
            transcendentals=0,
        ),
        interpret=interpret,
        name="select",
    )(jnp.asarray(k, jnp.int32).reshape(1, 1), x)
    return mask.astype(jnp.bool), kth


def _bytes(chosen: Array) -> Array:
    """0 and 1 in bytes; by way of float32, as the compiler would compare bytes otherwise, which a v4 cannot."""
    return jnp.where(chosen, 1.0, 0.0).astype(jnp.int32).astype(jnp.int8)


def _by_row(k_ref, x_ref, mask_ref, kth_ref, lowest: int) -> None:
    k, pattern = k_ref[0, 0], patterns(x_ref[0])
    rows, columns = pattern.shape

    def count(chosen: Array) -> Array:
        return jnp.sum(chosen.astype(jnp.int32), axis=1, keepdims=True)

    zero = jnp.zeros((rows, 1), jnp.int32)
    kth = largest_with(lambda c: count(pattern >= c) >= k, zero, range(lowest, MAGNITUDE_BITS))
    kth_ref[0] = kth
    wanted = k - count(pattern > kth)
    tied = pattern == kth
    mask_ref[0] = _bytes(pattern >= kth)

    @pl.when(jnp.max(count(tied) - wanted) > 0)
    def _() -> None:
        position = lax.broadcasted_iota(jnp.int32, pattern.shape, 1)
        last = largest_with(lambda c: count(tied & (position < c)) < wanted, zero, position_bits(columns))
        mask_ref[0] = _bytes((pattern > kth) | (tied & (position <= last)))


def _by_matrix(k_ref, x_ref, mask_ref, kth_ref, lowest: int) -> None:
    k = k_ref[0, 0]
    _, rows, columns = x_ref.shape
    slabs = [(start, min(SLAB, rows - start)) for start in range(0, rows, SLAB)]
    whole = rows // SLAB

    def count(chosen) -> Array:
        """Entries for which `chosen(pattern, row-major position)`."""

        def of(start, size: int) -> Array:
            pattern = patterns(x_ref[0, pl.ds(start, size), :])
            row = start + lax.broadcasted_iota(jnp.int32, pattern.shape, 0)
            position = row * columns + lax.broadcasted_iota(jnp.int32, pattern.shape, 1)
            return jnp.sum(chosen(pattern, position).astype(jnp.int32), axis=1, keepdims=True)

        rest = jnp.int32(0) if whole == len(slabs) else jnp.sum(of(*slabs[-1]))
        if not whole:
            return rest
        total = lax.fori_loop(0, whole, lambda i, t: t + of(i * SLAB, SLAB), jnp.zeros((SLAB, 1), jnp.int32))
        return jnp.sum(total) + rest

    def write(chosen) -> None:
        def of(start, size: int) -> None:
            pattern = patterns(x_ref[0, pl.ds(start, size), :])
            row = start + lax.broadcasted_iota(jnp.int32, pattern.shape, 0)
            position = row * columns + lax.broadcasted_iota(jnp.int32, pattern.shape, 1)
            mask_ref[0, pl.ds(start, size), :] = _bytes(chosen(pattern, position))

        if whole:
            lax.fori_loop(0, whole, lambda i, _: of(i * SLAB, SLAB), None)
        if whole < len(slabs):
            of(*slabs[-1])

    kth = largest_with(lambda c: count(lambda p, _: p >= c) >= k, jnp.int32(0), range(lowest, MAGNITUDE_BITS))
    kth_ref[...] = jnp.full(kth_ref.shape, kth)
    wanted = k - count(lambda p, _: p > kth)
    write(lambda p, _: p >= kth)

    @pl.when(count(lambda p, _: p == kth) > wanted)
    def _() -> None:
        bits = position_bits(rows * columns)
        last = largest_with(lambda c: count(lambda p, at: (p == kth) & (at < c)) < wanted, jnp.int32(0), bits)
        write(lambda p, at: (p > kth) | ((p == kth) & (at <= last)))
