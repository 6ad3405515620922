"""Unstructured sparsity by magnitude: which entries stay, the rest is zero."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from capscale.checks import LARGEST_WHOLE, check_choice, check_real
from capscale.errors import UserError
from capscale.kernels.rms import root_mean_square
from capscale.kernels.select import largest

from .base import Context, Format, Granularity, Projection, granularity_axes, refuse_shard, to_float32
from .distributions import NORMAL, Distribution, second_moment
from .mse import Mse
from .schedule import CONSTANT, Schedule
from .storage import Codes, Field, Shape, codes_value, value_bits, value_codes
from .survivors import LargeBlocks, Survival, Tails

VALUE_BITS = 16  # survivors of a bfloat16 tensor


def run_of(sparse: "Sparse") -> int:
    """Neighbours of a row that stay or go together: the `unit` of a sparsity, its columns; 1 where it has none."""
    unit = getattr(sparse, "unit", 1)
    return unit[-1] if isinstance(unit, tuple) else unit


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


def check_unit(format: "TopK") -> None:
    """Raises UserError for a unit that is no positive number, nor a pair, or spans rows that are judged apart."""
    pair = format.unit if isinstance(format.unit, tuple) else (format.unit,)
    whole = all(isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= LARGEST_WHOLE for size in pair)
    if not whole or len(pair) > 2:
        raise UserError(f"TopK(unit={format.unit!r}): so many neighbours, or (rows, columns), each from 1")
    if format.granularity == "row" and isinstance(format.unit, tuple):
        raise UserError(f"TopK(unit={format.unit}, granularity='row'): a block spans rows; give its columns alone")


@dataclass(frozen=True)
class TopK(BitMask, StoresSurvivors):
    """Keeps the `1 - sparsity` share of largest magnitude; exactly `kept(size)` entries, ties to the first.

    `unit`: neighbours that stay or go together, chosen by their Euclidean norm: so many of a row, or (rows, columns) of
    a block. As many units stay as the share says.
    `granularity` "matrix": one threshold for the last two axes (unstructured sparsity of a weight);
    "row": one per row (per token of an activation, so that no token sees another).
    `schedule`: Constant, or Cubic for gradual magnitude pruning; it ends at `sparsity`.
    """

    JSON_FIELDS: ClassVar[Mapping[str, str]] = {"granularity": "scope"}
    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"unit": 1}

    sparsity: float
    granularity: Granularity = "matrix"
    schedule: Schedule = CONSTANT
    unit: int | tuple[int, int] = 1

    def __post_init__(self) -> None:
        check_real(self, "sparsity", least=0, below=1)
        check_choice(self, "granularity", ("row", "matrix"))
        check_unit(self)

    @property
    def density(self) -> float:
        """Kept share of the values, at the end of the schedule."""
        return 1 - self.sparsity

    @property
    def bits(self) -> float:
        """Survivors in bfloat16, and the mask."""
        return VALUE_BITS * self.density + self.mask_bits

    @property
    def mask_bits(self) -> float:
        """One bit for each unit."""
        return 1 / prod(self._block)

    @property
    def _block(self) -> tuple[int, int]:
        """Rows and columns of a unit."""
        return self.unit if isinstance(self.unit, tuple) else (1, self.unit)

    def per_row(self) -> "TopK":
        """One threshold per row, of units that are as wide and lie in one."""
        return replace(self, granularity="row", unit=self._block[1])

    def kept(self, size: int) -> int:
        """Survivors among `size` values, or units of them: the nearest integer to `(1 - sparsity) size`, never none."""
        kept = round(self.density * size)
        if size and not kept:
            raise UserError(
                f"TopK(sparsity={self.sparsity}, granularity={self.granularity!r}) would prune all {size} values that "
                "share a threshold; lower the sparsity or widen the granularity"
            )
        return kept

    def survivors(self, shape: Shape) -> int:
        """Kept values of a tensor of this shape, at the end of the schedule."""
        units = self._units(shape)
        size = prod(units[axis] for axis in granularity_axes(self.granularity, len(shape)))
        return self.kept(size) * prod(self._block) * (prod(units) // max(size, 1))

    def _units(self, shape: Shape) -> Shape:
        """Shape of the units of a tensor of this shape; refused where they do not divide it."""
        rows, columns = self._block
        if shape[-1] % columns or (rows > 1 and (len(shape) < 2 or shape[-2] % rows)):
            raise UserError(f"TopK(unit={self.unit}) needs a shape that it divides, not {shape}")
        whole = (*shape[:-1], shape[-1] // columns)
        return whole if rows == 1 else (*whole[:-2], whole[-2] // rows, whole[-1])

    def _spread(self, of_units: Any, shape: Shape) -> Any:
        """An entry a unit at all values of the unit, for arrays of numpy and jax."""
        rows, columns = self._block
        wide = of_units.repeat(columns, axis=-1)
        return wide if rows == 1 else wide.repeat(rows, axis=-2)

    def _sizes(self, full: Array) -> Array:
        """Magnitude of every unit: the RMS of its values."""
        rows, columns = self._block
        if rows == columns == 1:
            return full
        units = self._units(full.shape)
        if rows == 1:
            return root_mean_square(full.reshape(*units, columns))[..., 0]
        blocks = full.reshape(*units[:-1], rows, units[-1], columns)
        return root_mean_square(jnp.moveaxis(blocks, -3, -2), (-2, -1))[..., 0, 0]

    def mask_layout(self, shape: Shape) -> Field:
        """A bit per unit."""
        return Field("mask", prod(self._units(shape)), 2)

    def encode_mask(self, keep: Codes) -> Codes:
        """Codes 0 (pruned) and 1 (kept), of units."""
        rows, columns = self._block
        of_units = np.asarray(keep)[..., ::columns]
        return (of_units if rows == 1 else of_units[..., ::rows, :]).reshape(-1).astype(np.uint32)

    def decode_mask(self, codes: Codes, shape: Shape) -> Codes:
        """Mask of the codes, the inverse of `encode_mask`."""
        return self._spread(codes.reshape(self._units(shape)), shape)

    def survival(self, distribution: Distribution) -> Survival | None:
        """Both tails that hold the kept share; of units, values of large blocks of normal ones."""
        size = prod(self._block)
        if size == 1:
            return Tails(distribution, float(distribution.quantile(1 - self.density / 2)))
        return LargeBlocks(size, self.density) if distribution == NORMAL else None

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """`E[x^2; pruned]` of unboundedly many values: 1 less the second moment of what is kept."""
        survival = self.survival(distribution)
        if survival is None or (samples is not None and self.granularity == "row"):
            return None
        kept = survival.energy if isinstance(survival, LargeBlocks) else second_moment(survival)[1]
        return Mse(1 - kept, "closed form")

    def project(self, x: Array, ctx: Context) -> Projection:
        """Zeroes all but the largest magnitudes of each row or matrix."""
        full = to_float32(x, "TopK")
        if self.granularity == "matrix":
            refuse_shard(x, f"the threshold of {self}")
        axes = granularity_axes(self.granularity, x.ndim)
        units = self._units(x.shape)
        size = prod(units[axis] for axis in axes)
        kept: int | Array = self.kept(size)
        if self.schedule != CONSTANT:
            share = self.schedule(ctx.progress)
            gradual = size - jnp.round(share * jnp.float32(size - kept)).astype(jnp.int32)
            kept = jnp.where(jnp.asarray(share) == 1, kept, gradual)
        if not x.size:
            return Projection(x, keep=jnp.ones(x.shape, jnp.bool))
        whole = prod(self._block) == 1
        keep, threshold = largest(x if whole else self._sizes(full), kept, axes)
        keep = self._spread(keep, x.shape)
        return Projection(
            value=jnp.where(keep, x, jnp.zeros_like(x)),
            keep=keep,
            threshold=threshold.astype(jnp.float32),
            rms=root_mean_square(full, axes),
        )
