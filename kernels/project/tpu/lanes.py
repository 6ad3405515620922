"""Neighbours on the 128 lanes of a TPU's vector register: exchanges, reductions, rotations and patterns by lane rolls.

Every array is (rows, 128). What stands in `reference` as a reshape and a reduction is here a tree of exchanges
between lanes whose numbers differ in one bit, the same on interpreted and on compiled kernels.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from ... import hadamard
from ...rms.reference import from_sums, limb_bits, limbs, powers
from ..bitplanes import LANES
from ..projection import Projection, rounded
from ..scales import normalised
from ..spec import Codebook, Pattern, nearest_word, radius_of


def lane(x: Array) -> Array:
    """Number of the lane of every entry."""
    return lax.broadcasted_iota(jnp.int32, x.shape, 1)


def across(x: Array, distance: int) -> Array:
    """Value of the lane whose number differs in the bit `distance`."""
    lower = (lane(x) & distance) == 0
    return jnp.where(lower, pltpu.roll(x, LANES - distance, 1), pltpu.roll(x, distance, 1))


def over(x: Array, size: int, combine: Callable[[Array, Array], Array], unit: int = 1) -> Array:
    """`combine` over every aligned run of `size` lanes, in each of its lanes; of every `unit`-th lane."""
    while unit < size:
        x = combine(x, across(x, unit))
        unit *= 2
    return x


def butterflies(x: Array, block: int) -> Array:
    """The Hadamard rotation of float32 `x`, by the additions of `hadamard.rotate`."""
    half = 1
    while half < block:
        other = across(x, half)
        x = jnp.where((lane(x) & half) == 0, x + other, other - x)
        half *= 2
    return x * jnp.float32(block**-0.5)


def signs(block: int) -> Array:
    """(128, 128) block-diagonal ±1 matrix of the rotation, bfloat16."""
    return hadamard.signs(block, *(lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1)))


def product(x: Array, sign: Array, block: int, exact_in_bfloat16: bool) -> Array:
    """The Hadamard rotation of float32 `x` as a matrix product.

    Three pieces of 8 significant bits hold a float32, and a product with ±1 is exact, so that only the order of the
    additions differs from `butterflies`. One piece is enough for what was bfloat16. A NaN or an infinity makes NaN of
    all 128 lanes, also those of other blocks, which it meets with a factor of 0.
    """
    total = jnp.zeros_like(x)
    for _ in range(1 if exact_in_bfloat16 else 3):
        piece = x.astype(jnp.bfloat16)
        total = total + jnp.dot(piece, sign, preferred_element_type=jnp.float32)
        x = x - piece.astype(jnp.float32)
    return total * jnp.float32(block**-0.5)


RotateBy = Literal["product", "butterflies"]
"""On the matrix unit, or by the reference's additions, bit for bit."""


class Rotation(NamedTuple):
    """How tiles are rotated, and the matrix for it."""

    block: int | None
    by: RotateBy
    dtype: DTypeLike

    @classmethod
    def of(cls, block: int | None, dtype: DTypeLike, by: RotateBy | None, interpret: bool) -> "Rotation":
        """`by` None: butterflies where interpreted, else the product. Raises ValueError for what is neither."""
        by = ("butterflies" if interpret else "product") if by is None else by
        if by not in get_args(RotateBy):
            raise ValueError(f"rotate_by={by!r}: use {' or '.join(get_args(RotateBy))}")
        return cls(block, by, dtype)

    @property
    def _matrix(self) -> bool:
        return self.block is not None and self.by == "product"

    @property
    def specs(self) -> list[pl.BlockSpec]:
        """Block specifications of the operands."""
        return [pl.BlockSpec((LANES, LANES), lambda i: (0, 0))] if self._matrix else []

    @property
    def operands(self) -> list[Array]:
        """The matrix, where it is a product."""
        return [signs(self.block)] if self.block and self._matrix else []

    def __call__(self, x: Array, matrix: list) -> Array:
        """Float32 tile, rotated and rounded to the dtype of the rows."""
        if self.block is None:
            return x
        if self._matrix:
            y = product(x, matrix[0][...], self.block, self.dtype == jnp.bfloat16)
        else:
            y = butterflies(x, self.block)
        return y.astype(self.dtype).astype(jnp.float32)


def root_mean_square(x: Array, size: int) -> Array:
    """RMS over every aligned run of `size` lanes."""
    largest = lax.bitcast_convert_type(over(magnitude_bits(x), size, jnp.maximum), jnp.float32)
    power, inverse = powers(largest)
    bits = limb_bits(size)
    highs, lows = (over(limb, size, jnp.add).astype(jnp.float32) for limb in limbs(x, inverse, bits))
    return from_sums(highs, lows, largest=largest, power=power, bits=bits, count=size)


def magnitude_bits(x: Array) -> Array:
    """|x| as an integer that orders like it."""
    return lax.bitcast_convert_type(jnp.abs(x), jnp.int32)


def on_codebook(codebook: Codebook, word: Callable[[Any], list[Any]], x: Array, scale: Array) -> Projection:
    """The nearest codeword of every vector, scaled, in all of its lanes; see `reference.on_codebook`."""
    normal, size = normalised(x, scale), codebook.dimension
    exchanged = [normal]  # of the lane whose number differs by the index
    for distance in range(1, size):
        bit = 1 << (distance.bit_length() - 1)
        exchanged.append(across(exchanged[distance - bit], bit))
    own = lane(x) & (size - 1)
    vector = []
    for coordinate in range(size):
        found = normal
        for distance in range(1, size):
            found = jnp.where((own ^ coordinate) == distance, exchanged[distance], found)
        vector.append(found)
    words = nearest_word(len(codebook.words), word, vector)
    chosen = words[0]
    for coordinate in range(1, size):
        chosen = jnp.where(own == coordinate, words[coordinate], chosen)
    value = jnp.where(jnp.isfinite(normal), rounded(chosen * scale), normal)
    return Projection(value, relative_magnitude=radius_of(codebook, vector))


def survivors(pattern: Pattern, x: Array) -> tuple[Array, Array]:
    """Which entries stay, and the smallest kept magnitude of each run; see `reference.survivors`."""
    unit, kept = pattern.unit, pattern.n // pattern.unit
    size = jnp.abs(x) if unit == 1 else root_mean_square(x, unit)
    rank = jnp.zeros(x.shape, jnp.int32)
    for offset in range(1, pattern.m // unit):
        rival, bit = size, 1
        while bit <= offset:
            rival = across(rival, bit * unit) if offset & bit else rival
            bit *= 2
        # The rival comes first where the highest bit in which the lanes differ is set here.
        first = (lane(x) & ((1 << (offset.bit_length() - 1)) * unit)) != 0
        rank = rank + ((rival > size) | ((rival == size) & first)).astype(jnp.int32)
    threshold = over(jnp.where(rank == kept - 1, size, 0.0), pattern.m, jnp.maximum, unit)
    return rank < kept, threshold
