"""Codes of a scalar grid, a byte for each 8, 4, 2 or 1 of them, and the scales that belong to them.

A code takes 1, 2, 4 or 8 bits, the least of them that holds every code of the grid; bytes are laid out by `bitplanes`.
`capscale.formats.packing` has another layout, neighbours sharing a byte, which on a TPU needs a move between lanes for
every value; what it packs are the codes that `bitplanes.unpack` gives.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol, cast

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from ..hadamard import rotate
from ..matmul.codes import Kind, Multiplicand, Steps, as_codes
from .bitplanes import plane_bytes, unpack
from .projection import in_dtype, rounded
from .scales import Grid, KernelRule, Statistic, normalised
from .spec import Spec

LARGEST = 256  # codes of a byte


class CodedGrid(Grid, Protocol):
    """A grid whose levels have codes, `log2(codes)` bits each."""

    @property
    def codes(self) -> int:
        """How many codes there are."""
        ...

    def encode(self, u: Array) -> Array:
        """Code of the level nearest to float32 `u`, an integer below `codes`. Elementwise."""
        ...

    def decode(self, codes: Array) -> Array:
        """Level of each uint32 code, float32."""
        ...


class Encoded(NamedTuple):
    """Rows in codes: a value is `level of its code * scale of its group`."""

    codes: Array
    """uint8 (..., W), `bitplanes.pack` of the codes (..., K)."""
    scales: Array
    """float32 (..., groups of a row), NaN where a value of the group is."""


def coded_grid(spec: Spec) -> CodedGrid:
    """The grid of a projection that has codes. Raises ValueError for one that has none."""
    if (reason := without_codes(spec)) is not None:
        raise ValueError(reason)
    return cast(CodedGrid, spec.grid)


def has_codes(spec: Spec) -> bool:
    """Whether rows of a projection can be written as codes and scales."""
    return without_codes(spec) is None


def without_codes(spec: Spec) -> str | None:
    """Why rows of a projection cannot be written as codes and scales, or None."""
    if spec.scale is not None and spec.scale.statistic == "extremes":
        return f"{spec}: the codes of scales with an offset are left to packed formats; use `project`"
    if spec.grid is None or spec.pattern is not None:
        return f"{spec}: only scalar grids without a pattern have codes; use `project`"
    grid = cast(CodedGrid, spec.grid)
    if not all(hasattr(grid, name) for name in ("codes", "encode", "decode")):
        return f"{spec.grid} has no codes: give it `codes`, `encode` and `decode`, or use `project`"
    if grid.codes > LARGEST:
        return f"{spec.grid} has {grid.codes} codes, a byte holds {LARGEST}; use `project`"
    return None


def code_bits(grid: CodedGrid) -> int:
    """Bits of a code: 1, 2, 4 or 8."""
    return next(bits for bits in (1, 2, 4, 8) if grid.codes <= 2**bits)


def group_count(spec: Spec, width: int) -> int:
    """How many scales a row of `width` values has."""
    return width // (spec.group or max(width, 1))


@dataclass(frozen=True)
class UnlessNaN:
    """Scale by `rule` of the given number alone; NaN for a group that holds one."""

    rule: KernelRule
    statistic: ClassVar[Statistic] = "largest"
    given: ClassVar[bool] = True

    def __call__(self, statistic: Array, given: Array) -> Array:
        """The rule's scale, NaN for a group that holds one."""
        return jnp.where(jnp.isnan(statistic), statistic, self.rule(None, given))


def encoded_spec(spec: Spec) -> Spec:
    """`spec` with scales that carry NaN, which has no code: a scale that is measured does, one that is given has to."""
    assert spec.scale is not None
    return replace(spec, scale=UnlessNaN(spec.scale)) if spec.scale.statistic == "none" else spec


def code_of(grid: CodedGrid, x: Array, scale: Array) -> Array:
    """int32 code of float32 `x` on the grid of that scale; NaN, which has none, is coded as 0 is. Elementwise."""
    normal = normalised(x, scale)
    return grid.encode(jnp.where(jnp.isnan(normal), 0.0, normal)).astype(jnp.int32)


def levels_of(spec: Spec, encoded: Encoded, width: int) -> Array:
    """Levels (..., `width`) of the codes that `encode` made of such rows, float32: values without their scales."""
    grid = coded_grid(spec)
    bits = code_bits(grid)
    # Runs side by side, as `bitplanes.unpack`, which a TPU's compiler lays out with a run in a register of 32.
    runs = [jnp.right_shift(encoded.codes, jnp.uint8(first)) & jnp.uint8(2**bits - 1) for first in range(0, 8, bits)]
    return grid.decode(jnp.concatenate(runs, axis=-1)[..., :width].astype(jnp.uint32))


def multiplicand(spec: Spec, encoded: Encoded, width: int, steps: Steps, kind: Kind) -> Multiplicand:
    """Codes that `encode` made of such rows, in one scale each, as products of codes read them."""
    codes = as_codes(levels_of(spec, encoded, width), steps, kind)
    return Multiplicand(codes, jnp.where(jnp.isfinite(encoded.scales), encoded.scales, jnp.nan))


def decode(spec: Spec, encoded: Encoded, width: int, dtype: DTypeLike) -> Array:
    """Rows (..., `width`) of what `encode` made: those of `project`, bit for bit, rotated back where it does.

    A group with a NaN is all NaN, also under a given scale, where `project` keeps its other values. Plain jnp, for XLA
    to fuse into what reads the rows. Raises ValueError for codes and scales that are not those of such rows.
    """
    spec.check(width)
    grid, scales = coded_grid(spec), encoded.scales
    bits, groups = code_bits(grid), group_count(spec, width)
    for what, found, wanted in (
        (f"bytes of codes of {bits} bits", encoded.codes.shape[-1], plane_bytes(width, bits)),
        ("scales", scales.shape[-1], groups),
    ):
        if found != wanted:
            raise ValueError(f"rows of {width} values have {wanted} {what}, not {found}; pass what `encode` made")
    codes = unpack(encoded.codes, width, bits).astype(jnp.uint32)
    split = (*codes.shape[:-1], groups, spec.group or width)
    value = in_dtype(rounded(grid.decode(codes).reshape(split) * scales[..., None]).reshape(codes.shape), dtype)
    return rotate(value, spec.rotation) if spec.rotation and spec.back else value
