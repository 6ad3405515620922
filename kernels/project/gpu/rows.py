"""Rows by blocks on Hopper (Mosaic GPU): as they lie in memory and in shared memory, and how they are moved."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from ...hopper import ROWS, SMALLEST_SWIZZLE, swizzled
from .cut import UNIT, Block, Interleave, Planes

Kind = Literal["tiles", "column", "bytes", "memory"]


class Operand(NamedTuple):
    """An input of a kernel, or an output where `array` is but a dtype.

    Attributes:
      kind: "tiles": a tile in every row of the kernel; "column": a number of each; "bytes": of `planes`; "memory": not
        moved to shared memory.
      array: an input's values, shape (rows of the kernel, tile), (rows of the kernel,), (blocks x stored, tile), any.
      planes: of bytes.
    """

    kind: Kind
    array: Any
    planes: Planes | None = None

    def shape(self, block: Block) -> tuple[int, ...]:
        """Of a block's part in shared memory."""
        if self.kind == "column":
            return block.groups, ROWS
        if self.kind == "tiles":
            return block.groups, ROWS, block.tile
        assert self.planes is not None
        return self.planes.chunks, ROWS, block.tile


class Rows(NamedTuple):
    """How many rows there are, and which of them each block takes.

    The last blocks may overlap where rows are no multiple of a block's: both write the same values.
    """

    total: int
    block: Block

    @classmethod
    def of(cls, count: int, block: Block) -> "Rows":
        """Rows of a matrix; filled up to one block's where they are fewer, or no whole units."""
        ragged = count < block.rows or count * block.tiles % UNIT
        return cls(-(-count // block.rows) * block.rows if ragged else count, block)

    @property
    def blocks(self) -> int:
        """How many blocks take them."""
        return -(-self.total // self.block.rows)

    def padded(self, x_RK: Array) -> Array:
        """Rows of the kernel, (total x tiles, tile)."""
        block = self.block
        x = jnp.pad(x_RK, ((0, self.total - x_RK.shape[0]), (0, (block.tiles - block.real) * block.tile)))
        return x.reshape(-1, block.tile)

    def repeated(self, x_R1: Array) -> Array:
        """A number of each row for every tile of it."""
        return jnp.repeat(jnp.pad(x_R1[:, 0], (0, self.total - x_R1.shape[0])), self.block.tiles)

    def whole(self, x: Array, count: int) -> Array:
        """Inverse of `padded` for `count` rows."""
        return x.reshape(self.total, -1)[:count, : self.block.width]

    def bytes_of(self, x_RW: Array, planes: Planes) -> Array:
        """Bytes of rows by blocks, int8 (blocks x stored, tile)."""
        block, bytes_ = self.block, lax.bitcast_convert_type(x_RW, jnp.int8)
        x = jnp.pad(bytes_, ((0, self.total - x_RW.shape[0]), (0, 0)))
        whole = x[: (self.blocks - 1) * block.rows].reshape(self.blocks - 1, planes.used, block.tile)
        last = x[self.total - block.rows :].reshape(1, planes.used, block.tile)
        by_block = jnp.concatenate([whole, last]) if self.total % block.rows else x.reshape(-1, planes.used, block.tile)
        return jnp.pad(by_block, ((0, 0), (0, planes.stored - planes.used), (0, 0))).reshape(-1, block.tile)

    def of_bytes(self, x: Array, planes: Planes, count: int) -> Array:
        """Inverse of `bytes_of` for `count` rows: uint8 (count, W)."""
        block = self.block
        by_block = x.reshape(self.blocks, planes.stored, block.tile)[:, : planes.used]
        rows = lax.bitcast_convert_type(by_block, jnp.uint8).reshape(self.blocks * block.rows, -1)
        if self.total % block.rows:
            before = (self.blocks - 1) * block.rows
            rows = jnp.concatenate([rows[:before], rows[-(self.total - before) :]])
        return rows[:count]


def strip_memory(shape: tuple[int, ...], dtype: DTypeLike, interleave: Interleave) -> Any:
    """Shared memory of tiles that are copied, and read and written strip by strip."""
    return plgpu.SMEM(shape, dtype, transforms=swizzled(interleave.strip, jnp.dtype(dtype).itemsize))


def factor_memory(columns: int, interleave: Interleave) -> dict[str, Any]:
    """Shared memory "factor" of a tile of bfloat16, the second operand of a product, and "joined", where strips are put
    together that are narrower than what such an operand is swizzled by."""
    if 2 * interleave.strip >= SMALLEST_SWIZZLE:
        return {"factor": strip_memory((ROWS, columns), jnp.bfloat16, interleave)}
    whole = plgpu.SMEM((ROWS, columns), jnp.bfloat16, transforms=swizzled(columns, 2))
    return {"factor": whole, "joined": plgpu.SMEM((ROWS, columns), jnp.bfloat16)}


def held(shape: tuple[int, ...], of: Operand, interleave: Interleave) -> Any:
    """Shared memory of an operand."""
    dtype = of.array if isinstance(of.array, jnp.dtype) else of.array.dtype
    if of.kind == "column":
        return plgpu.SMEM(shape, dtype)
    if of.kind == "bytes":
        return plgpu.SMEM(shape, jnp.int8, transforms=swizzled(shape[-1], 1))
    return strip_memory(shape, dtype, interleave)


def size_of(of: Any) -> int:
    """Bytes of shared memory."""
    size = jnp.dtype(of.dtype).itemsize
    for n in of.shape:
        size *= n
    return size


def _parts(of: Operand, block: Block) -> list[int]:
    """Rows of the kernel of each copy."""
    total = block.used if of.planes is None else of.planes.stored
    return [min(ROWS, total - at) for at in range(0, total, ROWS)]


def copies(of: Operand, block: Block) -> int:
    """How many copies bring an operand's part of a block."""
    return len(_parts(of, block))


def move(of: Operand, rows: Rows, at: Any, *, memory: Any, smem: Any, barrier: Any = None) -> None:
    """A block's part to shared memory, where there is a barrier, or from it."""
    block = rows.block
    if of.kind == "bytes":
        assert of.planes is not None
        start = at * of.planes.stored
    else:
        start = jnp.minimum(at * (block.used // UNIT), (rows.total * block.tiles - block.used) // UNIT) * UNIT
    for i, size in enumerate(_parts(of, block)):
        there = memory.at[pl.ds(start + i * ROWS, size)]
        here = smem.at[i] if size == ROWS else smem.at[i, pl.ds(0, size)]
        if barrier is None:
            plgpu.copy_smem_to_gmem(here, there)
        else:
            plgpu.copy_gmem_to_smem(there, here, barrier)


def output(of: Operand, rows: Rows) -> jax.ShapeDtypeStruct:
    """An output in memory."""
    if of.kind == "bytes":
        assert of.planes is not None
        return jax.ShapeDtypeStruct((rows.blocks * of.planes.stored, rows.block.tile), jnp.int8)
    size = rows.total * rows.block.tiles
    return jax.ShapeDtypeStruct((size, rows.block.tile) if of.kind == "tiles" else (size,), of.array)
