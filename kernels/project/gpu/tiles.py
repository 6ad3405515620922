"""Tiles of a row on Hopper (Mosaic GPU): how they are cut, moved, rotated, and interleaved over strips.

Mosaic GPU does not exchange values between the threads that hold neighbours of a row. A matrix product does: by a
permutation, column j of a tile goes to strip `j % factor`, so that neighbours stand in the same place of different
strips. It is exact on bytes of the bit pattern, whatever number they are of, and free where the tile is rotated anyway,
as the columns of the rotation's matrix are permuted in its place. The transposed matrix brings the columns back.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ... import hadamard
from ...hopper import COMPILER_PARAMS, ROWS, interpreter, swizzled
from ..spec import Spec

TILE = 128  # values of a row that are worked on at a time
NARROWEST = 8  # columns that a wgmma's registers hold together
WHOLE = (16, 32, 64, 96)  # rows that are one narrower tile: bytes too, of masks and codes, can be copied and swizzled
NARROW_STRIP = 16  # columns that are worked on at once where neighbours are many strips: all of them stay in registers


class Interleave(NamedTuple):
    """How rows are cut: into tiles, each a row of the kernel, and these into strips that hold neighbours in turn."""

    shared: int
    """Values that share a scale: a tile or several; a tile where it has several groups."""
    tile: int
    factor: int = 1
    """Strips that neighbours are interleaved over."""
    group: int | None = None
    """Neighbours of a tile that share a scale; None: whole tiles do."""
    strip: int = TILE
    """Columns of a strip."""

    @property
    def interleaved(self) -> bool:
        """Whether columns change places."""
        return self.factor > 1

    @property
    def narrow(self) -> bool:
        """Whether a group has at most `factor` values: a column of the strips then holds whole groups."""
        return self.group is not None and self.group <= self.factor

    def strips(self, tile: Array) -> list[list[Array]]:
        """Strips of a tile: of each part, a group unless it is narrower than that, those that neighbours are in."""
        return [
            [tile if self.strip == self.tile else tile[:, at : at + self.strip] for at in starts]
            for starts in self.starts
        ]

    @property
    def starts(self) -> list[list[int]]:
        """First column of each of the `strips`."""
        columns = self.tile // self.factor
        return [[way * columns + at for way in range(self.factor)] for at in range(0, columns, self.strip)]


def interleave_of(spec: Spec, width: int) -> Interleave | str:
    """How rows of `width` values are cut for this projection, or why they cannot be."""
    size = spec.group or width
    factor = spec.pattern.m if spec.pattern else spec.codebook.dimension if spec.codebook else 1
    if spec.rotation is None and factor == 1 and size in WHOLE:
        return Interleave(size, size, strip=size)
    if reason := _uncut(spec, width, size, factor):
        return reason
    if size % TILE == 0:
        interleave = Interleave(size, TILE, factor, strip=TILE // factor)
    else:
        factor = factor if size >= factor * NARROWEST else max(factor, size)
        interleave = Interleave(TILE, TILE, factor, size, strip=TILE // factor if factor >= size else size // factor)
    if interleave.strip < NARROWEST:
        left = f"strips of {interleave.strip} columns, less than {NARROWEST}"
        return f"groups of {size} values in {factor} strips leave {left}"
    narrow = interleave.interleaved and interleave.group is None
    return interleave._replace(strip=min(interleave.strip, NARROW_STRIP)) if narrow else interleave


def _uncut(spec: Spec, width: int, size: int, factor: int) -> str | None:
    """Why such rows are no tiles, or None where they are."""
    reason = None
    if not width:
        reason = f"there is nothing to cut in rows of {width} values"
    elif factor & (factor - 1):
        reason = f"runs of {factor} neighbours are not interleaved over a power of two of strips"
    elif spec.rotation is not None and (spec.rotation > TILE or spec.rotation.bit_count() > 1):
        reason = f"a rotation of {spec.rotation} values does not fit into tiles of {TILE}"
    elif width % TILE:
        reason = f"rows of {width} values are not whole tiles of {TILE}"
    elif size % TILE and TILE % size:
        reason = f"groups of {size} values neither fill tiles of {TILE} nor divide them"
    return reason


class Tiles(NamedTuple):
    """Moves tiles (64, width) between memory and registers, through shared memory, and rotates and deals them."""

    interleave: Interleave
    rotation: int | None
    dtype: Any
    """Of the rows."""
    rows: Any
    """Those of this block, a slice."""
    smem: dict[Any, Any]
    """A tile of shared memory for each dtype; "column" and a list of "columns", "joined", "matrix", "order"."""
    barrier: Any
    piece: Any
    """Shared memory of a product's operand, for jax's interpreter, which knows no wgmma from registers."""

    def load(self, ref: Any) -> Array:
        """The tile of an input."""
        smem = self.smem[ref.dtype]
        plgpu.copy_gmem_to_smem(ref.at[self.rows], smem, self.barrier)
        plgpu.barrier_wait(self.barrier)
        return smem[...]

    def store(self, ref: Any, x: Array) -> None:
        """The tile of an output."""
        smem = self.smem[ref.dtype]
        smem[...] = x
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(smem, ref.at[self.rows])
        plgpu.wait_smem_to_gmem(0)

    def columns(self, refs: list[Any]) -> list[Array]:
        """Numbers of every row, each through shared memory of its own: no warp waits for another that still reads."""
        found = []
        for smem, ref in zip(self.smem["columns"], refs, strict=False):
            plgpu.copy_gmem_to_smem(ref.at[self.rows], smem, self.barrier)
            plgpu.barrier_wait(self.barrier)
            found.append(smem[...])
        return found

    def store_column(self, ref: Any, x: Array) -> None:
        """A number of every row, to an output."""
        smem = self.smem["column"]
        smem[...] = x
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(smem, ref.at[self.rows])
        plgpu.wait_smem_to_gmem(0)

    def rotate(self, x: Array) -> Array:
        """Float32 tile, rotated and rounded to the dtype of the rows."""
        return x if self.rotation is None else self._rotated(x, self.smem["matrix"])

    def interleaved(self, x: Array) -> Array:
        """Float32 tile, rotated as `rotate` does, its columns interleaved over strips."""
        if self.rotation is None and self.interleave.interleaved:
            return self._permuted(x, self._order)
        return self.rotate(x)

    def rotated_back(self, x: Array) -> Array:
        """`rotate` of a tile whose columns are interleaved."""
        return self._rotated(x, self.smem["matrix"].T if self.interleave.interleaved else self.smem["matrix"])

    def gathered(self, x: Array) -> Array:
        """Float32 tile, its columns where they were before they were interleaved."""
        if not self.interleave.interleaved:
            return x
        return self._permuted(x, self._order.T)

    def gathered_bytes(self, x: Array) -> Array:
        """`gathered` of integers below 256, which need one product."""
        if not self.interleave.interleaved:
            return x
        return self._product([x.astype(jnp.bfloat16)], self._order.T)

    def joined(self, strips: list[list[Array]]) -> Array:
        """Float32 tile out of its strips, of numbers that the dtype of the rows holds, or of the kernel's scales."""
        if self.interleave.strip == self.interleave.tile:
            return strips[0][0].astype(jnp.float32)
        joined = self.smem["joined"]
        for starts, parts in zip(self.interleave.starts, strips, strict=True):
            for at, strip in zip(starts, parts, strict=True):
                joined[:, pl.ds(at, self.interleave.strip)] = strip.astype(joined.dtype)
        return joined[...].astype(jnp.float32)

    @property
    def _order(self) -> Any:
        """The matrix that deals columns, and does nothing else."""
        return self.smem["matrix" if self.rotation is None else "order"]

    def _rotated(self, x: Array, matrix: Any) -> Array:
        """One piece of 8 significant bits holds what was bfloat16, three a float32; see `lanes.product`."""
        pieces = []
        for _ in range(1 if self.dtype == jnp.bfloat16 else 3):
            pieces.append(x.astype(jnp.bfloat16))
            x = x - pieces[-1].astype(jnp.float32)
        assert self.rotation is not None
        y = self._product(pieces, matrix) * jnp.float32(self.rotation**-0.5)
        return y.astype(self.dtype).astype(jnp.float32)

    def _permuted(self, x: Array, matrix: Any) -> Array:
        """By halves of the bit pattern, a bfloat16's being the upper one of a float32's.

        A half is the sum of its bytes: two products into one sum of 16 bits, which is exact.
        """
        pattern, moved = lax.bitcast_convert_type(x, jnp.int32), jnp.zeros(x.shape, jnp.int32)
        for shift in range(32 - 8 * jnp.dtype(self.dtype).itemsize, 32, 16):
            half = lax.shift_right_logical(pattern, jnp.int32(shift)) & 0xFFFF
            pieces = ((half & byte).astype(jnp.float32).astype(jnp.bfloat16) for byte in (0xFF00, 0xFF))
            moved = moved | lax.shift_left(self._product(pieces, matrix).astype(jnp.int32), jnp.int32(shift))
        return lax.bitcast_convert_type(moved, jnp.float32)

    def _product(self, pieces: Iterable[Array], matrix: Any) -> Array:
        """Sum of bfloat16 `pieces` times the matrix, float32."""

        def accumulate(total: Any) -> Array:
            for piece in pieces:
                if self.piece is not None:
                    self.piece[...] = piece
                plgpu.wgmma(total, piece if self.piece is None else self.piece, matrix)
                plgpu.wgmma_wait(0)
            return total[...]

        return pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef((ROWS, TILE), jnp.float32))


def call(
    body: partial[None],
    operands: list[Array],
    out_type: tuple[Any, ...],
    *,
    interleave: Interleave,
    rotation: int | None,
    interpret: bool,
    gathers: bool = True,
) -> Any:
    """`body(tiles, *refs)` on every block of rows, a tile each: the first operand. Those of rank 1 stay in memory.

    `gathers`: whether it brings interleaved columns back, for which there is shared memory then.
    """
    dtype, count = operands[0].dtype, len(operands)
    dtypes = {jnp.dtype(x.dtype) for x in (*operands, *out_type) if x.shape == operands[0].shape}
    scratch: dict[Any, Any] = {
        str(d): plgpu.SMEM((ROWS, interleave.tile), d, transforms=swizzled(interleave.tile, d.itemsize)) for d in dtypes
    }
    scratch["column"], scratch["barrier"] = plgpu.SMEM((ROWS,), jnp.float32), plgpu.Barrier()
    columns = [f"column{i}" for i, x in enumerate(operands) if x.shape == operands[0].shape[:1]]
    scratch |= {name: plgpu.SMEM((ROWS,), jnp.float32) for name in columns}
    matrices = {"matrix": _matrix(rotation, interleave.factor)} if rotation or interleave.interleaved else {}
    if rotation and interleave.interleaved and gathers:
        matrices["order"] = _matrix(None, interleave.factor)
    for name in matrices:
        scratch[name] = plgpu.SMEM((TILE, TILE), jnp.bfloat16, transforms=swizzled(TILE, 2))
    if interleave.strip < interleave.tile and gathers:
        joined = jnp.float32 if jnp.dtype(jnp.float32) in dtypes else dtype
        scratch["joined"] = plgpu.SMEM((ROWS, interleave.tile), joined)
    if matrices and interpret:
        scratch["piece"] = plgpu.SMEM((ROWS, TILE), jnp.bfloat16)
    operands = [*operands, *matrices.values()]

    def kernel(*refs: Any, barrier: Any, piece: Any = None, **smem: Any) -> None:
        for ref, name in zip(refs[count:], matrices, strict=False):
            plgpu.copy_gmem_to_smem(ref, smem[name], barrier)
            plgpu.barrier_wait(barrier)
        here = pl.ds(lax.axis_index("rows") * ROWS, ROWS)
        named = smem | {d: smem[str(d)] for d in dtypes} | {"columns": [smem[name] for name in columns]}
        tiles = Tiles(interleave, rotation, dtype, here, named, barrier, piece)
        body(tiles, *refs[:count], *refs[len(operands) :])

    kernel.__name__ = f"capscale{body.func.__name__}"  # by which compilers and profilers name it
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        grid=(operands[0].shape[0] // ROWS,),
        grid_names=("rows",),
        scratch_types=scratch,
        compiler_params=COMPILER_PARAMS,
        interpret=interpreter(interpret),
    )(*operands)


def _matrix(rotation: int | None, factor: int) -> Array:
    """(128, 128) block-diagonal ±1 matrix of the rotation, or the identity, its columns interleaved; bfloat16."""
    i = lax.broadcasted_iota(jnp.int32, (TILE, TILE), 0)
    at = lax.broadcasted_iota(jnp.int32, (TILE, TILE), 1)
    strip = TILE // factor
    j = at % strip * factor + at // strip
    if rotation is None:
        return (i == j).astype(jnp.bfloat16)
    return hadamard.signs(rotation, i, j)
