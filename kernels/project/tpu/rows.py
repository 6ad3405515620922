"""Measures of the rows of a strip on a TPU: the scales of their groups, and their root mean square.

A measure is that of `columns`: (N, 8, R), N groups of a tile, one where a group takes whole tiles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from ...rms.reference import from_sums, limb_bits, powers
from ..affine import LOWEST, Extremes, from_order, order
from ..bitplanes import LANES
from ..spec import Spec
from . import columns


class Refs(NamedTuple):
    """Memory of a forward kernel: a block of rows, and scratch for a strip of them, turned.

    `load(here, c)`: tile c of these rows, rotated, (128, R). `full`: all tiles of the strip below each other, `bits`
    their mask, `work` a tile. `zero`: see `columns.unknown_zero`. `codes`: see `beside`.
    """

    x: Any
    given: Any
    load: Callable[[Any, Array], Array]
    full: Any
    zero: Array
    words: Any = None
    value: Any = None
    mask: Any = None
    bits: Any = None
    work: Any = None
    codes: Any = None


def run_of(number: Any) -> Any:
    """The 128 columns of a tile in its row, and its rows in scratch."""
    return pl.ds(first(number), LANES)


def first(number: Any) -> Any:
    """Number of the first column of a tile."""
    return pl.multiple_of(number * LANES, LANES)


class Tiles(NamedTuple):
    """A run of `tiles` tiles, up to `at_once` of which are in a trip of the loop: one is worked on as others wait."""

    begin: Any
    tiles: int
    at_once: int

    def __call__(self, step: Callable[[Any, Any], Any], carried: Any) -> Any:
        """Result of `step(c, carried)` for every tile c, one after the other."""

        def several(tiles: list[Any], carried: Any) -> Any:
            for c in tiles:
                carried = step(c, carried)
            return carried

        return self.together(several, carried)

    def longer(self, step: Callable[[Any, Any], Any], carried: Any) -> Any:
        """As a call, with twice as many tiles in a trip: for little work on what has to wait for the matrix unit."""
        return self._replace(at_once=2 * self.at_once)(step, carried)

    def together(self, step: Callable[[list[Any], Any], Any], carried: Any = None) -> Any:
        """Result of `step(tiles, carried)` for the tiles of every trip, one after the other."""
        trips = -(-self.tiles // self.at_once)
        size = self.tiles // trips

        def trip(i: Any, carried: Any) -> Any:
            return step([self.begin + i * size + place for place in range(size)], carried)

        carried = lax.fori_loop(0, trips, trip, carried) if trips > 1 else trip(0, carried)
        rest = [self.begin + place for place in range(trips * size, self.tiles)]
        return step(rest, carried) if rest else carried


def measure_scale(spec: Spec, ref: Refs, here: Any, size: int, each: Tiles, *, loaded: bool = False) -> Any:
    """The scale of a group of `size` values, with its offset where the rule gives one; None without a rule.

    Tiles of the group are rotated into scratch, unless they are `loaded`.
    """
    if spec.scale is None and loaded:
        return None
    zero = _zero(ref, size)

    def measured(c: Array, full: Array) -> Array:
        if not spec.measured_on_survivors:
            return full
        assert spec.pattern is not None
        return jnp.where(columns.survivors(spec.pattern, ref.full, first(c), ref.work)[0], full, 0.0)

    def tile(c: Array) -> Array:
        return ref.full[run_of(c), :] if loaded else _load(ref, here, c)

    if spec.scale is not None and spec.scale.statistic == "extremes":
        return spec.scale(_extremes(lambda c: order(measured(c, tile(c))), each, zero, size), None)

    def read(c: Array, largest: Array) -> Array:
        full = tile(c)
        return _further(largest, columns.magnitude_bits(measured(c, full)), size) if spec.scale else largest

    patterns = each.longer(read, zero)
    if spec.scale is None:
        return None
    statistic = largest = _magnitude(patterns, size)
    if spec.scale.statistic == "rms":
        statistic = _root_mean_square(
            ref, lambda c: measured(c, ref.full[run_of(c), :]), each, largest=largest, size=size, share=spec.share
        )
    return spec.scale(statistic, None if ref.given is None else _given(ref, here, largest.shape))


def over_groups(
    spec: Spec,
    ref: Refs,
    here: Any,
    at_once: int,
    write: Callable[[list[Any], list[Any]], None],
    *,
    measured: Callable[[Any, Any], None] = lambda g, scale: None,
    loaded: bool = False,
) -> None:
    """Measures the groups of a strip one after the other, then `write(tiles, scales)` all of their tiles.

    `measured(g, scale)`: called once for each tile g where groups share tiles, else for each group. `loaded`: see
    `measure_scale`.
    """
    width = ref.full.shape[0]
    size = spec.group or width
    tiles = max(size // LANES, 1)

    def scale_of(g: Any, of: Tiles) -> Any:
        scale = measure_scale(spec, ref, here, size, of, loaded=loaded)
        measured(g, scale)
        return scale

    def several(groups: list[Any], _: None) -> None:
        write(groups, [scale_of(g, Tiles(g, 1, 1)) for g in groups])

    def one(g: Any, _: None) -> None:
        of = Tiles(g * tiles, tiles, at_once)
        scale = scale_of(g, of)
        of.together(lambda tiles, _: write(tiles, [scale] * len(tiles)))

    if tiles == 1:
        Tiles(0, width // LANES, at_once).together(several)
    else:
        Tiles(0, width // (LANES * tiles), 1)(one, None)


def row_rms(ref: Refs, here: Any, each: Tiles) -> Array:
    """The root mean square of whole rows, all tiles of which it rotates into scratch."""
    size = ref.full.shape[0]
    zero = _zero(ref, size)
    patterns = each(lambda c, largest: _further(largest, columns.magnitude_bits(_load(ref, here, c)), size), zero)
    largest = _magnitude(patterns, size)
    return _root_mean_square(ref, lambda c: ref.full[run_of(c), :], each, largest=largest, size=size)


def _zero(ref: Refs, size: int) -> Array:
    """A measure of every run of `size` values, before anything is measured."""
    return jnp.zeros((LANES // max(min(size, LANES), columns.SUBLANES), columns.SUBLANES, ref.full.shape[1]), jnp.int32)


def _further(largest: Array, tile: Array, size: int) -> Array:
    return jnp.maximum(largest, columns.gathered(tile, size, jnp.maximum))


def _given(ref: Refs, here: Any, shape: tuple[int, ...]) -> Array:
    """The given number of every row, for a measure of that shape."""
    turned = jnp.broadcast_to(ref.given[here, :], (shape[2], LANES)).T
    return jnp.broadcast_to(turned[: shape[1]][None], shape)


def _extremes(read: Callable[[Array], Array], each: Tiles, zero: Array, size: int) -> Extremes:
    """Both ends of a group of `size` values, from the `order` that `read` gives of tiles."""

    def further(c: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        key = read(c)
        return _further(ends[0], -key, size), _further(ends[1], key, size)

    start = (zero + LOWEST, zero + LOWEST)
    low, high = (columns.over(end, size, jnp.maximum) for end in each(further, start))
    return Extremes(from_order(-low), from_order(high))


def _load(ref: Refs, here: Any, c: Array) -> Array:
    """Tile `c`, rotated and turned, and kept in scratch."""
    full = ref.load(here, c)
    ref.full[run_of(c), :] = full
    return full


def _magnitude(patterns: Array, size: int) -> Array:
    """The largest of a group of `size` values, from the largest of `columns.magnitude_bits` on each of its sublanes."""
    return lax.bitcast_convert_type(columns.over(patterns, size, jnp.maximum), jnp.float32)


def _root_mean_square(
    ref: Refs, read: Callable[[Array], Array], each: Tiles, *, largest: Array, size: int, share: float | None = None
) -> Array:
    """As `rms.root_mean_square`, bit for bit, over the `size` values that `read` gives of tiles; `largest`: of them."""
    (power, inverse), zero = powers(largest), _zero(ref, size)
    limbs = columns.Limbs(limb_bits(size), ref.x.dtype == jnp.bfloat16, ref.zero)
    spread = columns.spread(inverse)

    def add(c: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        high, low = limbs.sums(read(c), spread, size)
        return sums[0] + high, sums[1] + low

    highs, lows = (
        (columns.over(total, size, jnp.add) - excess).astype(jnp.float32)
        for total, excess in zip(each(add, (zero, zero)), limbs.excess(size), strict=True)
    )
    of = None if share is None else jnp.full(largest.shape, share, jnp.float32)
    return from_sums(highs, lows, largest=largest, power=power, bits=limbs.bits, count=size, share=of)
