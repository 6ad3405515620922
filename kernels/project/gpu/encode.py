"""The codes and scales of rows on Hopper (Mosaic GPU): cut, rotated and measured as in `project`.

    strips (64, columns) in registers --> code of every value --> tiles (64, 128) of codes in shared memory
                                      --> scale of every tile, or of every group of it --> memory
    tiles of codes of a row --> bytes, by a product with powers of two --> memory

A code leaves the kernel in its place of a byte: nothing is packed afterwards.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from ..bitplanes import plane_bytes
from ..codes import CodedGrid, Encoded, code_bits, code_of, coded_grid, encoded_spec, group_count
from ..spec import Spec
from . import project as gpu
from .cut import Interleave, Planes
from .launch import call
from .rows import Operand, Rows, factor_memory
from .tiles import Tiles


def unsupported(spec: Spec, shape: tuple[int, ...], dtype: DTypeLike) -> str | None:
    """Why this kernel cannot encode rows of this shape, or None where it can."""
    if (reason := gpu.unsupported(spec, shape, dtype)) is not None:
        return reason
    return gpu.unsupported(spec, shape, dtype, _beside(gpu.whole_interleave(spec, shape[1])))


def _beside(interleave: Interleave) -> int:
    """Bytes of shared memory for what is written of a value: its code, and its scale where tiles of these are."""
    return 1 + (4 if interleave.narrow else 0)


def encode(spec: Spec, x_RK: Array, given_R1: Array | None = None, *, interpret: bool = False) -> Encoded:
    """Codes of rows as `reference.encode`, on Hopper."""
    (count, width), grid, spec = x_RK.shape, coded_grid(spec), encoded_spec(spec)
    bits, groups = code_bits(grid), group_count(spec, width)
    if not count:
        return Encoded(jnp.zeros((0, plane_bytes(width, bits)), jnp.uint8), jnp.zeros((0, groups), jnp.float32))
    beside = _beside(gpu.whole_interleave(spec, width))
    source = gpu.Source.of(spec, width, x_RK.dtype.itemsize + beside)
    rows, planes, interleave = Rows.of(count, source.block), Planes(source.block, bits), source.interleave
    # Of a tile, of each group that is a part of it, or of those that its narrow strips hold, in a tile.
    of_parts = 1 if interleave.group is None or interleave.narrow else len(interleave.starts)
    of_scales = [Operand("tiles" if interleave.narrow else "column", jnp.dtype(jnp.float32))] * of_parts
    codes, *scales = call(
        partial(_encode, source, grid),
        source.operands(rows, x_RK, given_R1),
        [Operand("bytes", jnp.dtype(jnp.int8), planes), *of_scales],
        rows=rows,
        interleave=interleave,
        rotation=spec.rotation,
        gathers=True,
        scratch=source.memory() | factor_memory(source.block.tile, interleave),
        interpret=interpret,
    )
    of_tiles = scales[0][:, : interleave.strip] if interleave.narrow else jnp.stack(scales, axis=1)
    of_rows = of_tiles.reshape(rows.total, source.block.tiles, -1)[:count, : source.block.real]
    scale = of_rows[:, :: interleave.shared // interleave.tile]  # the first of those that share one
    return Encoded(rows.of_bytes(codes, planes, count), scale.reshape(count, groups))


def _encode(source: gpu.Source, grid: CodedGrid, tiles: Tiles, operands: list[Any], results: list[Any]) -> None:
    spec, interleave, x = source.spec, source.interleave, operands[0]
    given_ref = operands[1] if spec.scale is not None and spec.scale.given else None
    codes, *scales = results
    planes = Planes(source.block, code_bits(grid))
    source.measure(tiles, x)

    def encoded(group: Any) -> None:
        given = None if given_ref is None else given_ref[group]
        of_row = source.of_row(tiles, x, group, given)
        if of_row is not None:
            scales[0][group] = of_row
        for i, starts in enumerate(interleave.starts):
            part = tiles.strips(x, group, starts)
            found = [of_row] if of_row is not None else source.of_groups(part, given)
            spread = source.spread(found, part)
            tiles.write_factor(
                starts,
                [code_of(grid, value, scale).astype(jnp.float32) for value, scale in zip(part, spread, strict=True)],
            )
            if interleave.narrow:
                tiles.write(scales[0], group, starts, spread)
            elif of_row is None:
                scales[i][group] = found[0]
        tiles.to_bytes(group, planes, codes)

    tiles.clear(codes, planes)
    tiles.each(encoded)
    tiles.gather_bytes(codes, planes)
