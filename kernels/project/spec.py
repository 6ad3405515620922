"""Specification of a row's projection: a frozen, hashable value that every backend reads, and shared arithmetic.

    rotate -> sparsify -> scale of each group -> nearest level -> value and gradient mask -> rotate back

A mask rule is a callable of elementwise jnp, as are the parts of `scales`. Axes: R rows, K values of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..hadamard import BASES, base_of
from .projection import Projection
from .rules import reads
from .scales import Grid, KernelRule, reciprocal

MaskRule = Callable[[Array, Projection], Array | None]
"""(float32 x, its projection) -> where the gradient passes, elementwise; None: everywhere."""


@dataclass(frozen=True)
class Pattern:
    """The `n` of largest magnitude of every `m` neighbours stay, ties to the first; `unit` neighbours go together.

    `dense_scales`: scales are measured on the row before pruning, in place of the survivors.
    """

    n: int
    m: int
    unit: int = 1
    dense_scales: bool = False


@dataclass(frozen=True)
class Codebook:
    """Codewords that runs of as many neighbours as they have coordinates are projected onto.

    `outermost`: norm of the largest.
    """

    words: tuple[tuple[float, ...], ...]
    outermost: float

    def __repr__(self) -> str:
        """Its size alone, as messages show it."""
        return f"Codebook({len(self.words)} words of {self.dimension})"

    @property
    def dimension(self) -> int:
        """Coordinates of a codeword."""
        return len(self.words[0])

    def table(self) -> Array:
        """Coordinates and half the squared norm of every codeword, (words, dimension + 1) float32."""
        words = jnp.asarray(self.words, jnp.float32)
        return jnp.concatenate([words, jnp.sum(jnp.square(words), axis=-1, keepdims=True) / 2], axis=1)


@dataclass(frozen=True)
class Unsupported:
    """Why there is no `Spec`: in words that follow "XLA, as"."""

    reason: str

    def __str__(self) -> str:
        """The reason in words."""
        return self.reason


@dataclass(frozen=True)
class Spec:
    """A projection of the rows of a matrix.

    `group`: neighbours that share a scale; None: the row. `codebook`: in place of a grid, for vectors of neighbours.
    `grid` None with a `pattern`: survivors stay as they are. `mask` None: the gradient passes everywhere.
    `rotation`: Hadamard block applied before all else; `back`: and after.
    """

    grid: Grid | None = None
    scale: KernelRule | None = None
    group: int | None = None
    codebook: Codebook | None = None
    pattern: Pattern | None = None
    mask: MaskRule | None = None
    rotation: int | None = None
    back: bool = False

    def __post_init__(self) -> None:
        levels = [levels for levels in (self.grid, self.codebook) if levels is not None]
        if len(levels) != (self.scale is not None) or not (levels or self.pattern):
            raise ValueError(f"{self}: give a grid or a codebook with its scale rule, a pattern, or a grid with both")
        if self.codebook is not None and self.pattern is not None:
            raise ValueError(f"{self}: a codebook has no pattern")
        if self.back and self.rotation is None:
            raise ValueError(f"{self}: back=True rotates back by `rotation`, which is None")
        for name, block in (("rotation", self.rotation), ("group", self.group)):
            if block is not None and block < 2:
                raise ValueError(f"{self}: {name}={block} must be at least 2, or None")

    @property
    def measured_on_survivors(self) -> bool:
        """Whether a scale is that of the survivors of the pattern."""
        return self.pattern is not None and not self.pattern.dense_scales

    @property
    def share(self) -> float | None:
        """Share of a group that its RMS is taken over, where it is not all."""
        pattern = self.pattern
        return pattern.n / pattern.m if pattern is not None and self.measured_on_survivors else None

    @property
    def measures(self) -> Projection:
        """Measures that its mask may read, as shapes and dtypes of two values of a row."""
        value, flag = jax.ShapeDtypeStruct((1, 2), jnp.float32), jax.ShapeDtypeStruct((1, 2), jnp.bool)
        measures: dict[str, Any] = {"value": value}
        if self.grid is not None:
            measures |= dict.fromkeys(("step", "error_in_steps", "relative_magnitude", "dvalue_dscale"), value)
        if self.codebook is not None:
            measures |= {"relative_magnitude": value}
        if self.pattern is not None:
            measures |= {"keep": flag, "threshold": value, "rms": value}
        return Projection(**measures)

    @property
    def reads_rms(self) -> bool:
        """Whether the mask reads the row's root mean square, which is measured for nothing else."""
        return self.pattern is not None and self.reads("rms")

    def reads(self, measure: str) -> bool:
        """Whether the mask reads a measure, one of those that there are."""
        return self.mask is not None and reads(self.mask, self.measures, measure)

    def check(self, width: int) -> None:
        """Raises ValueError for rows of `width` values that this projection does not divide."""
        needs = {"rotation": self.rotation, "group": self.group, "m": self.pattern.m if self.pattern else None}
        needs["dimension"] = self.codebook.dimension if self.codebook else None
        for name, size in needs.items():
            if size is not None and width % size:
                raise ValueError(f"{name}={size} does not divide rows of {width} values")
        if self.rotation is not None and base_of(self.rotation) is None:
            raise ValueError(f"rotation={self.rotation} must be a power of two, or one times {BASES}")
        if self.codebook and self.group and self.group % self.codebook.dimension:
            raise ValueError(f"group={self.group} splits a vector of {self.codebook.dimension}")
        if self.pattern and self.group and self.group % self.pattern.m and self.measured_on_survivors:
            raise ValueError(f"group={self.group} splits a run of {self.pattern.m}; measure scales on the dense row")


SIGNIFICANT = 12  # bits of a codeword's coordinates: their products with 12 bits of a float32 are exact


def exact_halves(x: Array) -> tuple[Array, Array]:
    """Float32 `x` as a sum of two numbers of 12 significant bits, whose products with a coordinate are exact."""
    upper = lax.bitcast_convert_type(x, jnp.int32) & jnp.int32(-(1 << (24 - SIGNIFICANT)))
    high = lax.bitcast_convert_type(upper, jnp.float32)
    return high, x - high


def closeness(halves: list[tuple[Array, Array]], coordinates: list[Any], half: Any) -> Array:
    """`x c - |c|^2 / 2`: the greater, the nearer is codeword c to the vector x. `half`: its `|c|^2 / 2`.

    By products that are exact, so that fused and separate multiply-adds choose alike.
    """
    total = jnp.zeros_like(halves[0][0]) - half
    for coordinate, parts in zip(coordinates, halves, strict=True):
        for part in parts:
            total = total + part * coordinate
    return total


def nearest_word(count: int, word: Callable[[Any], list[Any]], vector: list[Array], at_once: int = 1) -> list[Array]:
    """Coordinates of the codeword nearest to every `vector`, given and returned coordinate by coordinate.

    `word(i)`: a row of `Codebook.table`; `at_once`: how many in a trip of the loop over them. The first of equals.
    """
    halves = [exact_halves(x) for x in vector]

    def better(i: Any, best: list[Array]) -> list[Array]:
        *coordinates, half = word(i)
        total = closeness(halves, coordinates, half)
        win = total > best[0]
        return [jnp.where(win, new, old) for new, old in zip([total, *coordinates], best, strict=True)]

    # Where nothing wins, as with NaN, the first codeword stands, as it does for an index of 0.
    start = [jnp.full_like(vector[0], -jnp.inf), *(jnp.broadcast_to(c, vector[0].shape) for c in word(0)[:-1])]
    at_once = gcd(count, at_once)

    def several(trip: Any, best: list[Array]) -> list[Array]:
        for place in range(at_once):
            best = better(trip * at_once + place, best)
        return best

    if at_once == count:
        return several(0, start)[1:]
    return lax.fori_loop(0, count // at_once, several if at_once > 1 else better, start)[1:]


def radius_of(codebook: Codebook, vector: list[Array], sqrt: Callable[[Array], Array] = jnp.sqrt) -> Array:
    """Norm of every vector over that of the outermost codeword. `sqrt`: for backends that have none."""
    total = jnp.square(vector[0])
    for x in vector[1:]:
        total = total + jnp.square(x)
    return sqrt(total) * reciprocal(codebook.outermost)
