"""How rows are cut for Hopper: blocks of whole rows, and numbers of a row's tiles as the bytes of `bitplanes`."""

import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.hopper import ROWS
from capscale.kernels.project import LargestOver, Pattern, RangeOver, Spec
from capscale.kernels.project.bitplanes import pack, plane_bytes, unpack
from capscale.kernels.project.gpu.cut import FILLED, TILE, UNIT, Block, Interleave, Planes, blocks_of, interleave_of
from capscale.kernels.project.gpu.project import block_of, unsupported
from capscale.kernels.project.gpu.rows import Rows

from capscale.formats.grids import Int

WIDTHS = [128, 640, 896, 1152, 1280, 1792, 2048, 3584, 4096, 5504, 5632, 8192, 11008, 14336, 28672]


@pytest.mark.parametrize("tile", [16, 32, 64, 128])
@pytest.mark.parametrize("width", WIDTHS)
def test_blocks_hold_whole_rows_and_whole_units(width, tile):
    blocks = blocks_of(width, tile)
    for block in blocks:
        assert block.used % UNIT == 0
        assert block.width == width
        assert block.groups * ROWS >= block.used > (block.groups - 1) * ROWS
    assert blocks[0].used / (blocks[0].groups * ROWS) >= FILLED


@pytest.mark.parametrize(
    ("width", "rows", "groups"),
    [(4096, 2, 1), (1792, 4, 1), (640, 24, 2), (5632, 4, 3), (8192, 1, 1), (128, 64, 1)],
)
def test_the_best_block(width, rows, groups):
    best = blocks_of(width, TILE)[0]
    assert (best.rows, best.groups) == (rows, groups)


def test_a_block_fits_into_shared_memory_or_the_reason_is_said():
    of, rotated = Spec(Int(4), LargestOver(7.5)), Spec(Int(4), LargestOver(7.5), rotation=128)
    cut = interleave_of(of, 11008)
    assert isinstance(cut, Interleave)
    assert block_of(of, cut, 11008, 2) == Block(4, 86, 86, TILE)
    assert block_of(of, cut, 11008, 4) == Block(4, 86, 86, TILE)
    assert block_of(rotated, cut, 11008, 4) == Block(1, 88, 86, TILE)  # rows that are filled up to whole units
    assert unsupported(rotated, (8, 28672), jnp.float32) is None
    assert unsupported(rotated, (8, 65536), jnp.bfloat16) is None
    assert unsupported(of, (8, 65536), jnp.float32) == (
        "whole rows of 65536 values of 4 bytes do not fit into a block's shared memory"
    )


@pytest.mark.parametrize(("size", "tile"), [(16, 16), (32, 32), (48, 16), (64, 64), (80, 16), (96, 32)])
@pytest.mark.parametrize("rule", [LargestOver(7.5), RangeOver(-8.0, 7.0)])
def test_groups_below_a_tile_are_one_or_several(size, tile, rule):
    found = interleave_of(Spec(Int(4), rule, group=size), 1920)
    assert isinstance(found, Interleave)
    assert (found.shared, found.tile, found.group) == (size, tile, None)
    assert unsupported(Spec(Int(4), rule, group=size), (8, 1920), jnp.bfloat16) is None


def test_small_groups_have_strips_of_16_columns():
    """By interleaving their values: of 8 columns the compiler's search for layouts does not end."""
    found = interleave_of(Spec(Int(4), LargestOver(7.5), group=8), 256)
    assert isinstance(found, Interleave)
    assert (found.factor, found.strip, found.narrow) == (8, 16, True)


def test_strips_are_every_column_once():
    for of in (Spec(Int(4), LargestOver(7.5)), Spec(pattern=Pattern(2, 4)), Spec(Int(4), LargestOver(7.5), group=8)):
        found = interleave_of(of, 256)
        assert isinstance(found, Interleave)
        columns = [at + i for starts in found.starts for at in starts for i in range(found.strip)]
        assert sorted(columns) == list(range(found.tile))


def kernel_rows(x, block: Block) -> np.ndarray:
    """Tiles of a block's rows, up to whole groups; what is nobody's is full of ones."""
    filled = jnp.pad(x, ((0, 0), (0, (block.tiles - block.real) * block.tile)), constant_values=1)
    tiles = np.asarray(filled).reshape(-1, block.tile)
    return np.pad(tiles, ((0, block.groups * ROWS - len(tiles)), (0, 0)), constant_values=1)


BLOCKS = [Block(2, 32, 32, 128), Block(24, 5, 5, 128), Block(1, 88, 86, 128), Block(4, 20, 20, 32), Block(8, 9, 9, 128)]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("block", BLOCKS)
def test_products_with_powers_of_two_pack(block, bits):
    """And the sums with the other matrix, shifted, are what was packed."""
    x = np.random.default_rng(0).integers(0, 2**bits, (block.rows, block.width), np.uint8)
    planes, tiles = Planes(block, bits), kernel_rows(x, block).reshape(block.groups, ROWS, block.tile)
    packed = np.concatenate(
        [
            sum(np.asarray(planes.factors(chunk, group)) @ tiles[group] for group in range(block.groups))
            for chunk in range(planes.chunks)
        ]
    )
    expected = np.asarray(pack(jnp.asarray(x), bits))
    assert expected.shape[1] == plane_bytes(block.width, bits)
    np.testing.assert_array_equal(packed[: planes.used].reshape(expected.shape), expected)
    found = []
    for group in range(block.groups):
        total = np.zeros((ROWS, block.tile), np.int32)
        for chunk in range(planes.chunks):
            total += (np.asarray(planes.source(group, chunk)) @ packed[chunk * ROWS : (chunk + 1) * ROWS]).astype(
                np.int32
            )
        found.append((total >> np.asarray(planes.shift(group))) & (2**bits - 1))
    back = np.concatenate(found)[: block.used].reshape(block.rows, -1)[:, : block.width]
    np.testing.assert_array_equal(back, unpack(jnp.asarray(expected), block.width, bits))


@pytest.mark.parametrize("count", [1, 3, 24, 48, 50, 64])
@pytest.mark.parametrize("block", BLOCKS)
def test_rows_and_bytes_by_blocks_come_back(count, block):
    """Blocks begin at whole units and take every row, the last ones some of them twice."""
    rows, planes = Rows.of(count, block), Planes(block, 1)
    x = jnp.arange(count * block.width, dtype=jnp.float32).reshape(count, -1)
    np.testing.assert_array_equal(rows.whole(rows.padded(x), count), x)
    starts = [min(i * block.used, rows.total * block.tiles - block.used) for i in range(rows.blocks)]
    assert all(start % UNIT == 0 for start in starts)
    assert set(range(count * block.tiles)) <= {start + i for start in starts for i in range(block.used)}
    words = pack(jnp.asarray(np.random.default_rng(0).random((count, block.width)) < 0.5), 1)
    by_block = rows.bytes_of(words, planes)
    assert by_block.shape == (rows.blocks * planes.stored, block.tile)
    first = np.asarray(by_block).reshape(rows.blocks, planes.stored, -1)[-1, : planes.used].reshape(block.rows, -1)
    last_rows = np.pad(np.asarray(words), ((0, rows.total - count), (0, 0)))[-block.rows :]
    np.testing.assert_array_equal(first.view(np.uint8), last_rows)
    np.testing.assert_array_equal(rows.of_bytes(by_block, planes, count), words)
