"""Tiles that a block holds in shared memory on Hopper (Mosaic GPU): rotated, their columns exchanged, packed to bits.

Mosaic GPU does not exchange values between the threads that hold neighbours of a row. A matrix product does: by a
permutation, column j of a tile goes to strip `j % factor`, so that neighbours stand in the same place of different
strips. It is exact on bytes of the bit pattern, whatever number they are of, and free where the tile is rotated anyway,
as the columns of the rotation's matrix are permuted in its place. The transposed matrix brings the columns back.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ... import hadamard
from ...hopper import ROWS
from .cut import TILE, Block, Interleave, Planes


def matrix(rotation: int | None, factor: int) -> Array:
    """(128, 128) block-diagonal ±1 matrix of the rotation, or the identity, its columns interleaved; bfloat16."""
    i = lax.broadcasted_iota(jnp.int32, (TILE, TILE), 0)
    at = lax.broadcasted_iota(jnp.int32, (TILE, TILE), 1)
    strip = TILE // factor
    j = at % strip * factor + at // strip
    if rotation is None:
        return (i == j).astype(jnp.bfloat16)
    return hadamard.signs(rotation, i, j)


class Tiles(NamedTuple):
    """Works on the rows that a block holds in shared memory."""

    interleave: Interleave
    block: Block
    rotation: int | None
    dtype: Any
    """Of the rows."""
    smem: dict[str, Any]
    """Shared memory by name: "matrix", "order", and what the kernel asked for."""
    pieces: dict[int, Any]
    """Shared memory of a product's first operand by its columns, for jax's interpreter, which knows no wgmma from
    registers."""

    def each(self, do: Callable[[Any], None]) -> None:
        """`do` for every 64 rows of the kernel; what one wrote to shared memory all see afterwards."""

        def then(group: Any, carry: Any) -> Any:
            do(group)
            return carry

        if self.block.groups == 1:
            do(0)
        else:
            lax.fori_loop(0, self.block.groups, then, jnp.int32(0))
        plgpu.commit_smem()

    def turn(self, x: Any) -> None:
        """Rotates tiles, as far as they are, and interleaves their columns, in place."""
        if self.rotation is None and not self.interleave.interleaved:
            return

        def turned(group: Any) -> None:
            x[group] = self._interleaved(lambda: x[group].astype(jnp.float32)).astype(self.dtype)

        self.each(turned)

    def turn_back(self, x: Any, *, rotated: bool) -> None:
        """Brings interleaved columns back, and rotates them back where these are `rotated`, in place."""
        if not rotated and not self.interleave.interleaved:
            return

        def turned(group: Any) -> None:
            def load() -> Array:
                return x[group].astype(jnp.float32)

            x[group] = (self.rotated_back(load()) if rotated else self.gathered(load)).astype(self.dtype)

        self.each(turned)

    def strips(self, x: Any, group: Any, starts: list[int]) -> list[Array]:
        """Strips of a tile, float32."""
        return [x[group, :, pl.ds(at, self.interleave.strip)].astype(jnp.float32) for at in starts]

    def write(self, x: Any, group: Any, starts: list[int], strips: list[Array]) -> None:
        """`strips` to where they are of."""
        for at, strip in zip(starts, strips, strict=True):
            x[group, :, pl.ds(at, self.interleave.strip)] = strip.astype(x.dtype)

    def rotate(self, x: Array) -> Array:
        """Float32 tile, rotated and rounded to the dtype of the rows."""
        return x if self.rotation is None else self._rotated(x, self.smem["matrix"])

    def _interleaved(self, load: Callable[[], Array]) -> Array:
        """Float32 tile, rotated as `rotate` does, its columns interleaved over strips."""
        if self.rotation is None and self.interleave.interleaved:
            return self._permuted(load, self._order)
        return self.rotate(load())

    def rotated_back(self, x: Array) -> Array:
        """`rotate` of a tile whose columns are interleaved."""
        return self._rotated(x, self.smem["matrix"].T if self.interleave.interleaved else self.smem["matrix"])

    def gathered(self, load: Callable[[], Array]) -> Array:
        """Float32 tile, its columns where they were before they were interleaved."""
        return self._permuted(load, self._order.T) if self.interleave.interleaved else load()

    def gathered_bytes(self, x: Array) -> Array:
        """`gathered` of integers below 256, which need one product."""
        if not self.interleave.interleaved:
            return x
        return self.product([x.astype(jnp.bfloat16)], self._order.T)

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
        y = self.product(pieces, matrix) * jnp.float32(self.rotation**-0.5)
        return y.astype(self.dtype).astype(jnp.float32)

    def _permuted(self, load: Callable[[], Array], matrix: Any) -> Array:
        """By halves of the bit pattern, a bfloat16's being the upper one of a float32's.

        A half is the sum of its bytes: two products into one sum of 16 bits, which is exact. Tiles are loaded for every
        product again: what waits in registers is a tile less.
        """

        def piece(shift: int, byte: int) -> Array:
            half = lax.shift_right_logical(lax.bitcast_convert_type(load(), jnp.int32), jnp.int32(shift))
            return (half & byte).astype(jnp.float32).astype(jnp.bfloat16)

        halves = []
        for shift in range(32 - 8 * jnp.dtype(self.dtype).itemsize, 32, 16):
            found = self.product((piece(shift, byte) for byte in (0xFF00, 0xFF)), matrix).astype(jnp.int32)
            halves.append(lax.shift_left(found, jnp.int32(shift)))
        return lax.bitcast_convert_type(reduce(jnp.bitwise_or, halves), jnp.float32)

    def product(self, pieces: Iterable[Array], matrix: Any) -> Array:
        """Sum of bfloat16 `pieces` (64, k) times the matrix (k, n) in shared memory, float32."""

        def accumulate(total: Any) -> Array:
            for piece in pieces:
                held = self.pieces.get(piece.shape[1])
                if held is not None:
                    held[...] = piece
                plgpu.wgmma(total, piece if held is None else held, matrix)
                plgpu.wgmma_wait(0)
            return total[...]

        return pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef((ROWS, matrix.shape[1]), jnp.float32))

    def clear(self, out: Any, planes: Planes) -> None:
        """Bytes in shared memory to zero, where several groups are added to them."""
        if self.block.groups > 1:
            for chunk in range(planes.chunks):
                out[chunk] = jnp.zeros((ROWS, self.block.tile), jnp.int8)

    def write_factor(self, starts: list[int], strips: list[Array]) -> None:
        """Strips of integers below 256 to the tile that `to_bytes` reads."""
        held = self.smem.get("joined", self.smem["factor"])
        for at, strip in zip(starts, strips, strict=True):
            held[:, pl.ds(at, self.interleave.strip)] = strip.astype(held.dtype)

    def to_bytes(self, group: Any, planes: Planes, out: Any) -> None:
        """Adds the tiles of a group that `write_factor` wrote to bytes in shared memory."""
        factor = self.smem["factor"]
        plgpu.commit_smem()
        if "joined" in self.smem:
            factor[...] = self.smem["joined"][...]
            plgpu.commit_smem()
        for chunk in range(planes.chunks):
            found = self.product([planes.factors(chunk, group).astype(jnp.bfloat16)], factor).astype(jnp.int32)
            out[chunk] = (found if self.block.groups == 1 else found + out[chunk].astype(jnp.int32)).astype(jnp.int8)
        plgpu.commit_smem()  # no warp writes the next tiles while another still multiplies these

    def gather_bytes(self, out: Any, planes: Planes) -> None:
        """Brings columns of bytes back, in place."""
        if self.interleave.interleaved:
            for chunk in range(planes.chunks):
                byte = (out[chunk].astype(jnp.int32) & 0xFF).astype(jnp.float32)
                out[chunk] = self.gathered_bytes(byte).astype(jnp.int32).astype(jnp.int8)


def together(
    column: Any, group: Any, *, block: Block, tiles: int, combine: Callable[..., Array], lowest: int = 0
) -> Array:
    """int32 numbers of each row of the kernel (groups, 64), over all of the `tiles` it stands with: (64,).

    `combine`: jnp.max, of numbers from `lowest` on, or jnp.sum.
    """
    if tiles == 1:
        return column[group]
    shape, nothing = (ROWS, ROWS), jnp.int32(lowest)
    here = lax.div(group * ROWS + lax.broadcasted_iota(jnp.int32, shape, 0), tiles)

    def over(chunk: Any) -> Array:
        column_of = chunk * ROWS + lax.broadcasted_iota(jnp.int32, shape, 1)
        meets = here == lax.div(column_of, tiles)
        if block.tiles > block.real:  # what fills rows up is no value of theirs
            meets = meets & (lax.rem(column_of, block.tiles) < block.real)
        return combine(jnp.where(meets, lax.broadcast_in_dim(column[chunk], shape, (1,)), nothing), axis=1)

    if ROWS % tiles == 0:
        return over(group)
    pair = jnp.maximum if combine is jnp.max else jnp.add
    first = lax.div(group * ROWS, tiles) * tiles
    last = lax.div(group * ROWS + ROWS - 1, tiles) * tiles + tiles - 1
    stop = jnp.minimum(lax.div(last, ROWS) + 1, block.groups)
    start = jnp.full((ROWS,), lowest, jnp.int32)
    return lax.fori_loop(lax.div(first, ROWS), stop, lambda chunk, total: pair(total, over(chunk)), start)
