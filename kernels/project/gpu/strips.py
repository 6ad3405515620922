"""Projection of a tile on Hopper, strip by strip.

Every array is a strip (64, columns) of a tile, or a number of each row, (64,). Neighbours in a row stand in the same
place of strips that follow each other, so that what `reference` writes as a reshape is here a list.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ...hopper import ROWS, sqrt
from ...rms.reference import from_sums, limb_bits, limbs, powers
from ..affine import LOWEST, Extremes, from_order, order
from ..projection import Projection, on_grid, rounded
from ..rules import evaluate
from ..scales import normalised
from ..spec import Codebook, Pattern, Spec, nearest_word, radius_of


def project(
    spec: Spec,
    strips: list[Array],
    scales: Callable[[list[Array]], list[Any]],
    word: Callable[[Any], list[Any]],
    rms: Array | None = None,
) -> tuple[list[Array], list[Array | None]]:
    """Values of strips, float32, and where the gradient passes; see `reference.project`.

    `scales`: those of each strip, from the strips that they are measured on. `word`: a row of the codebook's table.
    `rms`: what the mask reads of every row, (64,).
    """
    nothing: list[Any] = [None] * len(strips)
    keep, threshold = survivors(spec.pattern, strips) if spec.pattern else (nothing, nothing)
    found: list[Projection] = []
    if spec.scale is None:
        found += [Projection(jnp.where(stays, x, 0.0), keep=stays) for x, stays in zip(strips, keep, strict=True)]
    elif spec.grid is not None:
        scaled = scales(measured(spec, strips, keep))
        found += [on_grid(spec.grid, *of) for of in zip(strips, scaled, keep, strict=True)]
    else:
        assert spec.codebook is not None
        scaled, size = scales(strips), spec.codebook.dimension
        for start in range(0, len(strips), size):
            vector = slice(start, start + size)
            found += on_codebook(spec.codebook, word, strips[vector], scaled[vector])
    spread = None if rms is None else lax.broadcast_in_dim(rms, strips[0].shape, (0,))
    passes = [
        evaluate(spec.mask, x, projection._replace(threshold=t, rms=spread)) if spec.mask else None
        for x, projection, t in zip(strips, found, threshold, strict=True)
    ]
    return [projection.value for projection in found], passes


def measured(spec: Spec, strips: list[Array], keep: list[Any] | None = None) -> list[Array]:
    """Values that the scale is measured on: survivors alone, or all. `keep`: which survive, where that is known."""
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
) -> list[Projection]:
    """The nearest codeword of every vector, scaled, coordinate by coordinate; see `reference.on_codebook`."""
    normal = [normalised(x, scale) for x, scale in zip(vector, scales, strict=True)]
    chosen = nearest_word(len(codebook.words), word, normal)
    radius = radius_of(codebook, normal, sqrt)
    return [
        Projection(jnp.where(jnp.abs(x) < jnp.inf, rounded(level * scale), x), relative_magnitude=radius)
        for x, level, scale in zip(normal, chosen, scales, strict=True)
    ]


class Sums(NamedTuple):
    """Statistic of all values that share a scale: a number of each row, or of each column of the strips."""

    largest: Array
    highs: Array | None = None
    """Sums of both limbs relative to the largest magnitude, float32; None where no root mean square is asked for."""
    lows: Array | None = None

    def root_mean_square(self, size: int, share: float | None = None) -> Array:
        """As `rms.root_mean_square` of `size` values, bit for bit."""
        assert self.highs is not None
        assert self.lows is not None
        power, _ = powers(self.largest)
        of = None if share is None else jnp.full(self.largest.shape, share, jnp.float32)
        return from_sums(
            self.highs,
            self.lows,
            largest=self.largest,
            power=power,
            bits=limb_bits(size),
            count=size,
            share=of,
            sqrt=sqrt,
        )


def end_keys(strips: list[Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Both ends of the strips as integers, of which greater ones lie farther out; see `ends`."""
    keys = [order(x) for x in strips]
    start = jnp.full(shape, LOWEST, jnp.int32)
    low, high = (
        jnp.maximum(start, _over(sides, shape, jnp.maximum, jnp.max)) for sides in ([-key for key in keys], keys)
    )
    return low, high


def ends(low: Array, high: Array) -> Extremes:
    """Both ends of what the greatest `end_keys` are of."""
    return Extremes(from_order(-low), from_order(high))


def scale_of(spec: Spec, measured: Any, size: int, given: Array | None) -> Any:
    """The scale of `size` values; `measured`: `Sums`, `Extremes`, or None where the rule reads the `given` alone."""
    assert spec.scale is not None
    match spec.scale.statistic:
        case "none" | "extremes":
            return spec.scale(measured, given)
        case "largest":
            return spec.scale(measured.largest, given)
        case "rms":
            return spec.scale(measured.root_mean_square(size, spec.share), given)


def measure(spec: Spec, strips: list[Array], *, shape: tuple[int, ...], size: int, given: Array | None) -> Any:
    """The scale of the strips, which are all that share it: of each row, shape (64,), or of each column of theirs.

    With its offset, where the rule gives one. `size`: how many values share it; `given` (64,): the number that the
    rule reads for every row.
    """
    assert spec.scale is not None
    given = given if given is None or len(shape) == 1 else lax.broadcast_in_dim(given, shape, (0,))
    match spec.scale.statistic:
        case "none":
            measured = None
        case "extremes":
            measured = ends(*end_keys(strips, shape))
        case "largest":
            measured = Sums(largest(strips, shape))
        case "rms":
            measured = _sums(strips, shape, size)
    return scale_of(spec, measured, size, given)


def root_mean_square(strips: list[Array]) -> Array:
    """RMS of what stands in the same place of all strips."""
    return _sums(strips, strips[0].shape, len(strips)).root_mean_square(len(strips))


def _sums(strips: list[Array], shape: tuple[int, ...], size: int) -> Sums:
    greatest = largest(strips, shape)
    highs, lows = limb_sums(strips, greatest, size)
    return Sums(greatest, highs.astype(jnp.float32), lows.astype(jnp.float32))


def largest(strips: list[Array], shape: tuple[int, ...] = (ROWS,)) -> Array:
    """Largest magnitude of the strips; by the bits, which order as magnitudes do, NaN above all."""
    patterns = [lax.bitcast_convert_type(jnp.abs(x), jnp.int32) for x in strips]
    found = jnp.maximum(jnp.zeros(shape, jnp.int32), _over(patterns, shape, jnp.maximum, jnp.max))
    return lax.bitcast_convert_type(found, jnp.float32)


def limb_sums(strips: list[Array], largest: Array, size: int) -> tuple[Array, Array]:
    """Int32 sums of both limbs of the strips' squares, of the shape of `largest`; `size` values share that."""
    _, inverse = powers(largest)
    by = inverse if largest.ndim > 1 else lax.broadcast_in_dim(inverse, strips[0].shape, (0,))
    highs, lows = zip(*(limbs(x, by, limb_bits(size)) for x in strips), strict=True)
    total = partial(_over, shape=largest.shape, combine=jnp.add, along=jnp.sum)
    return total(list(highs)), total(list(lows))


def _over(
    strips: list[Array], shape: tuple[int, ...], combine: Callable[[Array, Array], Array], along: Callable[..., Array]
) -> Array:
    """`combine` over strips, and `along` the row where the result is a number of each row."""
    total = reduce(combine, strips)
    return along(total, axis=1) if len(shape) == 1 else total
