"""Arithmetic on turned tiles of a TPU: 128 neighbouring values of a row below each other, a row in every lane.

A tile is (128, R). Neighbours lie in other registers, or on other sublanes of the same one, so that what is measured of
all of a row takes one register for 128 rows, and reductions need no move between lanes. What stands in `reference` as
a reshape and a reduction is here a tree over registers and rolls of the 8 sublanes, the same on interpreted and on
compiled kernels. Measures of runs of neighbours are (N, 8, R): N runs of a tile, their numbers on all sublanes that
belong to the run.
"""

import struct
from collections.abc import Callable
from itertools import pairwise
from math import frexp
from operator import truediv
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ...rms.reference import from_sums, limb_bits, limbs, powers
from ..bitplanes import LANES
from ..projection import Projection, rounded
from ..scales import Grid, normalised
from ..spec import Codebook, Pattern, nearest_word, radius_of

SUBLANES = 8  # of a register
AT_ONCE = 16  # codewords in a trip of the loop over them
Combine = Callable[[Array, Array], Array]


def gathered(x: Array, size: int, combine: Combine) -> Array:
    """`combine` over the registers of every run of `size` values, or of the tile where the run is longer: (N, 8, R)."""
    runs = LANES // max(min(size, LANES), SUBLANES)
    parts = x.reshape(runs, LANES // (runs * SUBLANES), SUBLANES, x.shape[1])
    return _tree([parts[:, i] for i in range(parts.shape[1])], combine)


def _tree(parts: list[Array], combine: Combine) -> Array:
    while len(parts) > 1:
        paired = [combine(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = paired + parts[len(paired) * 2 :]
    return parts[0]


def over(x: Array, size: int, combine: Combine) -> Array:
    """`combine` over every aligned run of `size` sublanes of (N, 8, R), or of all 8, in each of them."""
    sublane = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    unit = 1
    while unit < min(size, SUBLANES):
        down = pltpu.roll(x, unit, 1)
        if size >= SUBLANES:  # all meet all, whichever way round
            x = combine(x, down)
        else:
            x = combine(x, jnp.where((sublane & unit) == 0, pltpu.roll(x, SUBLANES - unit, 1), down))
        unit *= 2
    return x


def spread(measure: Array) -> Array:
    """(N, 8, R) to all values of a tile, (128, R)."""
    runs, _, rows = measure.shape
    parts = (runs, LANES // (runs * SUBLANES), SUBLANES, rows)
    return jnp.broadcast_to(measure[:, None], parts).reshape(LANES, rows)


def magnitude_bits(x: Array) -> Array:
    """|x| as an integer that orders like it."""
    return lax.bitcast_convert_type(jnp.abs(x), jnp.int32)


_POSITIVE, _SIGNED = 2.0**23, 1.5 * 2.0**23
"""Added to a float32 of 0 to 2^23, or of -2^22 to 2^22, either leaves the whole number nearest to it, ties to even, in
the low bits of the sum; so does either times a power of two for multiples of that."""
ROOM, MOST = 19, 23
"""Bits of a limb up to which squares, below 16, stay below 2^23 when scaled by it; and up to which halves stay 2^22."""


def unknown_zero(x_ref: Any, rows: int) -> Array:
    """Zeros that compilers do not know for such, (1, 8, `rows`): for numbers that are added to be taken away again.

    They are the signs of magnitudes.
    """
    some = x_ref[: 4 * SUBLANES, :LANES].astype(jnp.float32)[:SUBLANES, :rows]
    return lax.shift_right_logical(magnitude_bits(some), jnp.full(some.shape, 31, jnp.int32)).astype(jnp.float32)[None]


class Limbs(NamedTuple):
    """How the limbs of `rms.limbs` are rounded and summed. `exact`: squares are, those of bfloat16.

    What was added to round a number is not taken out of each one: sums are too large by `excess`. `zero`: see
    `unknown_zero`.
    """

    bits: int
    exact: bool
    zero: Array

    @property
    def _unscaled(self) -> bool:
        """Whether limbs are taken of squares as they are, and not times 2^bits."""
        return self.exact and self.bits <= ROOM

    @property
    def _shifts(self) -> tuple[float, float]:
        """Numbers that round a square to its first limb, and the rest of it to the second."""
        unit = 2.0**-self.bits
        return (_POSITIVE * unit, _SIGNED * unit * unit) if self._unscaled else (_POSITIVE, _SIGNED * unit)

    def sums(self, x: Array, inverse: Array, size: int) -> tuple[Array, Array]:
        """Sums of both limbs of `(x inverse)^2` over the registers of every run, as `gathered`."""
        if self.bits > MOST:
            high, low = limbs(x, inverse, self.bits)
        else:
            square = jnp.square(x * inverse)
            if not self._unscaled:
                # That product may be fused with a sum and change nothing, which this one, if not exact, may not.
                square = square * 2.0**self.bits
            shift, of_rest = self._shifts
            if self.bits > ROOM:
                high = jnp.round(square).astype(jnp.int32)
                whole = high.astype(jnp.float32)
            else:
                by = spread(self.zero + shift)
                moved = square + by
                high, whole = lax.bitcast_convert_type(moved, jnp.int32), moved - by
            low = lax.bitcast_convert_type((square - whole) + of_rest, jnp.int32)
        return gathered(high, size, jnp.add), gathered(low, size, jnp.add)

    def excess(self, count: int) -> tuple[int, int]:
        """Numbers that both sums of `count` limbs are too large by, modulo 2^32."""
        shifts = [0.0 if self.bits > most else by for most, by in zip((ROOM, MOST), self._shifts, strict=True)]
        patterns = (struct.unpack("i", struct.pack("f", shift))[0] for shift in shifts)
        high, low = ((count * pattern + (1 << 31)) % (1 << 32) - (1 << 31) for pattern in patterns)
        return high, low


def whole_in_low_bits(zero: Array, number: Array) -> Array:
    """int32 whose low bits are those of float32 whole numbers, -2^22 to 2^22. `zero`: see `unknown_zero`."""
    return lax.bitcast_convert_type(number + (zero + _SIGNED), jnp.int32)


def finite(zero: Array, product: Array) -> Array:
    """As `scales.rounded`, an operation less: NaN where the product is not finite. `zero`: see `unknown_zero`."""
    return product + product * zero


def per_gap_of(grid: Grid) -> Callable[[Array, Array], Array]:
    """Division by the distance between two levels: by their exponents where all are powers of two, which is exact."""
    gaps = {b - a for a, b in pairwise(map(float, grid.levels))}
    return _over_power_of_two if all(frexp(gap)[0] == 0.5 for gap in gaps) else truediv


def _over_power_of_two(x: Array, power: Array) -> Array:
    """`x / power`, for a power of two from 2^-126 to 2^126."""
    inverse = (254 << 23) - lax.bitcast_convert_type(power, jnp.int32)
    return x * lax.bitcast_convert_type(inverse, jnp.float32)


def members(ref: Any, start: Any, of: int) -> list[Array]:
    """The first of every `of` neighbours of the tile that begins at row `start`, the second, ...: each (128/of, R)."""
    return [ref[pl.ds(start + place, LANES // of, of), :] for place in range(of)]


def merged(parts: list[Array], work: Any) -> Array:
    """Inverse of `members`, by way of a tile of scratch."""
    for place, part in enumerate(parts):
        work[pl.ds(place, LANES // len(parts), len(parts)), :] = part
    return work[...]


def on_codebook(codebook: Codebook, word: Callable[[Any], list[Any]], x: Array, scale: Array, work: Any) -> Projection:
    """The nearest codeword of every vector, scaled; see `reference.on_codebook`. `work`: a tile of scratch."""
    normal, size = normalised(x, scale), codebook.dimension
    work[...] = normal
    vector = members(work, 0, size)
    chosen = merged(nearest_word(len(codebook.words), word, vector, AT_ONCE), work)
    value = jnp.where(jnp.isfinite(normal), rounded(chosen * scale), normal)
    return Projection(value, relative_magnitude=merged([radius_of(codebook, vector)] * size, work))


def survivors(pattern: Pattern, ref: Any, start: Any, work: Any) -> tuple[Array, Callable[[], Array]]:
    """Which entries of the tile that begins at row `start` of `ref` stay; see `reference.survivors`.

    And how to get the smallest kept magnitude of each run. `work`: a tile of scratch.
    """
    unit, kept = pattern.unit, pattern.n // pattern.unit
    parts = members(ref, start, pattern.m)
    units = [parts[i : i + unit] for i in range(0, pattern.m, unit)]
    sizes = [jnp.abs(of[0]) if unit == 1 else _root_mean_square(of) for of in units]
    ranks = [jnp.zeros(sizes[0].shape, jnp.int32) for _ in sizes]
    for first, earlier in enumerate(sizes):
        for second in range(first + 1, len(sizes)):
            ranks[second] = ranks[second] + (earlier >= sizes[second]).astype(jnp.int32)
            ranks[first] = ranks[first] + (sizes[second] > earlier).astype(jnp.int32)
    keep = merged([jnp.where(rank < kept, 1.0, 0.0) for rank in ranks for _ in range(unit)], work) > 0

    def threshold() -> Array:
        last = [jnp.where(rank == kept - 1, size, 0.0) for rank, size in zip(ranks, sizes, strict=True)]
        return merged([_tree(last, jnp.maximum)] * pattern.m, work)

    return keep, threshold


def _root_mean_square(parts: list[Array]) -> Array:
    """As `rms.root_mean_square`, bit for bit, over the `parts`."""
    largest = lax.bitcast_convert_type(_tree([magnitude_bits(x) for x in parts], jnp.maximum), jnp.float32)
    power, inverse = powers(largest)
    bits = limb_bits(len(parts))
    both = [limbs(x, inverse, bits) for x in parts]
    highs, lows = (_tree([limb[i] for limb in both], jnp.add).astype(jnp.float32) for i in (0, 1))
    return from_sums(highs, lows, largest=largest, power=power, bits=bits, count=len(parts))
