"""Outliers: the few largest magnitudes of every row stay in bfloat16, the rest is quantized."""

from dataclasses import dataclass, replace
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from capscale.checks import check_real
from capscale.errors import UserError
from capscale.kernels.rounding import rounded_to
from capscale.kernels.select import largest

from .base import Context, Granularity, Projection, in_dtype, per_row, to_float32
from .distributions import Array64, Density, Distribution, Moments, grid_error, second_moment
from .mse import Mse
from .rounding import Rounding, refuse_alone
from .scalar import Scalar
from .scale import Rms
from .storage import Codes, Field, Shape, codes_value, rows_of, value_codes
from .survivors import Tails

VALUE_BITS = 16  # bfloat16
INDEX_BITS = 16  # place of an outlier in its row


@dataclass(frozen=True)
class Outliers:
    """The `fraction` of largest magnitude of every row in bfloat16, the others by `inner`, scaled without them.

    Each outlier pays for its value and its 16-bit index. An inner format that codes values one by one stores no code
    for it; one of vectors stores them all, with zeros where outliers were.
    """

    inner: Rounding
    fraction: float

    def __post_init__(self) -> None:
        check_real(self, "fraction", least=0, below=1)
        if not isinstance(self.inner, Rounding) or self.inner.learns:
            raise UserError(
                f"Outliers(inner={self.inner!r}): the inner format must be a Scalar or a Vector with measured scales"
            )
        if isinstance(self.inner, Scalar):
            refuse_alone(self.inner, self)

    @property
    def bits(self) -> float:
        """Codes of the others, scales, and value and index of the outliers."""
        spared = float(np.log2(self.inner.codes)) if self.inner.run == 1 else 0.0
        return self.inner.bits + self.fraction * (VALUE_BITS + INDEX_BITS - spared)

    @property
    def granularity(self) -> Granularity:
        """That of the inner format; outliers are chosen in each row."""
        return self.inner.granularity

    def per_row(self) -> "Outliers":
        """The inner format row by row."""
        inner = per_row(self.inner)
        assert isinstance(inner, Rounding)
        return replace(self, inner=inner)

    def apart(self, width: int) -> int:
        """Outliers of a row: the nearest integer to `fraction width`."""
        apart = round(self.fraction * width)
        if width and apart == width:
            raise UserError(f"Outliers(fraction={self.fraction}) leaves nothing of a row of {width} to quantize")
        if width > 2**INDEX_BITS:
            raise UserError(f"rows of {width} values: outlier indices have {INDEX_BITS} bits; split the rows")
        return apart

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """Of unboundedly long rows: the grid on the law between the thresholds, and bfloat16 beyond them."""
        if not isinstance(self.inner, Scalar) or not isinstance(scale := self.inner.scale, Rms):
            return None
        if samples is not None or self.inner.groups.values is not None or not self.fraction:
            return None
        tails = Tails(distribution, float(distribution.quantile(1 - self.fraction / 2)))
        middle = _Middle(distribution, tails)
        mass, energy = second_moment(middle)
        grid = self.inner.grid
        levels = grid.levels * (scale.clip(grid) * (energy / mass) ** 0.5 / grid.levels[-1])
        return Mse(grid_error(levels, middle) + grid_error(_bfloat16_levels(), tails), "closed form")

    def project(self, x: Array, ctx: Context) -> Projection:
        """Outliers rounded to bfloat16, the rest on the scaled grid."""
        if not self.apart(x.shape[-1]):
            return self.inner.project(x, ctx)
        far, rest = self._split(x)
        inner = self.inner.project_by(self.inner.measure(rest, ctx, ~far), rest)
        kept = rounded_to(to_float32(x, "Outliers"), jnp.bfloat16)
        return Projection(
            value=jnp.where(far, in_dtype(kept.astype(jnp.float32), x.dtype), inner.value),
            step=inner.step,
            error_in_steps=_off(far, inner.error_in_steps),
            relative_magnitude=_off(far, inner.relative_magnitude),
        )

    def _split(self, x: Array) -> tuple[Array, Array]:
        far, _ = largest(x, self.apart(x.shape[-1]))
        return far, jnp.where(far, jnp.zeros_like(x), x)

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Codes of the others, scales, values and indices of the outliers."""
        apart = self.apart(shape[-1]) * rows_of(shape)
        coded = prod(shape) - apart if self.inner.run == 1 else prod(shape) // self.inner.run
        return (
            Field("codes", coded, self.inner.codes),
            *self.inner.scale_layout(shape),
            Field("values", apart, 2**VALUE_BITS),
            Field("indices", apart, 2**INDEX_BITS),
        )

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes of the others, scales, values and indices of the outliers."""
        if not self.apart(x.shape[-1]):
            empty = np.empty(0, np.uint32)
            codes, parts = self._whole(x, ctx)
            stored = {"codes": np.asarray(codes).reshape(-1), **self.inner.store_scales(parts)}
            return {**stored, "values": empty, "indices": empty}
        far, codes, parts = self._coded(x, ctx)
        mask = np.asarray(far)
        kept = np.asarray(rounded_to(to_float32(x, "Outliers"), jnp.bfloat16))
        return {
            "codes": np.asarray(codes)[~mask] if self.inner.run == 1 else np.asarray(codes).reshape(-1),
            **self.inner.store_scales(parts),
            "values": value_codes(kept[mask]),
            "indices": np.nonzero(mask)[-1].astype(np.uint32),
        }

    @partial(jax.jit, static_argnums=0)
    def _whole(self, x: Array, ctx: Context) -> tuple[Array, tuple[Array, ...]]:
        parts = self.inner.measure(x, ctx)
        return self.inner.codes_of(x, parts), parts

    @partial(jax.jit, static_argnums=0)
    def _coded(self, x: Array, ctx: Context) -> tuple[Array, Array, tuple[Array, ...]]:
        far, rest = self._split(x)
        parts = self.inner.measure(rest, ctx, ~far)
        return far, self.inner.codes_of(rest, parts), parts

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Both parts in their places."""
        rows = rows_of(shape)
        mask = np.zeros((rows, shape[-1]), bool)
        apart = codes["indices"].size // max(rows, 1)
        mask[np.repeat(np.arange(rows), apart), codes["indices"]] = True
        full = codes["codes"]
        if self.inner.run == 1:
            full = np.zeros(mask.shape, np.uint32)
            full[~mask] = codes["codes"]
        of_runs = jnp.asarray(full.reshape(*shape[:-1], shape[-1] // self.inner.run))
        value = self.inner.values_of(of_runs, self.inner.load_scales(codes, shape), dtype)
        out = np.array(value).reshape(mask.shape)
        kept = jnp.asarray(codes_value(codes["values"], jnp.bfloat16).astype(np.float32))
        out[mask] = np.asarray(in_dtype(kept, dtype))
        return jnp.asarray(out.reshape(shape))


def _off(far: Array, measured: Array | None) -> Array | None:
    """Zero at outliers, which nothing clips."""
    return None if measured is None else jnp.where(far, 0.0, measured)


class _Middle:
    """Distribution of the values between the tails."""

    def __init__(self, whole: Density, tails: Density):
        self.whole, self.tails = whole, tails

    def moments(self, a: Array64, b: Array64) -> Moments:
        """Moments of all less those of the tails."""
        pairs = zip(self.whole.moments(a, b), self.tails.moments(a, b), strict=True)
        m0, m1, m2 = (whole - tail for whole, tail in pairs)
        return m0, m1, m2


def _bfloat16_levels() -> Array64:
    """Every bfloat16 number of both signs whose magnitude is 0 or from 2^-8 to 2^16."""
    patterns = np.arange((127 - 8) << 7, (127 + 16) << 7, dtype=np.uint32)
    positive = (patterns << 16).view(np.float32).astype(np.float64)
    return np.concatenate([-positive[::-1], [0.0], positive])
