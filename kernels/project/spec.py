"""What the projection of a row is: a frozen, hashable value that every backend reads, and the arithmetic they share.

    rotate -> sparsify -> scale of each group -> nearest level -> value and gradient mask -> rotate back

A mask rule is a callable of elementwise jnp, as are the parts of `scales`. Axes: R rows, K values of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .rules import reads
from .scales import Grid, ScaleRule, normalised, reciprocal


class Measures(NamedTuple):
    """What a mask rule may read of a projection; None where this projection has nothing to say."""

    step: Array | None = None
    """Distance between levels around the value."""
    distance: Array | None = None
    """`|value - x| / step`."""
    radius: Array | None = None
    """Magnitude over that of the outermost level or codeword."""
    keep: Array | None = None
    """False where sparsity zeroed the entry."""
    threshold: Array | None = None
    """Smallest kept magnitude."""
    rms: Array | None = None
    """Root mean square of the row that a pattern is chosen in, all of it; computed where a mask reads it."""
    slope: Array | None = None
    """Derivative of the value by its scale."""


MaskRule = Callable[[Array, Measures], Array | None]
"""(float32 x, measures) -> where the gradient passes, elementwise; None: everywhere."""


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
class Spec:
    """A projection of the rows of a matrix.

    `group`: neighbours that share a scale; None: the row. `codebook`: in place of a grid, for vectors of neighbours.
    `grid` None with a `pattern`: survivors stay as they are. `mask` None: the gradient passes everywhere.
    `rotation`: Hadamard block applied before all else; `back`: and after.
    """

    grid: Grid | None = None
    scale: ScaleRule | None = None
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
    def measures(self) -> Measures:
        """What its mask may read, as shapes and dtypes of two values of a row."""
        value, flag = jax.ShapeDtypeStruct((1, 2), jnp.float32), jax.ShapeDtypeStruct((1, 2), jnp.bool)
        measures: dict[str, Any] = {}
        if self.grid is not None:
            measures |= dict.fromkeys(("step", "distance", "radius", "slope"), value)
        if self.codebook is not None:
            measures |= {"radius": value}
        if self.pattern is not None:
            measures |= {"keep": flag, "threshold": value, "rms": value}
        return Measures(**measures)

    @property
    def reads_rms(self) -> bool:
        """Whether the mask reads the row's root mean square, which is measured for nothing else."""
        return self.pattern is not None and self.mask is not None and reads(self.mask, self.measures, "rms")

    def check(self, width: int) -> None:
        """Raises ValueError for rows of `width` values that this projection does not divide."""
        needs = {"rotation": self.rotation, "group": self.group, "m": self.pattern.m if self.pattern else None}
        needs["dimension"] = self.codebook.dimension if self.codebook else None
        for name, size in needs.items():
            if size is not None and width % size:
                raise ValueError(f"{name}={size} does not divide rows of {width} values")
        if self.rotation is not None and self.rotation & (self.rotation - 1):
            raise ValueError(f"rotation={self.rotation} must be a power of two")
        if self.codebook and self.group and self.group % self.codebook.dimension:
            raise ValueError(f"group={self.group} splits a vector of {self.codebook.dimension}")
        if self.pattern and self.group and self.group % self.pattern.m and self.measured_on_survivors:
            raise ValueError(f"group={self.group} splits a run of {self.pattern.m}; measure scales on the dense row")


def on_grid(spec: Spec, x: Array, scale: Array, keep: Array | None) -> tuple[Array, Measures]:
    """Value of float32 `x` on the grid of that scale, not yet in the dtype of the row, and what its mask may read.

    Elementwise; `scale` broadcast to x. NaN and infinity become NaN; a scale of zero gives zero.
    """
    assert spec.grid is not None
    normal = normalised(x if keep is None else jnp.where(keep, x, 0.0), scale)
    level, gap = spec.grid.nearest(normal)
    radius = jnp.abs(normal) * reciprocal(spec.grid.levels[-1])
    value = rounded(level * scale)
    step, distance = gap * scale, jnp.abs(normal - level) / gap
    if keep is not None:
        value = jnp.where(keep, value, 0.0)
        distance = jnp.where(keep, distance, jnp.abs(x) / jnp.where(step > 0, step, 1.0))
    slope = level - jnp.where(radius <= 1, normal, 0.0)
    return value, Measures(step=step, distance=distance, radius=radius, keep=keep, slope=slope)


def rounded(product: Array) -> Array:
    """`product` as it rounds by itself, NaN where it is not finite.

    One that is added to something later may be fused and not rounded; compilers do not look through a choice.
    """
    return jnp.where(jnp.abs(product) < jnp.inf, product, jnp.nan)


def nearest_word(count: int, word: Callable[[Any], list[Any]], vector: list[Array]) -> list[Array]:
    """Coordinates of the codeword nearest to every `vector`, given and returned coordinate by coordinate.

    `word(i)`: a row of `Codebook.table`. The first of equals; by products that are exact, 12 significant bits each, so
    that fused and separate multiply-adds choose alike.
    """
    pieces = []
    for x in vector:
        high = lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.int32) & jnp.int32(-(1 << 12)), jnp.float32)
        pieces.append((high, x - high))

    def better(i: Any, best: list[Array]) -> list[Array]:
        *coordinates, half = word(i)
        total = jnp.zeros_like(best[0]) - half
        for coordinate, parts in zip(coordinates, pieces, strict=True):
            for part in parts:
                total = total + part * coordinate
        win = total > best[0]
        return [jnp.where(win, new, old) for new, old in zip([total, *coordinates], best, strict=True)]

    # Where nothing wins, as with NaN, the first codeword stands, as it does for an index of 0.
    start = [jnp.full_like(vector[0], -jnp.inf), *(jnp.broadcast_to(c, vector[0].shape) for c in word(0)[:-1])]
    return lax.fori_loop(0, count, better, start)[1:]


def radius_of(codebook: Codebook, vector: list[Array], sqrt: Callable[[Array], Array] = jnp.sqrt) -> Array:
    """Norm of every vector over that of the outermost codeword. `sqrt`: for backends that have none."""
    total = jnp.square(vector[0])
    for x in vector[1:]:
        total = total + jnp.square(x)
    return sqrt(total) * reciprocal(codebook.outermost)
