"""Structured sparsity: n of every m neighbours stay."""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb, log2, prod

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.project import Pattern, Spec, survivors
from capscale.kernels.rms import root_mean_square

from .base import Context, Granularity, Projection, to_float32
from .distributions import NORMAL, Distribution, second_moment
from .mse import Mse
from .sparse import VALUE_BITS, StoresSurvivors
from .storage import Codes, Field, Shape
from .survivors import LargestOf, LargestPairs, Survival

LARGEST_PATTERNS = 1 << 16  # patterns are stored by number, from a table


@dataclass(frozen=True)
class NM(StoresSurvivors):
    """N:M sparsity: the `n` of largest magnitude in every run of `m` neighbours; ties to the first.

    `unit`: neighbours that stay or go together, chosen by their Euclidean norm; 2 gives 4:8 in pairs, as QuEST
    (arXiv 2502.05003) trains it. The width must be a multiple of m.
    """

    n: int
    m: int
    unit: int = 1

    def __post_init__(self) -> None:
        check_whole(self, "n", "m")
        check_whole(self, "unit", least=1)
        if not 0 < self.n < self.m:
            raise UserError(f"NM(n={self.n}, m={self.m}): keeps n of m, so 0 < n < m is needed")
        if self.n % self.unit or self.m % self.unit:
            raise UserError(f"NM(n={self.n}, m={self.m}, unit={self.unit}): the unit must divide n and m")
        if self._patterns > LARGEST_PATTERNS:
            raise UserError(f"NM(n={self.n}, m={self.m}): {self._patterns} patterns; at most {LARGEST_PATTERNS}")

    @property
    def _units(self) -> tuple[int, int]:
        return self.n // self.unit, self.m // self.unit

    @property
    def _patterns(self) -> int:
        return comb(self._units[1], self._units[0])

    @property
    def granularity(self) -> Granularity:
        """Rows: a run of m lies in one."""
        return "row"

    @property
    def density(self) -> float:
        """Kept share of the values."""
        return self.n / self.m

    @property
    def mask_bits(self) -> float:
        """The number of the pattern, once per run."""
        return log2(self._patterns) / self.m

    @property
    def bits(self) -> float:
        """Survivors in bfloat16, and the pattern."""
        return VALUE_BITS * self.density + self.mask_bits

    def survivors(self, shape: Shape) -> int:
        """Kept values of a tensor of this shape."""
        return prod(shape) // self.m * self.n

    def survival(self, distribution: Distribution) -> Survival | None:
        """Order statistics of m draws; of pairs of normal draws."""
        kept, of = self._units
        if self.unit == 1:
            return LargestOf(distribution, kept, of)
        return LargestPairs(kept, of) if self.unit == 2 and distribution == NORMAL else None

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """1 less the second moment of what is kept, by quadrature over the order statistics."""
        survival = self.survival(distribution)
        return None if survival is None else Mse(1 - second_moment(survival)[1], "quadrature")

    @jit_inline(0)
    def project(self, x: Array, ctx: Context) -> Projection:
        """Zeroes all but the n largest magnitudes of each m neighbours."""
        full = to_float32(x, "NM")
        if x.shape[-1] % self.m:
            raise UserError(f"{self.n}:{self.m} sparsity needs a width that {self.m} divides, not {x.shape[-1]}")
        keep, threshold = survivors(self.pattern, full)
        value = jnp.where(keep, x, jnp.zeros_like(x))
        return Projection(value, keep=keep, threshold=threshold, rms=root_mean_square(full))

    @property
    def pattern(self) -> Pattern:
        """As kernels know it."""
        return Pattern(self.n, self.m, self.unit)

    def kernel_spec(self) -> Spec:
        """Survivors as they are."""
        return Spec(pattern=self.pattern)

    def mask_layout(self, shape: Shape) -> Field:
        """A pattern a run."""
        return Field("mask", prod(shape) // self.m, self._patterns)

    def encode_mask(self, keep: Codes) -> Codes:
        """Number of each run's pattern, in lexicographic order."""
        runs = np.asarray(keep).reshape(-1, self._units[1], self.unit)[..., 0].astype(np.int64)
        weight = 1 << np.arange(self._units[1])
        patterns = _patterns(*self._units) @ weight
        order = np.argsort(patterns)
        return order[np.searchsorted(patterns[order], runs @ weight)].astype(np.uint32)

    def decode_mask(self, codes: Codes, shape: Shape) -> Codes:
        """Mask of the codes, the inverse of `encode_mask`."""
        return np.repeat(_patterns(*self._units)[codes], self.unit, axis=-1).reshape(shape).astype(np.uint32)


@cache
def _patterns(kept: int, of: int) -> NDArray[np.int64]:
    """Every way to keep `kept` of `of`, (patterns, of), 0 and 1."""
    table = np.zeros((comb(of, kept), of), np.int64)
    for row, chosen in enumerate(combinations(range(of), kept)):
        table[row, list(chosen)] = 1
    return table
