"""How the TPU kernel cuts rows into blocks and tiles, and how much VMEM that takes.

Sizes follow from the shape and from what every chip has. `scripts/autotune_project.py` measures the candidates on a
chip and writes the best to a table; where `CAPSCALE_TILES` names that file, it is asked first.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ...config import TILES, setting
from ...vmem import SPILLED, VMEM
from ..bitplanes import LANES, plane_bytes
from ..mask import mask_bytes

SUBLANES = 32  # rows of a tile of bytes, the mask's
LARGEST = 512  # rows of a block: beyond that the time to start one no longer shows


@dataclass(frozen=True)
class Tile:
    """Sizes of the work: `rows` a block, `inner` rows of a tile, each in a lane. Raises ValueError for broken ones."""

    rows: int
    inner: int

    def __post_init__(self) -> None:
        if not 0 < self.inner <= min(self.rows, LANES) or self.rows % self.inner or self.inner % SUBLANES:
            raise ValueError(
                f"{self}: `inner` must be a multiple of {SUBLANES} up to {LANES}, and `rows` one of `inner`"
            )


class Memory(NamedTuple):
    """VMEM of a kernel, in bytes."""

    rows: int
    """Rows of a block."""
    moved: int
    """Of a block, its results included."""
    scratch: int

    @property
    def buffers(self) -> int:
        """How many blocks there are: two, of which one is moved while the other is worked on.

        One where the smallest of blocks, of very wide rows, do not fit twice.
        """
        return 1 if self.rows == SUBLANES and 2 * self.moved + self.scratch + SPILLED > VMEM else 2

    @property
    def total(self) -> int:
        """Of blocks and scratch."""
        return self.buffers * self.moved + self.scratch


class Extra(NamedTuple):
    """Memory that a kernel takes beside rows and values: of codes, and of what a prologue reads and keeps.

    Attributes:
      coded: whether it writes codes.
      rows: further rows that it reads or writes.
      shared: single rows that it reads for all.
      tiles: tiles in float32 that it keeps.
    """

    coded: bool = False
    rows: int = 0
    shared: int = 0
    tiles: int = 0


PLAIN = Extra()


def memory(tile: Tile, width: int, dtype: DTypeLike, extra: Extra = PLAIN) -> Memory:
    """Of the forward kernel, which the backward one stays below: of a strip values in float32, bits, and a tile more.

    A strip's rows lie in whole registers. With codes a byte a value, and scales, of which a register holds those of
    a strip eight times; a shared row lies in whole registers, twice.
    """
    mask = mask_bytes(width)
    codes = width + 4 * 8 if extra.coded else 0
    row = (2 + extra.rows) * width * jnp.dtype(dtype).itemsize + mask + 4 * LANES + codes
    shared = 2 * 4 * 8 * width * extra.shared
    strip = 4 * LANES * (width + _words(mask) + LANES * (1 + extra.tiles))
    return Memory(tile.rows, tile.rows * row, strip + shared + _MATRIX)


def encode_memory(tile: Tile, width: int, dtype: DTypeLike, bits: int, scale_lanes: int) -> Memory:
    """Of the encoding kernel: of a strip values in float32, codes and scales."""
    codes = plane_bytes(width, bits)
    row = width * jnp.dtype(dtype).itemsize + codes + 4 * scale_lanes + 4 * LANES
    return Memory(tile.rows, tile.rows * row, 4 * LANES * (width + _words(codes) + scale_lanes) + _MATRIX)


_MATRIX = 2 * 2 * LANES * LANES
"""Bytes of the rotation's, twice."""


def vmem_bytes(tile: Tile, width: int, dtype: DTypeLike, extra: Extra = PLAIN) -> int:
    """VMEM of the forward kernel."""
    return memory(tile, width, dtype, extra).total


def _words(count: int) -> int:
    """Rows of scratch for so many bytes a row, as `strip_bytes` gathers them."""
    return LANES * -(-count // (4 * LANES))


def candidates(shape: tuple[int, ...], dtype: DTypeLike) -> list[Tile]:
    """Every tile that fits into VMEM, blocks and tiles being powers of two times 32 rows, and no larger than needed."""
    rows, width = shape
    sizes = [SUBLANES << i for i in range(6)]
    return [
        Tile(block, inner)
        for block in sizes
        for inner in sizes[:3]
        if inner <= block <= max(LARGEST, SUBLANES)
        and (block < 2 * rows or block == SUBLANES)
        and vmem_bytes(Tile(block, inner), width, dtype) + SPILLED <= VMEM
    ]


def default_tile(
    shape: tuple[int, ...], dtype: DTypeLike, needs: Callable[[Tile, int, DTypeLike], int] = vmem_bytes
) -> Tile:
    """The tile of the table for this chip, width and dtype, where there is one; else blocks of about half of VMEM.

    `needs`: VMEM of the kernel. A tile of the table that it cannot hold is passed over.
    """
    rows, width = shape

    def fits(tile: Tile) -> bool:
        return needs(tile, width, dtype) + SPILLED <= VMEM

    measured = _table(setting(TILES)).get(key(width, dtype))
    if measured is not None and measured.rows < 2 * rows and fits(measured):
        return measured
    inner = SUBLANES
    while inner < min(rows, LANES) and fits(Tile(2 * inner, 2 * inner)):
        inner *= 2
    best = Tile(inner, inner)
    while best.rows < min(rows, LARGEST) and needs(Tile(2 * best.rows, inner), width, dtype) <= VMEM // 2:
        best = Tile(2 * best.rows, inner)
    return best


def fitting_tile(
    tile: Tile | None,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    needs: Callable[[Tile, int, DTypeLike], int] = vmem_bytes,
) -> Tile:
    """`tile`, or the default one for None. Raises ValueError for one that does not fit into VMEM."""
    if tile is None:
        return default_tile(shape, dtype, needs)
    needed = needs(tile, shape[1], dtype) + SPILLED
    if needed > VMEM:
        raise ValueError(
            f"{tile} on rows of {shape[1]} {jnp.dtype(dtype)} values takes {needed / 2**20:.1f} MiB of VMEM, "
            f"of which there are {VMEM >> 20}; use fewer rows"
        )
    return tile


def key(width: int, dtype: DTypeLike) -> str:
    """Name of a row of the table: `bfloat16-640`."""
    return f"{jnp.dtype(dtype)}-{width}"


@cache
def _table(path: str | None) -> dict[str, Tile]:
    """Tiles measured on this kind of chip. Raises ValueError for a file that is no such table."""
    if path is None:
        return {}
    try:
        table = json.loads(Path(path).read_text())
        tiles = {name: Tile(*map(int, sizes)) for name, sizes in table["tiles"].items()}
        chip = table["chip"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{TILES}={path} is no table of tiles ({error!r}); write one with scripts/autotune_project.py"
        ) from error
    return tiles if chip == jax.devices()[0].device_kind else {}
