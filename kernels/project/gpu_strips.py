"""What happens to a tile on Hopper, strip by strip.

Every array is a strip (64, columns) of a tile, or a number of each row, (64,). Neighbours in a row stand in the same
place of strips that follow each other, so that what `reference` writes as a reshape is here a list.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ..hopper import sqrt
from ..rms.reference import from_sums, limb_bits, limbs, powers
from .rules import evaluate
from .scales import normalised
from .spec import Codebook, Measures, Pattern, Spec, nearest_word, on_grid, radius_of, rounded

Read = Callable[[Any], list[Array]]
"""Strips of tile c."""
Each = Callable[[Callable[[Any, Any], Any], Any], Any]
"""`each(step, start)`: what `step(c, carried)` carries through every tile c of a row."""


def once(step: Callable[[Any, Any], Any], start: Any) -> Any:
    """`Each` of a single tile."""
    return step(0, start)


def project(
    spec: Spec,
    strips: list[Array],
    scales: Callable[[list[Array]], list[Array]],
    word: Callable[[Any], list[Any]],
    rms: Array | None = None,
) -> tuple[list[Array], list[Array | None]]:
    """Values of strips, float32, and where the gradient passes; see `reference.project`.

    `scales`: those of each strip, from the strips that they are measured on. `word`: a row of the codebook's table.
    `rms`: what the mask reads of every row, (64,).
    """
    nothing: list[Any] = [None] * len(strips)
    keep, threshold = survivors(spec.pattern, strips) if spec.pattern else (nothing, nothing)
    found: list[tuple[Array, Measures]] = []
    if spec.scale is None:
        found += [(jnp.where(stays, x, 0.0), Measures(keep=stays)) for x, stays in zip(strips, keep, strict=True)]
    elif spec.codebook is None:
        scaled = scales(measured(spec, strips, keep))
        found += [on_grid(spec, *of) for of in zip(strips, scaled, keep, strict=True)]
    else:
        scaled, size = scales(strips), spec.codebook.dimension
        for start in range(0, len(strips), size):
            vector = slice(start, start + size)
            found += on_codebook(spec.codebook, word, strips[vector], scaled[vector])
    spread = None if rms is None else lax.broadcast_in_dim(rms, strips[0].shape, (0,))
    passes = [
        evaluate(spec.mask, x, measures._replace(threshold=t, rms=spread)) if spec.mask else None
        for x, (_, measures), t in zip(strips, found, threshold, strict=True)
    ]
    return [value for value, _ in found], passes


def measured(spec: Spec, strips: list[Array], keep: list[Any] | None = None) -> list[Array]:
    """What the scale is that of: survivors alone, or all. `keep`: which survive, where that is known."""
    if spec.pattern is None or not spec.measured_on_survivors:
        return strips
    keep = survivors(spec.pattern, strips)[0] if keep is None else keep
    return [jnp.where(stays, x, 0.0) for x, stays in zip(strips, keep, strict=True)]


def survivors(pattern: Pattern, strips: list[Array]) -> tuple[list[Array], list[Array]]:
    """Which entries stay, and the smallest kept magnitude of each run; see `reference.survivors`."""
    kept, unit = pattern.n // pattern.unit, pattern.unit
    keep, threshold = [], []
    for start in range(0, len(strips), pattern.m):
        units = [strips[first : first + unit] for first in range(start, start + pattern.m, unit)]
        sizes = [jnp.abs(members[0]) if unit == 1 else root_mean_square(members) for members in units]
        ranks = []
        for i, size in enumerate(sizes):
            wins = [rival >= size if j < i else rival > size for j, rival in enumerate(sizes) if j != i]
            # In float32: sums of bits as integers are narrowed to bits, which Mosaic GPU does not convert.
            ranks.append(reduce(jnp.add, [jnp.where(win, jnp.float32(1), jnp.float32(0)) for win in wins]))
        last = [jnp.where(rank == kept - 1, size, 0.0) for rank, size in zip(ranks, sizes, strict=True)]
        keep += [rank < kept for rank in ranks for _ in range(unit)]
        threshold += [reduce(jnp.add, last)] * pattern.m
    return keep, threshold


def on_codebook(
    codebook: Codebook, word: Callable[[Any], list[Any]], vector: list[Array], scales: list[Array]
) -> list[tuple[Array, Measures]]:
    """The nearest codeword of every vector, scaled, coordinate by coordinate; see `reference.on_codebook`."""
    normal = [normalised(x, scale) for x, scale in zip(vector, scales, strict=True)]
    chosen = nearest_word(len(codebook.words), word, normal)
    radius = radius_of(codebook, normal, sqrt)
    return [
        (jnp.where(jnp.abs(x) < jnp.inf, rounded(level * scale), x), Measures(radius=radius))
        for x, level, scale in zip(normal, chosen, scales, strict=True)
    ]


def measure(spec: Spec, read: Read, each: Each, *, shape: tuple[int, ...], size: int, given: Array | None) -> Array:
    """The scale of what `read` gives of `each` tile: of each row, shape (64,), or of each column of the strips.

    `size`: how many values share it; `given` (64,): the number that the rule reads for every row.
    """
    assert spec.scale is not None
    given = given if given is None or len(shape) == 1 else lax.broadcast_in_dim(given, shape, (0,))
    zero = jnp.zeros(shape, jnp.int32)
    match spec.scale.statistic:
        case "none":
            statistic = None
        case "largest":
            statistic = _largest(read, each, zero)
        case "rms":
            statistic = _root_mean_square(read, each, zero, size, spec.share)
    return spec.scale(statistic, given)


def row_root_mean_square(read: Read, each: Each, *, shape: tuple[int, ...], size: int) -> Array:
    """RMS of the `size` values that `read` gives of all tiles of `each`, one for each row."""
    return _root_mean_square(read, each, jnp.zeros(shape, jnp.int32), size, None)


def root_mean_square(strips: list[Array]) -> Array:
    """RMS of what stands in the same place of all strips."""
    zero = jnp.zeros(strips[0].shape, jnp.int32)
    return _root_mean_square(lambda _: strips, once, zero, len(strips), None)


def _over(
    strips: list[Array], zero: Array, combine: Callable[[Array, Array], Array], along: Callable[..., Array]
) -> Array:
    """`combine` over strips, and `along` the row where the result is a number of each row."""
    total = reduce(combine, strips)
    return along(total, axis=1) if zero.ndim == 1 else total


def _largest(read: Read, each: Each, zero: Array) -> Array:
    """By the bits, which order as magnitudes do, NaN above all."""

    def step(c: Any, largest: Array) -> Array:
        patterns = [lax.bitcast_convert_type(jnp.abs(x), jnp.int32) for x in read(c)]
        return jnp.maximum(largest, _over(patterns, zero, jnp.maximum, jnp.max))

    return lax.bitcast_convert_type(each(step, zero), jnp.float32)


def _root_mean_square(read: Read, each: Each, zero: Array, size: int, share: float | None) -> Array:
    """As `rms.root_mean_square`, bit for bit."""
    largest = _largest(read, each, zero)
    power, inverse = powers(largest)
    bits = limb_bits(size)

    def step(c: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        strips = read(c)
        by = inverse if zero.ndim > 1 else lax.broadcast_in_dim(inverse, strips[0].shape, (0,))
        highs, lows = zip(*(limbs(x, by, bits) for x in strips), strict=True)
        total = partial(_over, zero=zero, combine=jnp.add, along=jnp.sum)
        return sums[0] + total(list(highs)), sums[1] + total(list(lows))

    highs, lows = (total.astype(jnp.float32) for total in each(step, (zero, zero)))
    of = None if share is None else jnp.full(largest.shape, share, jnp.float32)
    return from_sums(highs, lows, largest=largest, power=power, bits=bits, count=size, share=of, sqrt=sqrt)
