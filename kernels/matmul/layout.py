"""How packed weights lie in bytes, and how a tile of bytes becomes a tile of weights.

Weights are (F, K): F outputs, K inputs, as formats see them. Bytes hold neighbours on K, little-endian, the
order of `capscale.formats.packing`. A *column* is what one position of the byte planes holds: `values` neighbours

    dense   values = 8 / bits    codes (1, F, K / values), the bytes as they were packed
    2:4     values = 8           codes (bits / 2, F, K / 8), the four kept codes of two runs, a plane for each byte
                                 pattern (F, K / 8), a nibble a run: positions of the first and of the second kept

so that no interleaving is needed anywhere: x, split into `values` planes of every `values`-th input, meets plane after
plane of decoded weights, and their products add up.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import Array, lax

LARGEST_CODEBOOK = 16  # levels without even spacing: a tree of selects has a select fewer than levels


@dataclass(frozen=True)
class Layout:
    """Static side of packed weights: `weight = level of code * scale`.

    `bits` of a code; `levels`, the level of each code; `width` K; `group`: neighbours on K that share a scale, None
    for one scale per output; `sparse`: two of every four neighbours are kept, the others are zero.
    Raises ValueError for what no kernel reads.
    """

    bits: int
    levels: tuple[float, ...]
    width: int
    group: int | None = None
    sparse: bool = False

    def __post_init__(self) -> None:
        if self.bits not in ((2, 4, 8) if self.sparse else (1, 2, 4, 8)):
            raise ValueError(f"Layout(bits={self.bits}, sparse={self.sparse}): codes of 2, 4 or 8 bits, or 1 if dense")
        if len(self.levels) != 2**self.bits:
            raise ValueError(f"Layout(bits={self.bits}): {len(self.levels)} levels given, {2**self.bits} codes exist")
        if not self.even and len(self.levels) > LARGEST_CODEBOOK:
            raise ValueError(f"Layout: {len(self.levels)} levels without even spacing; at most {LARGEST_CODEBOOK}")
        if self.width % self.values:
            raise ValueError(f"Layout(width={self.width}): {self.values} values share bytes and must divide it")
        if self.group is not None and (self.width % self.group or self.group % self.values):
            raise ValueError(
                f"Layout(group={self.group}, width={self.width}): the group must divide the width, "
                f"and the {self.values} values that share bytes the group"
            )

    @property
    def even(self) -> bool:
        """True where the levels are evenly spaced: a code is then decoded by one multiply-add."""
        return len({upper - lower for lower, upper in pairwise(self.levels)}) == 1

    @property
    def values(self) -> int:
        """Neighbours on K that one column holds."""
        return 8 if self.sparse else 8 // self.bits

    @property
    def columns(self) -> int:
        """Columns of a row."""
        return self.width // self.values

    @property
    def byte_planes(self) -> int:
        """Bytes of codes that a column holds."""
        return self.bits // 2 if self.sparse else 1

    @property
    def nbytes_per_row(self) -> int:
        """Bytes of codes and patterns of one output."""
        return self.columns * (self.byte_planes + self.sparse)


@partial(jax.tree_util.register_dataclass, data_fields=("codes", "pattern", "scale"), meta_fields=("layout",))
@dataclass(frozen=True)
class Weights:
    """Packed weights (F, K): bytes and scales as arrays, and their static `Layout`. A pytree."""

    codes: Array
    """uint8 (byte planes, F, columns)."""
    pattern: Array | None
    """uint8 (F, columns) of 2:4 weights: a nibble a run, position of the first kept, then of the second."""
    scale: Array
    """float32 (F, 1), or (F, K / group)."""
    layout: Layout

    @property
    def shape(self) -> tuple[int, int]:
        """(F, K) of the weights that are meant."""
        return self.codes.shape[-2], self.layout.width


def split_inputs(x: Array, values: int) -> Array:
    """x (B, K) to (values, B, K / values): plane p holds inputs p, p + values, ..."""
    b, k = x.shape
    return jnp.transpose(x.reshape(b, k // values, values), (2, 0, 1))


def decode(layout: Layout, codes: list[Array], pattern: Array | None) -> list[Array]:
    """float32 levels of the `values` planes, from int32 tiles of each byte plane and of the pattern. Elementwise."""
    mask = 2**layout.bits - 1

    def level_at(i: int) -> Array:
        bit = i * layout.bits
        return _level(layout, lax.shift_right_logical(codes[bit // 8], jnp.int32(bit % 8)) & mask)

    if pattern is None:
        return [level_at(i) for i in range(layout.values)]
    planes = []
    for run in range(2):
        first, second = level_at(2 * run), level_at(2 * run + 1)
        here = [lax.shift_right_logical(pattern, jnp.int32(4 * run + 2 * which)) & 3 for which in range(2)]
        for position in range(4):
            later = jnp.where(here[1] == position, second, 0.0)
            planes.append(jnp.where(here[0] == position, first, later))
    return planes


def _level(layout: Layout, code: Array) -> Array:
    """Level of each int32 code."""
    if layout.even:
        step = layout.levels[1] - layout.levels[0]
        scaled = code.astype(jnp.float32)
        scaled = scaled if step == 1 else scaled * step
        return scaled + layout.levels[0]
    bits = [lax.shift_right_logical(code, jnp.int32(i)) & 1 == 1 for i in range(layout.bits)]

    def choose(first: int, bit: int) -> Array | float:
        """The level of codes that agree with `first` above bit `bit`."""
        if bit < 0:
            return layout.levels[first]
        return jnp.where(bits[bit], choose(first + 2**bit, bit - 1), choose(first, bit - 1))

    return jnp.asarray(choose(0, layout.bits - 1), jnp.float32)
