"""Sparsity by magnitude: which entries stay, the rest is zero."""

from dataclasses import dataclass, replace
from math import comb, log2

import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError
from capscale.kernels.select import largest

from .base import Context, Projection, Scope, root_mean_square, scope_axes, to_float32
from .distributions import Distribution, second_moment
from .error import Error
from .survivors import LargestOf, Survival, Tails

VALUE_BITS = 16  # survivors are stored as the bfloat16 of a dense tensor


@dataclass(frozen=True)
class TopK:
    """Keeps the `1 - sparsity` share of largest magnitude; exactly `kept(size)` entries, ties to the first.

    `scope` "matrix": one threshold for the last two axes (unstructured sparsity of a weight);
    "row": one per row (per token of an activation, so that no token sees another).
    """

    sparsity: float
    scope: Scope = "matrix"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UserError(f"TopK(sparsity={self.sparsity}): the pruned share must be at least 0 and below 1")

    @property
    def density(self) -> float:
        """Kept share of the values."""
        return 1 - self.sparsity

    @property
    def mask_bits(self) -> float:
        """One bit per value."""
        return 1.0

    @property
    def bits(self) -> float:
        """Survivors in bfloat16, and the mask."""
        return VALUE_BITS * self.density + self.mask_bits

    def per_row(self) -> "TopK":
        """One threshold per row."""
        return replace(self, scope="row")

    def kept(self, size: int) -> int:
        """Survivors among `size` values: the nearest integer to `(1 - sparsity) size`, never none."""
        kept = round((1 - self.sparsity) * size)
        if size and not kept:
            raise UserError(
                f"TopK(sparsity={self.sparsity}, scope={self.scope!r}) would prune all {size} values that share "
                "a threshold; lower the sparsity or widen the scope"
            )
        return kept

    def survival(self, distribution: Distribution) -> Survival:
        """Both tails that hold the kept share."""
        return Tails(distribution, float(distribution.quantile(1 - self.density / 2)))

    def error(self, distribution: Distribution, samples: int | None) -> Error | None:
        """`E[x^2; |x| < T]`: 1 less the second moment of both tails."""
        if samples is not None and self.scope == "row":
            return None
        return Error(1 - second_moment(self.survival(distribution))[1], "closed form")

    def project(self, x: Array, ctx: Context) -> Projection:
        """Zeroes all but the largest magnitudes of each scope."""
        full = to_float32(x, type(self).__name__)
        axes = scope_axes(self.scope, x.ndim)
        size = 1
        for axis in axes:
            size *= x.shape[axis]
        keep, threshold = largest(x, self.kept(size), axes)
        return Projection(
            value=jnp.where(keep, x, jnp.zeros_like(x)),
            keep=keep,
            threshold=threshold.astype(jnp.float32),
            rms=root_mean_square(full, axes),
        )


@dataclass(frozen=True)
class NM:
    """N:M sparsity: the `n` of largest magnitude in every run of `m` neighbours; ties to the first."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UserError(f"NM(n={self.n}, m={self.m}): keeps n of m, so 0 < n < m is needed")

    @property
    def scope(self) -> Scope:
        """Rows."""
        return "row"

    @property
    def density(self) -> float:
        """Kept share of the values."""
        return self.n / self.m

    @property
    def mask_bits(self) -> float:
        """The number of the pattern among `C(m, n)`, once per run."""
        return log2(comb(self.m, self.n)) / self.m

    @property
    def bits(self) -> float:
        """Survivors in bfloat16, and the pattern."""
        return VALUE_BITS * self.density + self.mask_bits

    def survival(self, distribution: Distribution) -> Survival:
        """The n largest magnitudes of m."""
        return LargestOf(distribution, self.n, self.m)

    def error(self, distribution: Distribution, samples: int | None) -> Error:
        """1 less the second moment of the n largest of m, by quadrature over the order statistics."""
        return Error(1 - second_moment(self.survival(distribution))[1], "quadrature")

    def project(self, x: Array, ctx: Context) -> Projection:
        """Zeroes all but the n largest magnitudes of each m neighbours."""
        full = to_float32(x, type(self).__name__)
        width = x.shape[-1]
        if width % self.m:
            raise UserError(f"{self.n}:{self.m} sparsity needs a width that {self.m} divides, not {width}")
        runs = jnp.abs(full).reshape(*x.shape[:-1], width // self.m, self.m)
        rank = self._rank(runs)
        keep = (rank < self.n).reshape(x.shape)
        threshold = jnp.sum(jnp.where(rank == self.n - 1, runs, 0.0), axis=-1, keepdims=True)
        return Projection(
            value=jnp.where(keep, x, jnp.zeros_like(x)),
            keep=keep,
            threshold=jnp.broadcast_to(threshold, runs.shape).reshape(x.shape),
            rms=root_mean_square(full, (-1,)),
        )

    def _rank(self, runs: Array) -> Array:
        """Position of each magnitude in its run, largest first, by counting who stands before it: m^2 comparisons."""
        here = jnp.arange(self.m)
        rank = jnp.zeros(runs.shape, jnp.int32)
        for other in range(self.m):
            rival = runs[..., other : other + 1]
            first = (here > other).reshape((1,) * (runs.ndim - 1) + (self.m,))
            rank = rank + ((rival > runs) | ((rival == runs) & first)).astype(jnp.int32)
        return rank
