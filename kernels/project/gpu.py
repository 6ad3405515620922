"""The projection of rows on Hopper (Mosaic GPU).

A block of threads takes 64 rows. Their tiles of 128 values pass through registers up to three times: for the largest
magnitude, for the root mean square, and for the levels; from the second time on they come from the L2 cache. The
Hadamard rotation is a product with a matrix of signs on the tensor cores. Where values share a scale in groups and
nothing is rotated, every group is a row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from ..hopper import COMPILER_PARAMS, interpreter, swizzled
from ..rms.reference import limb_bits, limbs, powers
from .mask import pack_mask, unpack_mask
from .reference import Projected
from .spec import Spec, on_grid

ROWS = 64  # of a wgmma
TILE = 128  # values of a row that are worked on at a time
DTYPES = (jnp.float32, jnp.bfloat16)


def unsupported(spec: Spec, shape: tuple[int, ...], dtype: DTypeLike) -> str | None:
    """Why this kernel cannot project rows of this shape, or None where it can."""
    width = shape[1]
    if dtype not in DTYPES:
        return f"it takes float32 and bfloat16, not {jnp.dtype(dtype)}"
    if spec.pattern is not None or spec.codebook is not None:
        return "Mosaic GPU does not exchange neighbours of a row, as N:M sparsity and codebooks need"
    try:
        spec.check(width)
    except ValueError as error:
        return str(error)
    row = spec.group or width
    if spec.rotation is not None and (spec.rotation > TILE or row % TILE):
        return f"a rotation of {spec.rotation} on tiles of {TILE} values does not meet groups of {row}"
    if row % min(row, TILE) or min(row, TILE) % 8:
        return f"groups of {row} values are not whole tiles of {TILE}, or of 8 up to {TILE}"
    return None


def project(spec: Spec, x_RK: Array, given_R1: Array | None = None, *, interpret: bool = False) -> Projected:
    """`reference.project` on Hopper."""
    rows, width = x_RK.shape
    if not rows:
        return Projected(x_RK, pack_mask(x_RK != 0) if spec.mask else None)
    size = spec.group or width
    x = x_RK.reshape(rows * (width // size), size)
    operands = [_padded(x)]
    if given_R1 is not None:
        operands.append(_padded(jnp.repeat(given_R1.astype(jnp.float32), width // size, axis=0))[:, 0])
    out_type = [jax.ShapeDtypeStruct(operands[0].shape, x.dtype)]
    if spec.mask is not None:
        out_type.append(jax.ShapeDtypeStruct(operands[0].shape, jnp.int8))
    out = _call(partial(_forward, spec), operands, tuple(out_type), spec.rotation, interpret)
    value = out[0][: x.shape[0]].reshape(x_RK.shape)
    mask = pack_mask(out[1][: x.shape[0]].reshape(x_RK.shape) != 0) if spec.mask is not None else None
    return Projected(value, mask)


def backward(spec: Spec, mask_RW: Array | None, g_RK: Array, *, interpret: bool = False) -> Array:
    """`reference.backward` on Hopper: rotations on the tensor cores, the mask by XLA where nothing is rotated."""
    if mask_RW is None and spec.rotation is None:
        return g_RK
    passes = None if mask_RW is None else unpack_mask(mask_RW, g_RK.shape[1])
    if spec.rotation is None or not g_RK.shape[0]:
        assert passes is not None
        return jnp.where(passes, g_RK, jnp.zeros_like(g_RK))
    operands = [_padded(g_RK), *([] if passes is None else [_padded(passes.astype(jnp.int8))])]
    out_type = (jax.ShapeDtypeStruct(operands[0].shape, g_RK.dtype),)
    return _call(partial(_backward, spec), operands, out_type, spec.rotation, interpret)[0][: g_RK.shape[0]]


def _padded(x: Array) -> Array:
    """Rows up to a multiple of a block."""
    return jnp.pad(x, ((0, -x.shape[0] % ROWS), (0, 0)))


class _Tiles(NamedTuple):
    """Moves tiles (64, width) between memory and registers, through shared memory, and rotates them."""

    rows: Any
    """Those of this block, a slice."""
    smem: dict[Any, Any]
    """A tile of shared memory for each dtype."""
    barrier: Any
    signs: Any
    factor: float
    piece: Any
    """Shared memory of a rotation's operand, for jax's interpreter, which knows no wgmma from registers."""

    def load(self, ref: Any, c: Array) -> Array:
        """Tile `c` of an input."""
        smem = self.smem[ref.dtype]
        plgpu.copy_gmem_to_smem(ref.at[self.rows, pl.ds(c * smem.shape[1], smem.shape[1])], smem, self.barrier)
        plgpu.barrier_wait(self.barrier)
        return smem[...]

    def store(self, ref: Any, c: Array, x: Array) -> None:
        """Tile `c` of an output."""
        smem = self.smem[ref.dtype]
        smem[...] = x
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(smem, ref.at[self.rows, pl.ds(c * smem.shape[1], smem.shape[1])])
        plgpu.wait_smem_to_gmem(0)

    def column(self, ref: Any) -> Array:
        """A number of every row."""
        smem = self.smem["column"]
        plgpu.copy_gmem_to_smem(ref.at[self.rows], smem, self.barrier)
        plgpu.barrier_wait(self.barrier)
        return smem[...]

    def rotate(self, x: Array, dtype: DTypeLike) -> Array:
        """Float32 tile, rotated and rounded to the dtype of the rows: one piece of 8 bits, or three."""
        if self.signs is None:
            return x

        def accumulate(total: Any) -> Array:
            rest = x
            for _ in range(1 if dtype == jnp.bfloat16 else 3):
                piece = rest.astype(jnp.bfloat16)
                rest = rest - piece.astype(jnp.float32)
                if self.piece is not None:
                    self.piece[...] = piece
                plgpu.wgmma(total, piece if self.piece is None else self.piece, self.signs)
                plgpu.wgmma_wait(0)
            return total[...]

        y = pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef((ROWS, TILE), jnp.float32))
        return (y * jnp.float32(self.factor)).astype(dtype).astype(jnp.float32)


def _call(
    body: Callable[..., None], operands: list[Array], out_type: Any, rotation: int | None, interpret: bool
) -> Any:
    """`body(tiles, *refs)` on every block of rows."""
    width = min(operands[0].shape[1], TILE)
    dtypes = {jnp.dtype(x.dtype) for x in (*operands, *out_type) if x.ndim == 2}
    scratch: dict[Any, Any] = {
        str(d): plgpu.SMEM((ROWS, width), d, transforms=swizzled(width, d.itemsize)) for d in dtypes
    }
    scratch["column"], scratch["barrier"] = plgpu.SMEM((ROWS,), jnp.float32), plgpu.Barrier()
    count = len(operands)
    if rotation is not None:
        operands = [*operands, _signs(rotation)]
        scratch["signs"] = plgpu.SMEM((TILE, TILE), jnp.bfloat16, transforms=swizzled(TILE, 2))
        if interpret:
            scratch["piece"] = plgpu.SMEM((ROWS, TILE), jnp.bfloat16)

    def kernel(*refs: Any, column: Any, barrier: Any, signs: Any = None, piece: Any = None, **smem: Any) -> None:
        if signs is not None:
            plgpu.copy_gmem_to_smem(refs[count], signs, barrier)
            plgpu.barrier_wait(barrier)
        here = pl.ds(lax.axis_index("rows") * ROWS, ROWS)
        named = {d: smem[str(d)] for d in dtypes} | {"column": column}
        tiles = _Tiles(here, named, barrier, signs, (rotation or 1) ** -0.5, piece)
        body(tiles, *refs[:count], *refs[len(operands) :])

    return plgpu.kernel(
        kernel,
        out_type=out_type,
        grid=(operands[0].shape[0] // ROWS,),
        grid_names=("rows",),
        scratch_types=scratch,
        compiler_params=COMPILER_PARAMS,
        interpret=interpreter(interpret),
    )(*operands)


def _signs(block: int) -> Array:
    """(128, 128) block-diagonal ±1 matrix of the rotation, bfloat16."""
    i = lax.broadcasted_iota(jnp.int32, (TILE, TILE), 0)
    j = lax.broadcasted_iota(jnp.int32, (TILE, TILE), 1)
    odd = lax.population_count(i & j) & 1
    return jnp.where(i // block == j // block, 1 - 2 * odd, 0).astype(jnp.bfloat16)


def _forward(spec: Spec, tiles: _Tiles, x_ref: Any, *refs: Any) -> None:
    *given, value_ref = refs[: len(refs) - (spec.mask is not None)]
    mask_ref = refs[-1] if spec.mask is not None else None
    size = x_ref.shape[1]

    def tile(c: Array) -> Array:
        return tiles.rotate(tiles.load(x_ref, c).astype(jnp.float32), x_ref.dtype)

    def each(step: Callable[[Array, Any], Any], start: Any) -> Any:
        return lax.fori_loop(0, size // min(size, TILE), step, start)

    scale = _scale(spec, tile, each, size, tiles.column(given[0]) if given else None)

    def write(c: Array, _: None) -> None:
        full = tile(c)
        value, measures = on_grid(spec, full, lax.broadcast_in_dim(scale, full.shape, (0,)), None)
        if mask_ref is not None:
            assert spec.mask is not None
            passes = spec.mask(full, measures)
            ones = jnp.ones(full.shape, jnp.float32)
            tiles.store(mask_ref, c, (ones if passes is None else jnp.where(passes, ones, 0.0)).astype(jnp.int8))
        if spec.back:
            value = tiles.rotate(value.astype(x_ref.dtype).astype(jnp.float32), x_ref.dtype)
        tiles.store(value_ref, c, value.astype(value_ref.dtype))

    each(write, None)


def _scale(
    spec: Spec,
    tile: Callable[[Array], Array],
    each: Callable[[Callable[[Array, Any], Any], Any], Any],
    size: int,
    given: Array | None,
) -> Array:
    """The scale of each of the 64 rows."""
    assert spec.scale is not None
    if spec.scale.statistic == "none":
        return spec.scale(None, given)
    zero = jnp.zeros((ROWS,), jnp.int32)

    def read(c: Array, largest: Array) -> Array:
        pattern = lax.bitcast_convert_type(jnp.abs(tile(c)), jnp.int32)
        return jnp.maximum(largest, jnp.max(pattern, axis=1))

    patterns = each(read, zero)
    largest = lax.bitcast_convert_type(patterns, jnp.float32)
    if spec.scale.statistic == "largest":
        return spec.scale(largest, given)
    power, inverse = powers(largest)
    bits = limb_bits(size)

    def add(c: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        x = tile(c)
        high, low = limbs(x, lax.broadcast_in_dim(inverse, x.shape, (0,)), bits)
        return sums[0] + jnp.sum(high, axis=1), sums[1] + jnp.sum(low, axis=1)

    highs, lows = each(add, (zero, zero))
    mean = (highs.astype(jnp.float32) + lows.astype(jnp.float32) * 2.0**-bits) * (2.0**-bits / size)
    return spec.scale(jnp.where(largest < jnp.inf, _sqrt(mean) * power, largest), given)


def _sqrt(x: Array) -> Array:
    """Square root to about a unit in the last place, out of the reciprocal one: Mosaic GPU has no other."""
    positive = x > 0
    safe = jnp.where(positive, x, 1.0)
    root = safe * lax.rsqrt(safe)
    return jnp.where(positive, 0.5 * (root + safe / root), 0.0)


def _backward(spec: Spec, tiles: _Tiles, g_ref: Any, *refs: Any) -> None:
    *mask, out_ref = refs

    def step(c: Array, _: None) -> None:
        g = tiles.load(g_ref, c).astype(jnp.float32)
        if spec.back:
            g = tiles.rotate(g, g_ref.dtype)
        for mask_ref in mask:
            g = jnp.where(tiles.load(mask_ref, c).astype(jnp.int32) > 0, g, 0.0)
        tiles.store(out_ref, c, tiles.rotate(g, g_ref.dtype).astype(out_ref.dtype))

    lax.fori_loop(0, g_ref.shape[1] // TILE, step, None)
