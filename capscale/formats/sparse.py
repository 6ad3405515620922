"""Unstructured sparsity by magnitude: which entries stay, the rest is zero."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from capscale.checks import check_choice, check_real
from capscale.errors import UserError
from capscale.kernels.rms import root_mean_square
from capscale.kernels.select import largest

from .base import Context, Format, Granularity, Projection, granularity_axes, refuse_shard, to_float32
from .distributions import Distribution, second_moment
from .mse import Mse
from .schedule import CONSTANT, Schedule
from .storage import Codes, Field, Shape, codes_value, value_bits, value_codes
from .survivors import Survival, Tails

VALUE_BITS = 16  # survivors of a bfloat16 tensor


@runtime_checkable
class Sparse(Format, Protocol):
    """A format that zeroes entries and keeps the others as they are."""

    @property
    def density(self) -> float:
        """Kept share of the values."""
        ...

    @property
    def mask_bits(self) -> float:
        """Storage bits per value that say which values are kept."""
        ...

    def survival(self, distribution: Distribution) -> Survival | None:
        """The law of the survivors, where it is known."""
        ...

    def survivors(self, shape: Shape) -> int:
        """How many values of a tensor of this shape are kept."""
        ...

    def mask_layout(self, shape: Shape) -> Field:
        """How the mask is stored."""
        ...

    def encode_mask(self, keep: Codes) -> Codes:
        """Codes of a boolean mask."""
        ...

    def decode_mask(self, codes: Codes, shape: Shape) -> Codes:
        """Mask of the codes, the inverse of `encode_mask`."""
        ...


class StoresSurvivors:
    """Storage of formats that keep survivors as they are: the mask, and the survivors in row-major order."""

    def layout(self: Sparse, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Mask of the survivors, and their values."""
        return self.mask_layout(shape), Field("values", self.survivors(shape), 2 ** value_bits(dtype))

    def store(self: Sparse, x: Array, ctx: Context) -> dict[str, Codes]:
        """Mask of the survivors, and their values."""
        keep = np.asarray(jax.jit(lambda x, ctx: self.project(x, ctx).keep)(x, ctx))
        return {"mask": self.encode_mask(keep), "values": value_codes(np.asarray(x)[keep])}

    def load(self: Sparse, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Survivors in their places."""
        out = np.zeros(shape, jnp.dtype(dtype))
        out[self.decode_mask(codes["mask"], shape).astype(bool)] = codes_value(codes["values"], dtype)
        return jnp.asarray(out)


class BitMask:
    """Storage of masks without structure: a bit per value."""

    @property
    def mask_bits(self) -> float:
        """One bit for each value."""
        return 1.0

    def mask_layout(self, shape: Shape) -> Field:
        """A bit per value."""
        return Field("mask", prod(shape), 2)

    def encode_mask(self, keep: Codes) -> Codes:
        """Codes 0 (pruned) and 1 (kept)."""
        return np.asarray(keep).reshape(-1).astype(np.uint32)

    def decode_mask(self, codes: Codes, shape: Shape) -> Codes:
        """Mask of the codes, the inverse of `encode_mask`."""
        return codes.reshape(shape)


@dataclass(frozen=True)
class TopK(BitMask, StoresSurvivors):
    """Keeps the `1 - sparsity` share of largest magnitude; exactly `kept(size)` entries, ties to the first.

    `granularity` "matrix": one threshold for the last two axes (unstructured sparsity of a weight);
    "row": one per row (per token of an activation, so that no token sees another).
    `schedule`: Constant, or Cubic for gradual magnitude pruning; it ends at `sparsity`.
    """

    JSON_FIELDS: ClassVar[Mapping[str, str]] = {"granularity": "scope"}

    sparsity: float
    granularity: Granularity = "matrix"
    schedule: Schedule = CONSTANT

    def __post_init__(self) -> None:
        check_real(self, "sparsity", least=0, below=1)
        check_choice(self, "granularity", ("row", "matrix"))

    @property
    def density(self) -> float:
        """Kept share of the values, at the end of the schedule."""
        return 1 - self.sparsity

    @property
    def bits(self) -> float:
        """Survivors in bfloat16, and the mask."""
        return VALUE_BITS * self.density + self.mask_bits

    def per_row(self) -> "TopK":
        """One threshold per row."""
        return replace(self, granularity="row")

    def kept(self, size: int) -> int:
        """Survivors among `size` values: the nearest integer to `(1 - sparsity) size`, never none."""
        kept = round(self.density * size)
        if size and not kept:
            raise UserError(
                f"TopK(sparsity={self.sparsity}, granularity={self.granularity!r}) would prune all {size} values that "
                "share a threshold; lower the sparsity or widen the granularity"
            )
        return kept

    def survivors(self, shape: Shape) -> int:
        """Kept values of a tensor of this shape, at the end of the schedule."""
        size = prod(shape[axis] for axis in granularity_axes(self.granularity, len(shape)))
        return self.kept(size) * (prod(shape) // max(size, 1))

    def survival(self, distribution: Distribution) -> Survival:
        """Both tails that hold the kept share."""
        return Tails(distribution, float(distribution.quantile(1 - self.density / 2)))

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """`E[x^2; |x| < T]` of unboundedly many values: 1 less the second moment of both tails."""
        if samples is not None and self.granularity == "row":
            return None
        return Mse(1 - second_moment(self.survival(distribution))[1], "closed form")

    def project(self, x: Array, ctx: Context) -> Projection:
        """Zeroes all but the largest magnitudes of each row or matrix."""
        full = to_float32(x, "TopK")
        if self.granularity == "matrix":
            refuse_shard(x, f"the threshold of {self}")
        axes = granularity_axes(self.granularity, x.ndim)
        size = prod(x.shape[axis] for axis in axes)
        kept: int | Array = self.kept(size)
        if self.schedule != CONSTANT:
            share = self.schedule(ctx.progress)
            gradual = size - jnp.round(share * jnp.float32(size - kept)).astype(jnp.int32)
            kept = jnp.where(jnp.asarray(share) == 1, kept, gradual)
        if not x.size:
            return Projection(x, keep=jnp.ones(x.shape, jnp.bool))
        keep, threshold = largest(x, kept, axes)
        return Projection(
            value=jnp.where(keep, x, jnp.zeros_like(x)),
            keep=keep,
            threshold=threshold.astype(jnp.float32),
            rms=root_mean_square(full, axes),
        )
