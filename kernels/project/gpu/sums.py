"""Sums over several tiles on Hopper (Mosaic GPU): largest magnitudes and exact sums of squares.

Every tile is measured by a block of its own, and XLA puts those of a row together. Maxima and integer sums have the
same bits in any order, and a matrix has thousands of tiles where it has 64 times fewer blocks of rows than rows: one
block for 64 whole rows left half of an H200 idle at 4096 x 4096.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..spec import Spec
from . import strips
from .tiles import Interleave, Tiles, call

Reads = Callable[[Tiles, Any], list[Array]]
"""Measures of a tile: strips, float32."""


def _survivors(spec: Spec, tiles: Tiles, x_ref: Any) -> list[Array]:
    """Values that the pattern leaves."""
    interleaved = tiles.interleaved(tiles.load(x_ref).astype(jnp.float32))
    return [x for part in tiles.interleave.strips(interleaved) for x in strips.measured(spec, part)]


def _everything(tiles: Tiles, x_ref: Any) -> list[Array]:
    """All values, whatever survives; in any order of the columns."""
    return [tiles.rotate(tiles.load(x_ref).astype(jnp.float32))]


def measure(
    spec: Spec,
    interleave: Interleave,
    x: Array,
    count: int,
    *,
    size: int,
    survivors: bool,
    squares: bool,
    interpret: bool,
) -> strips.Sums:
    """Sums over all tiles that each tile stands with, a number for each tile of `x` (padded to blocks).

    `count`: tiles that are not padding; `size`: values that share; `survivors`: whether of those alone that the pattern
    leaves; `squares`: whether limbs are summed.
    """
    column = jax.ShapeDtypeStruct((x.shape[0],), jnp.float32)
    reads: Reads = partial(_survivors, spec) if survivors else _everything
    if not survivors:  # neighbours need not meet, which spares a product and its matrix
        interleave = Interleave(interleave.shared, interleave.tile, strip=interleave.tile)
    run = partial(call, interleave=interleave, rotation=spec.rotation, interpret=interpret, gathers=False)

    def together(column: Array, combine: Callable[[Array], Array]) -> Array:
        shared = combine(lax.bitcast_convert_type(column[:count].reshape(-1, size // interleave.tile), jnp.int32))
        return jnp.pad(jnp.repeat(shared, size // interleave.tile), (0, x.shape[0] - count))

    def total(column: Array) -> Array:
        return together(column, partial(jnp.sum, axis=1, dtype=jnp.int32)).astype(jnp.float32)

    (found,) = run(partial(_largest, reads), [x], (column,))
    largest = lax.bitcast_convert_type(together(found, partial(jnp.max, axis=1)), jnp.float32)
    if not squares:
        return strips.Sums(largest)
    highs, lows = run(partial(_limbs, reads, size), [x, largest], (column, column))
    return strips.Sums(largest, total(highs), total(lows))


def _largest(reads: Reads, tiles: Tiles, x_ref: Any, out_ref: Any) -> None:
    tiles.store_column(out_ref, strips.largest(reads(tiles, x_ref)))


def _limbs(reads: Reads, size: int, tiles: Tiles, x_ref: Any, *refs: Any) -> None:
    """Integers leave as bits of float32, as which columns are moved."""
    largest_ref, *sums_refs = refs
    (largest,) = tiles.columns([largest_ref])
    for ref, sums in zip(sums_refs, strips.limb_sums(reads(tiles, x_ref), largest, size), strict=True):
        tiles.store_column(ref, lax.bitcast_convert_type(sums, jnp.float32))
