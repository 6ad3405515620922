"""The codes and scales of rows on Hopper (Mosaic GPU): cut, rotated and measured as in `project`.

    tile (64, 128) in registers --> code of every value --> a byte each (64, 128) in shared memory --> memory
                                --> scale of every row of the tile, or of every group of it --> memory

A code leaves the kernel as a byte; XLA packs smaller ones.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from ..bitplanes import pack, plane_bytes
from ..codes import CodedGrid, Encoded, code_bits, code_of, coded_grid, encoded_spec, group_count
from ..spec import Spec
from . import project as gpu
from .tiles import Interleave, Tiles, call


def unsupported(spec: Spec, shape: tuple[int, ...], dtype: DTypeLike) -> str | None:
    """Why this kernel cannot encode rows of this shape, or None where it can."""
    return gpu.unsupported(spec, shape, dtype)


def encode(spec: Spec, x_RK: Array, given_R1: Array | None = None, *, interpret: bool = False) -> Encoded:
    """Codes of rows as `reference.encode`, on Hopper."""
    (rows, width), grid, spec = x_RK.shape, coded_grid(spec), encoded_spec(spec)
    bits, groups = code_bits(grid), group_count(spec, width)
    if not rows:
        return Encoded(jnp.zeros((0, plane_bytes(width, bits)), jnp.uint8), jnp.zeros((0, groups), jnp.float32))
    interleave = gpu.whole_interleave(spec, width)
    x, operands = gpu.operands_of(spec, interleave, x_RK, given_R1, interpret=interpret)
    leaves, structure = jax.tree.flatten(operands)
    padded = operands.x.shape
    out_type = (
        jax.ShapeDtypeStruct(padded, jnp.int8),
        jax.ShapeDtypeStruct(padded if interleave.narrow else (_parts(interleave), padded[0]), jnp.float32),
    )
    body = partial(_encode, spec, grid, structure)
    codes, scales = call(body, leaves, out_type, interleave=interleave, rotation=spec.rotation, interpret=interpret)
    code = lax.bitcast_convert_type(codes[: x.shape[0]], jnp.uint8).reshape(x_RK.shape)
    tiles = slice(0, x.shape[0], interleave.shared // interleave.tile)  # the first of those that share a scale
    scale = scales[tiles, : interleave.strip] if interleave.narrow else scales[:, tiles].T
    return Encoded(pack(code, bits), scale.reshape(rows, groups))


def _parts(interleave: Interleave) -> int:
    """Scales of a tile of the kernel, where each is that of a part of it or of all."""
    return 1 if interleave.group is None else len(interleave.starts)


def _encode(spec: Spec, grid: CodedGrid, structure: Any, tiles: Tiles, *refs: Any) -> None:
    codes_ref, scales_ref = refs[structure.num_leaves :]
    source = gpu.Source.of(spec, tiles, structure.unflatten(refs[: structure.num_leaves]))
    parts = source.parts()
    of_row = source.of_row(parts)
    if of_row is not None:
        tiles.store_column(scales_ref.at[0], of_row)
    codes, scales = [], []
    for i, part in enumerate(parts):
        found = [of_row] if of_row is not None else source.of_groups(part)
        scaled = source.spread(found, part)
        codes.append([code_of(grid, x, s).astype(jnp.float32) for x, s in zip(part, scaled, strict=True)])
        scales.append(scaled)
        if of_row is None and not tiles.interleave.narrow:
            tiles.store_column(scales_ref.at[i], found[0])
    tiles.store(codes_ref, tiles.gathered_bytes(tiles.joined(codes)).astype(jnp.int32).astype(jnp.int8))
    if tiles.interleave.narrow:
        tiles.store(scales_ref, tiles.joined(scales))
