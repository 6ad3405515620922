"""Estimators: which entries let the gradient through a projection.

A projection is piecewise constant, so its true gradient is useless; an estimator replaces it by
`mask * g`. Each is a frozen dataclass called with float32 `x` and its `Projection`; it returns a boolean
mask that broadcasts to `x`, a floating one whose numbers multiply the gradient (soft quantizers such as DSQ), or None
where every entry passes. Comparisons are made on the quantities
that the projection measured before rounding to its dtype, so that a tie falls on the same side everywhere.
An estimator that is no mask is `Pulls` as well. Which one belongs to which format: `capscale.defaults`; how they are
written in tables and on the command line: `capscale.estimator_names`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr, ndtri
from scipy import special

from capscale.checks import check_choice, check_real
from capscale.errors import UserError
from capscale.formats.base import Granularity, Projection, granularity_axes
from capscale.masks import conjunction

Field = TypeVar("Field")


@runtime_checkable
class Estimator(Protocol):
    """Backward mask of a projection; a frozen, hashable dataclass."""

    def __call__(self, x: Array, projection: Projection) -> Array | None:
        """Boolean mask, True where the gradient passes, or floating numbers to multiply it with; None: all passes."""
        ...


def _check_p(p: float, estimator: Estimator) -> None:
    check_real(estimator, "p")
    if not 0 <= p < 0.5:
        raise UserError(f"{estimator}: p must lie in [0, 1/2), the probability between 0 and the threshold")


def _ppf(p: float) -> float:
    """Standard normal quantile of 1/2 + p."""
    return float(special.ndtri(0.5 + p))


def needed(field: Field | None, estimator: Estimator, what: str) -> Field:
    """Measures of a projection that `estimator` reads; formats without them are refused."""
    if field is None:
        raise UserError(f"{estimator} needs a format with {what}; choose another estimator or format")
    return field


@dataclass(frozen=True)
class StraightThrough:
    """Every gradient passes (Bengio et al., arXiv 1308.3432)."""

    def __call__(self, x: Array, projection: Projection) -> None:
        """None: nothing is masked."""
        return


@dataclass(frozen=True)
class Clip:
    """Passes where `|x| <= scale * outermost level`: QuEST's rule for 1 bit (`ClipQuantizer`, arXiv 2502.05003).

    scale = 1 passes what the grid covers, at 1 bit 57 % of Gaussian weights (`capscale.gmse.pass_rate`), and fewer
    as training drives weights out of the band (experiments/results/README.md, int1). QuEST's one-bit runs have 1.3
    where they rotate and 1.25 where they do not (`clip_scale` of all 15 in its table), as has `capscale.defaults`.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"scale": 1.0}

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_real(self, "scale", above=0)

    def __call__(self, x: Array, projection: Projection) -> Array:
        """`|x| / outermost level <= scale`."""
        return needed(projection.relative_magnitude, self, "a grid") <= self.scale


@dataclass(frozen=True)
class Trust:
    """Passes where `|value - x| <= threshold * step` (QuEST, arXiv 2502.05003).

    threshold = 1/2 is the paper's T = c s / (2^b - 1): inside the grid all pass, outliers further than half a
    step out do not. Entries that sparsity pruned are held to the same rule, their error being `|x|`.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_real(self, "threshold", above=0)

    def __call__(self, x: Array, projection: Projection) -> Array:
        """`|value - x| / step <= threshold`."""
        return needed(projection.error_in_steps, self, "a grid") <= self.threshold


@dataclass(frozen=True)
class TrustRadius:
    """Passes where `|value - x| <= radius * RMS`, the same distance around every level.

    On an even grid of Gaussian scale this is `Trust` (radius c / (2^b - 1)). On float grids the two differ: QuEST's FP4
    classes keep radius = 0.3186, half the outermost gap of the 4-bit Lloyd grid that they derive from (`FP4_RADIUS`).
    """

    radius: float

    def __post_init__(self) -> None:
        check_real(self, "radius", above=0)

    def __call__(self, x: Array, projection: Projection) -> Array:
        """`error_in_steps * step <= radius * RMS`."""
        distance, step = needed(projection.error_in_steps, self, "a grid"), needed(projection.step, self, "a grid")
        return distance * step <= jnp.float32(self.radius) * needed(projection.rms, self, "measured scales")


FP4_RADIUS = 0.3186
"""QuEST's for FP4: (levels[-1] - levels[-2]) / 2 of the Lloyd grid after 20 iterations from linspace(-3, 3, 16)."""


@dataclass(frozen=True)
class Hypersphere:
    """Passes where the vector's norm is at most `radius` times that of the outermost codeword (vector grids)."""

    radius: float = 1.0

    def __post_init__(self) -> None:
        check_real(self, "radius", above=0)

    def __call__(self, x: Array, projection: Projection) -> Array:
        """`|v| <= radius * max |codeword|`, all entries of a vector alike."""
        return needed(projection.relative_magnitude, self, "a grid") <= self.radius


@dataclass(frozen=True)
class Lsq:
    """LSQ (arXiv 1902.08153): passes inside the grid; `Projection.dvalue_dscale` carries the gradient into the step."""

    def __call__(self, x: Array, projection: Projection) -> Array:
        """`|x| <= s * largest level`."""
        needed(projection.dvalue_dscale, self, "a learned step")
        return needed(projection.relative_magnitude, self, "a grid") <= 1.0


@dataclass(frozen=True)
class ForwardMask:
    """`fw`: passes where the entry was kept, `|x| >= T_k` (ties as the projection broke them)."""

    def __call__(self, x: Array, projection: Projection) -> Array:
        """The mask of the projection itself."""
        return needed(projection.keep, self, "sparsity")


@dataclass(frozen=True)
class RmsThreshold:
    """`rms`: passes where `|x| > T_p`, `T_p = RMS ppf(1/2 + p)`, p in (0, 1/2); every entry in the limit p = 0."""

    JSON_NAME: ClassVar[str] = "Rms"

    p: float

    def __post_init__(self) -> None:
        _check_p(self.p, self)

    def __call__(self, x: Array, projection: Projection) -> Array:
        """True where a value is above: `|x| > T_p`."""
        needed(projection.keep, self, "sparsity")
        return jnp.abs(x) > needed(projection.rms, self, "sparsity") * _ppf(self.p)


@dataclass(frozen=True)
class BRms:
    """`b-rms` (RBBM): passes where `|x| < min(T_p, T_k)` or `|x| > max(T_p, T_k)`; `fw` in the limit p = 0.

    With the projection's own side of T_k in place of the comparison with it: kept and above T_p, or pruned and
    below T_p. The two differ on the k-th entry alone, which the forward pass keeps.
    """

    p: float

    def __post_init__(self) -> None:
        _check_p(self.p, self)

    def __call__(self, x: Array, projection: Projection) -> Array:
        """Outside the band between the two thresholds."""
        keep = needed(projection.keep, self, "sparsity")
        band = needed(projection.rms, self, "sparsity") * _ppf(self.p)
        magnitude = jnp.abs(x)
        return jnp.where(keep, magnitude > band, magnitude < band)


@dataclass(frozen=True)
class ABRms:
    """`a-b-rms`: passes where kept, or `|x| < T_a`, `T_a = RMS ppf(1/2 + (1 - a)(cdf(T_k / RMS) - 1/2))`.

    `a` is the share of the pruned probability mass whose gradient is masked, the part next to the threshold: a = 1 is
    `fw`, a = 0 lets every gradient pass. (The paper's formula, its worked example and its conclusion agree on this; one
    of its sentences says the reverse.)
    """

    JSON_VERSION: ClassVar[int] = 2  # the share that passed, before

    a: float

    def __post_init__(self) -> None:
        check_real(self, "a")
        if not 0 <= self.a <= 1:
            raise UserError(f"ABRms(a={self.a}): a must lie in [0, 1]; 1 is the forward mask, 0 passes all")

    def __call__(self, x: Array, projection: Projection) -> Array:
        """Kept, or below the inner threshold."""
        keep = needed(projection.keep, self, "sparsity")
        if self.a == 0:
            return jnp.ones_like(keep)
        rms = needed(projection.rms, self, "sparsity")
        threshold = needed(projection.threshold, self, "sparsity")
        safe = jnp.where(rms > 0, rms, 1.0)
        inner = rms * ndtri(0.5 + (1 - self.a) * (ndtr(threshold / safe) - 0.5))
        return keep | (jnp.abs(x) < inner)


@dataclass(frozen=True)
class ThroughScale:
    """Every gradient passes, and the derivative by the scale that the error is proportional to is added.

    With `value = x + ||x|| u` and u fixed, `x_bar = g + x <g, value - x> / <x, x>`: the exact derivative of noise of a
    deviation measured on x (the authors' noise quantizer lets the gradient flow through its deviation).
    `granularity`: the row that has one scale, or the matrix.
    """

    JSON_FIELDS: ClassVar[Mapping[str, str]] = {"granularity": "scope"}

    granularity: Granularity = "row"

    def __post_init__(self) -> None:
        check_choice(self, "granularity", ("row", "matrix"))

    def __call__(self, x: Array, projection: Projection) -> None:
        """None: nothing is masked."""
        return

    def residuals(self, x: Array, projection: Projection) -> "_AlongScale":
        """x over its energy, and the error of the projection."""
        axes = granularity_axes(self.granularity, x.ndim)
        energy = jnp.sum(jnp.square(x), axis=axes, keepdims=True)
        return _AlongScale(x / jnp.where(energy > 0, energy, 1.0), projection.value.astype(jnp.float32) - x)

    def pull(self, residuals: "_AlongScale", g: Array) -> Array:
        """`g + x <g, value - x> / <x, x>`."""
        along, error = residuals
        full = g.astype(jnp.float32)
        share = jnp.sum(full * error, axis=granularity_axes(self.granularity, g.ndim), keepdims=True)
        return (full + along * share).astype(g.dtype)


class _AlongScale(NamedTuple):
    """Residuals of `ThroughScale`, float32, of the shape of x."""

    along: Array
    error: Array


def __getattr__(name: str) -> Any:
    """`Rms`, the name that `RmsThreshold` shared with the scale rule `capscale.formats.Rms` before."""
    if name == "Rms":
        warnings.warn("capscale.estimators.Rms is called RmsThreshold", DeprecationWarning, stacklevel=2)
        return RmsThreshold
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


STRAIGHT_THROUGH = StraightThrough()
TRUST = Trust()


@dataclass(frozen=True)
class Both:
    """Of a sparse-then-quantized tensor: passes where `sparse` passes, and, where the entry was kept, `grid` too."""

    sparse: Estimator = STRAIGHT_THROUGH
    grid: Estimator = TRUST

    def __call__(self, x: Array, projection: Projection) -> Array | None:
        """Conjunction; the grid has no say about pruned entries."""
        sparse, grid = self.sparse(x, projection), self.grid(x, projection)
        if grid is None:
            return sparse
        keep = needed(projection.keep, self, "sparsity")
        if grid.dtype != jnp.bool:
            return conjunction(sparse, jnp.where(keep, grid, jnp.ones_like(grid)))
        # By way of numbers: Mosaic negates no booleans on GPUs, and on a TPU v4 it does not choose between them.
        pruned = jnp.where(keep, 0.0, 1.0) > 0
        return conjunction(sparse, grid | pruned)
