"""How rows are cut on Hopper: into tiles, tiles into strips, and whole rows into blocks of the kernel.

x (R, K)  --reshape-->  (R K / tile, tile), a tile in every row of the kernel

                tile: 128 values, or a group
             +----+----+--   --+
row 0        |    |    |       |   64 tiles: what a warpgroup works on at once. A block holds one such or several,
row 0        |    |    |       |   of whole rows: all that a scale or a byte of a mask is made of
 ...         +----+----+--   --+
row 1        |    |    |       |
             +----+----+--   --+
               a strip: columns that are in registers at once
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ...hopper import ROWS
from ..bitplanes import plane_bytes
from ..spec import Spec

TILE = 128  # values of a row that are worked on at a time
NARROWEST = 8  # columns that a wgmma's registers hold together
WHOLE = (16, 32, 64)  # groups that are one narrower tile: bytes too, of masks and codes, can be copied and swizzled
STRIP = 32  # columns that are worked on at once
NARROW_STRIP = 16  # the same where neighbours are many strips: all of them stay in registers
UNIT = 8  # rows of the kernel that are copied together
FILLED = 0.85  # share of the rows that a warpgroup works on which is enough


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

    @property
    def starts(self) -> list[list[int]]:
        """First column of each strip of a tile: of each part, a group unless it is narrower, those of neighbours."""
        columns = self.tile // self.factor
        return [[way * columns + at for way in range(self.factor)] for at in range(0, columns, self.strip)]


def interleave_of(spec: Spec, width: int) -> Interleave | str:
    """How rows of `width` values are cut for this projection, or why they cannot be."""
    size = spec.group or width
    factor = spec.pattern.m if spec.pattern else spec.codebook.dimension if spec.codebook else 1
    if spec.rotation is None and factor == 1 and (tile := _whole_tile(size)):
        return Interleave(size, tile, strip=min(tile, STRIP))
    if reason := _uncut(spec, width, size, factor):
        return reason
    if size % TILE == 0:
        interleave = Interleave(size, TILE, factor, strip=TILE // factor)
    else:
        # Groups in strips of 16 columns, by interleaving their values if need be; of 8 where either way gives no wider.
        narrowest = NARROW_STRIP if TILE // size >= NARROW_STRIP else NARROWEST
        factor = factor if size >= factor * narrowest else max(factor, size)
        interleave = Interleave(TILE, TILE, factor, size, strip=TILE // factor if factor >= size else size // factor)
    if interleave.strip < NARROWEST:
        left = f"strips of {interleave.strip} columns, less than {NARROWEST}"
        return f"groups of {size} values in {factor} strips leave {left}"
    if interleave.group is not None:
        return interleave
    return interleave._replace(strip=min(interleave.strip, NARROW_STRIP if interleave.interleaved else STRIP))


def _whole_tile(size: int) -> int | None:
    """The widest tile below `TILE` that groups of this size are one or several of; None where there is none."""
    if not 0 < size < TILE:
        return None
    return next((tile for tile in reversed(WHOLE) if size % tile == 0), None)


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


class Block(NamedTuple):
    """Rows that a block of the kernel holds at once."""

    rows: int
    tiles: int
    """Of a row, those that fill it up included."""
    real: int
    """Of them those that hold values."""
    tile: int
    """Values of a tile."""

    @property
    def used(self) -> int:
        """Rows of the kernel."""
        return self.rows * self.tiles

    @property
    def groups(self) -> int:
        """How many times a warpgroup works on `ROWS` of them; in the last of them some may be nobody's."""
        return -(-self.used // ROWS)

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.real * self.tile


def blocks_of(width: int, tile: int) -> list[Block]:
    """Blocks that hold whole rows and whole units that are copied, the best first.

    The best fills `FILLED` of what it is worked on with, in the fewest groups. The last is one row, filled up to whole
    units: the least block, where a row's tiles are an odd number or nearly, at the cost of a copy of all rows.
    """
    real = width // tile

    def order(block: Block) -> tuple[bool, int, float]:
        filled = block.used / (block.groups * ROWS)
        return filled < FILLED, block.groups if filled >= FILLED else 0, -filled

    found = [Block(rows, real, real, tile) for rows in range(1, ROWS + 1)]
    found = [block for block in found if block.used % UNIT == 0 and (block.groups == 1 or block.rows <= ROWS // 2)]
    return [*sorted(found, key=order), Block(1, -(-real // UNIT) * UNIT, real, tile)]


class Planes(NamedTuple):
    """Numbers of a few bits of a block's rows as bytes of `bitplanes`, by products with powers of two.

    A byte holds numbers that stand in the same column of several tiles of a row: sums over rows of the kernel.
    """

    block: Block
    bits: int

    @property
    def width(self) -> int:
        """Tiles of bytes of a row."""
        return plane_bytes(self.block.width, self.bits) // self.block.tile

    @property
    def used(self) -> int:
        """Rows of the kernel that are bytes."""
        return self.block.rows * self.width

    @property
    def stored(self) -> int:
        """The same up to whole units."""
        return -(-self.used // UNIT) * UNIT

    @property
    def chunks(self) -> int:
        """How many times `ROWS` they are."""
        return -(-self.used // ROWS)

    def factors(self, chunk: Any, group: Any) -> Array:
        """(64, 64) float32: by how much a tile (column, of a group) counts in a tile of bytes (row, of a chunk)."""
        here, plane = self._meet(chunk, group, 0, 1)
        return jnp.where(here, lax.shift_left(jnp.int32(1), self.bits * plane).astype(jnp.float32), 0.0)

    def source(self, group: Any, chunk: Any) -> Array:
        """(64, 64) float32: 1 where a tile of bytes (column, of a chunk) holds the numbers of a tile (row), else 0."""
        return jnp.where(self._meet(chunk, group, 1, 0)[0], 1.0, 0.0)

    def shift(self, group: Any) -> Array:
        """(64, tile) int32: the first bit of each number in its byte."""
        row = group * ROWS + lax.broadcasted_iota(jnp.int32, (ROWS, self.block.tile), 0)
        return self.bits * lax.div(lax.rem(row, self.block.tiles), self.width)

    def _meet(self, chunk: Any, group: Any, byte_axis: int, tile_axis: int) -> tuple[Array, Array]:
        """Where a tile of bytes holds the numbers of a tile, (64, 64), and in which of its planes."""
        byte = chunk * ROWS + lax.broadcasted_iota(jnp.int32, (ROWS, ROWS), byte_axis)
        tile = group * ROWS + lax.broadcasted_iota(jnp.int32, (ROWS, ROWS), tile_axis)
        in_row = lax.rem(tile, self.block.tiles)
        plane = lax.div(in_row, self.width)
        same_row = lax.div(byte, self.width) == lax.div(tile, self.block.tiles)
        here = same_row & (lax.rem(byte, self.width) == in_row - plane * self.width) & (in_row < self.block.real)
        return here, plane
