"""Measures of the rows of a block on a TPU: the scales of their groups, and their root mean square.

What is measured stands in all lanes of its group, (rows of a tile, 128).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from ...rms.reference import from_sums, limb_bits, limbs, powers
from ..affine import LOWEST, Extremes, from_order, order
from ..bitplanes import LANES
from ..spec import Spec
from . import lanes

Each = Callable[[Callable[[Array, Any], Any], Any], Any]
"""`each(step, start)`: what `step(c, carried)` carries through every tile c of a group, or of a row."""


class Refs(NamedTuple):
    """Memory of a forward kernel: a block of rows, and scratch for one tile of them."""

    x: Any
    given: Any
    rotate: Callable[[Array], Array]
    full: Any
    words: Any = None
    value: Any = None
    mask: Any = None
    bits: Any = None


def column(number: Array) -> Any:
    """Lanes of a tile in its row."""
    return pl.ds(pl.multiple_of(number * LANES, LANES), LANES)


def measure_scale(spec: Spec, ref: Refs, here: Any, size: int, each: Each, *, loaded: bool = False) -> Any:
    """The scale of a group of `size` values, with its offset where the rule gives one; None without a rule.

    Tiles of the group are rotated into scratch, unless they are `loaded`.
    """
    if spec.scale is None and loaded:
        return None
    zero = jnp.zeros((ref.full.shape[0], LANES), jnp.int32)

    def measured(full: Array) -> Array:
        if not spec.measured_on_survivors:
            return full
        assert spec.pattern is not None
        return jnp.where(lanes.survivors(spec.pattern, full)[0], full, 0.0)

    def tile(c: Array) -> Array:
        return ref.full[:, column(c)] if loaded else _load(ref, here, c)

    if spec.scale is not None and spec.scale.statistic == "extremes":
        return spec.scale(_extremes(lambda c: order(measured(tile(c))), each, zero, size), None)

    def read(c: Array, largest: Array) -> Array:
        full = tile(c)
        return jnp.maximum(largest, lanes.magnitude_bits(measured(full))) if spec.scale else largest

    patterns = each(read, zero)
    if spec.scale is None:
        return None
    statistic = largest = _magnitude(patterns, size)
    if spec.scale.statistic == "rms":
        statistic = _root_mean_square(
            lambda c: measured(ref.full[:, column(c)]), each, zero, largest=largest, size=size, share=spec.share
        )
    given = None if ref.given is None else jnp.broadcast_to(ref.given[here, :], largest.shape)
    return spec.scale(statistic, given)


def _extremes(read: Callable[[Array], Array], each: Each, zero: Array, size: int) -> Extremes:
    """Both ends of a group of `size` values, from the `order` that `read` gives of tiles."""

    def further(c: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        key = read(c)
        return jnp.maximum(ends[0], -key), jnp.maximum(ends[1], key)

    start = (zero + LOWEST, zero + LOWEST)
    low, high = (lanes.over(end, min(size, LANES), jnp.maximum) for end in each(further, start))
    return Extremes(from_order(-low), from_order(high))


def row_rms(ref: Refs, here: Any) -> Array:
    """The root mean square of whole rows, all tiles of which it rotates into scratch."""
    zero, width = jnp.zeros((ref.full.shape[0], LANES), jnp.int32), ref.full.shape[1]

    def each(step: Callable[[Array, Any], Any], start: Any) -> Any:
        return lax.fori_loop(0, width // LANES, step, start)

    def read(c: Array, largest: Array) -> Array:
        return jnp.maximum(largest, lanes.magnitude_bits(_load(ref, here, c)))

    largest = _magnitude(each(read, zero), width)
    return _root_mean_square(lambda c: ref.full[:, column(c)], each, zero, largest=largest, size=width)


def _load(ref: Refs, here: Any, c: Array) -> Array:
    """Tile `c`, rotated, and kept in scratch."""
    full = ref.rotate(ref.x[here, column(c)].astype(jnp.float32))
    ref.full[:, column(c)] = full
    return full


def _magnitude(patterns: Array, size: int) -> Array:
    """The largest of a group of `size` values, from the largest of `lanes.magnitude_bits` in each lane of its tiles."""
    return lax.bitcast_convert_type(lanes.over(patterns, min(size, LANES), jnp.maximum), jnp.float32)


def _root_mean_square(
    read: Callable[[Array], Array], each: Each, zero: Array, *, largest: Array, size: int, share: float | None = None
) -> Array:
    """As `rms.root_mean_square`, bit for bit, over the `size` values that `read` gives of tiles; `largest`: of them."""
    power, inverse = powers(largest)
    bits, run = limb_bits(size), min(size, LANES)

    def add(c: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        high, low = limbs(read(c), inverse, bits)
        return sums[0] + high, sums[1] + low

    highs, lows = (lanes.over(s, run, jnp.add).astype(jnp.float32) for s in each(add, (zero, zero)))
    of = None if share is None else jnp.full(largest.shape, share, jnp.float32)
    return from_sums(highs, lows, largest=largest, power=power, bits=bits, count=size, share=of)
