"""Noise injection: an ideal format of a given GMSE (arXiv 2506.01863, Finding 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from capscale.checks import check_choice, check_real
from capscale.errors import UserError
from capscale.kernels.rms import root_mean_square

from .base import Context, Granularity, Projection, granularity_axes, in_dtype, refuse_shard, rounded, to_float32
from .distributions import Distribution
from .mse import Mse


@dataclass(frozen=True)
class Noise:
    """`x + sqrt(gmse mean(x^2)) z`, z ~ N(0, 1), fresh at every step from `Context.key`.

    `granularity` "row": one mean square a row, as in the authors' noise quantizer (whose deviation is taken about
    the row's mean); "matrix": one in all. Evaluation draws too, as theirs does.
    Stands for the best format of that error, so its bits are those of the rate-distortion bound, -log2(gmse) / 2.
    Nothing is stored: it is a model of a format, not one.
    """

    JSON_FIELDS: ClassVar[Mapping[str, str]] = {"granularity": "scope"}

    gmse: float
    granularity: Granularity = "row"

    def __post_init__(self) -> None:
        check_real(self, "gmse", above=0)
        check_choice(self, "granularity", ("row", "matrix"))
        if not 0 < self.gmse <= 1:
            raise UserError(f"Noise(gmse={self.gmse}): the error must be above 0, and at most the variance, 1")

    @property
    def bits(self) -> float:
        """Rate of an ideal format of this error."""
        return -log2(self.gmse) / 2

    @property
    def draws(self) -> bool:
        """True: needs a key."""
        return True

    def per_row(self) -> "Noise":
        """Variance measured per row."""
        return Noise(self.gmse, "row")

    def error(self, distribution: Distribution, samples: int | None) -> Mse:
        """The GMSE that was given."""
        return Mse(self.gmse, "exact")

    def project(self, x: Array, ctx: Context) -> Projection:
        """Adds the noise to `x`."""
        if ctx.key is None:
            raise UserError("Noise needs a PRNG key in Context.key")
        full = to_float32(x, "Noise")
        if self.granularity == "matrix":
            refuse_shard(x, f"the deviation of {self}")
        deviation = root_mean_square(full, granularity_axes(self.granularity, x.ndim)) * jnp.float32(self.gmse**0.5)
        noise = deviation * rounded(jax.random.normal(ctx.key, x.shape, jnp.float32))
        return Projection(value=in_dtype(full + rounded(noise), x.dtype))
