"""The kernel of an operand: which formats and estimators `capscale.kernels.project` computes together, and how."""

from dataclasses import replace
from functools import cache
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError
from capscale.estimators import Estimator
from capscale.formats.base import Context, Format
from capscale.formats.capabilities import GivesKernel, kernel_spec, learns
from capscale.formats.rotation import signs_flipped, turned, turned_back
from capscale.kernels.hadamard import rotate
from capscale.kernels.matmul.codes import Multiplicand, Pair
from capscale.kernels.project import Encoded, Spec, Unsupported, encode
from capscale.kernels.project.ahead import Ahead, Beside, without_prologue
from capscale.kernels.project.ahead import project_ahead as ahead
from capscale.kernels.project.op import BackendChoice, choose, without_coded
from capscale.kernels.project.op import project as fused
from capscale.kernels.project.op import project_coded as coded
from capscale.kernels.project.rules import operations, reads
from capscale.masks import Pulls

_SPECIAL = {"erf", "erfc", "erf_inv"}
"""Of the normal distribution: Mosaic has not all of them, and compilers differ in their last bits."""


def project_fused(
    format: Format,
    estimator: Estimator,
    x: Array,
    ctx: Context,
    *,
    rotation: int | None,
    back: bool,
    signs: int | None = None,
) -> Array | None:
    """Rows x (..., K) rotated, projected and, where asked, rotated back by one kernel, gradient included.

    XLA multiplies by random `signs` ahead of it and behind it, and rotates there by blocks that no kernel does. None
    where `capscale.kernels.dispatch` leaves all of it to XLA, on a CPU always.
    """
    found = _by_kernel(format, estimator, x, rotation, back)
    if found is None:
        return None
    spec, how = found
    rows = _ahead(spec, x, rotation, signs)
    value = fused(spec, rows, given_R1(format, spec, rows, ctx), how)
    if not back:
        return value
    return signs_flipped(value, signs) if spec.rotation == rotation else turned_back(value, rotation, signs)


def project_coded(
    format: Format, estimator: Estimator, x: Array, *, rotation: int | None, signs: int | None, pair: Pair
) -> tuple[Array, Multiplicand] | None:
    """`project_fused` without a way back, and the same rows in the codes of x of a `pair`, by one kernel.

    None where there is no kernel that writes both.
    """
    found = _by_kernel(format, estimator, x, rotation) if pair.kind == "int8" else None
    if found is None or without_coded(*found, x.shape[-1], x.dtype):
        return None
    spec, how = found
    return coded(spec, pair.x, _ahead(spec, x, rotation, signs), how)


def project_ahead(
    format: Format,
    estimator: Estimator,
    rows: Ahead,
    *,
    rotation: int | None,
    back: bool,
    signs: int | None,
    pair: Pair | None,
) -> Beside | None:
    """`project_fused` of rows that are not computed yet, and codes where a `pair` is given; all by one kernel.

    None where there is none that does all of it.
    """
    if (rotation is not None and not rotates(rotation)) or (pair is not None and pair.kind != "int8"):
        return None
    x = rows.operands[0]
    found, (width, dtype) = _by_kernel(format, estimator, x, rotation, back), (x.shape[-1], x.dtype)
    if (
        found is None
        or without_prologue(*found, width, dtype, rows.prologue)
        or (pair is not None and without_coded(*found, width, dtype))
    ):
        return None
    flipped = rows if signs is None else rows.times(signs_flipped(jnp.ones((width,), jnp.float32), signs))
    projected = ahead(found[0], flipped, found[1], None if pair is None else pair.x)
    return projected._replace(value=signs_flipped(projected.value, signs)) if back else projected


def _by_kernel(
    format: Format, estimator: Estimator, x: Array, rotation: int | None, back: bool = False
) -> tuple[Spec, BackendChoice] | None:
    """The projection that a kernel makes of rows x, and that kernel; None where XLA does all of it."""
    within = rotation if rotation is not None and rotates(rotation) else None
    spec = trained_spec(format, estimator, within, back and within is not None)
    ahead = f", rotated by {rotation} ahead of it, as kernels rotate by powers of two up to {LARGEST}"
    how = choose(spec, x, f"{format} {estimator}{'' if within == rotation else ahead}")
    return None if how.backend == "reference" or isinstance(spec, Unsupported) else (spec, how)


def _ahead(spec: Spec, x: Array, rotation: int | None, signs: int | None) -> Array:
    """Rows x as the kernel takes them that rotates as `spec` says."""
    return signs_flipped(x, signs) if spec.rotation == rotation else turned(x, rotation, signs)


def encode_fused(
    format: Format, spec: Spec, x: Array, ctx: Context, *, rotation: int | None, signs: int | None = None
) -> Encoded:
    """Rows x (..., K), rotated as `project_fused` rotates them, in the codes of `format`, whose `spec` has some.

    By the kernel that `capscale.kernels.dispatch` chooses, or by XLA. No gradient goes through.
    """
    within = rotation if rotation is not None and rotates(rotation) else None
    rows = signs_flipped(x, signs) if within == rotation else turned(x, rotation, signs)
    spec = replace(spec, mask=None, rotation=within)
    return encode(spec, rows, given_R1(format, spec, rows, ctx))


LARGEST = 128
"""Largest block that kernels rotate by: lanes of a TPU's register, columns of a tile on Hopper."""


def rotates(block: int) -> bool:
    """Whether kernels rotate by this block."""
    return block <= LARGEST and block.bit_count() == 1


@cache
def spec_of(
    format: Format, estimator: Estimator, rotation: int | None = None, back: bool = False
) -> Spec | Unsupported:
    """Specification of the kernel for this format and estimator, or why there is none.

    Example: `spec_of(Scalar(Int(4)), Trust(), rotation=128, back=True)`.
    """
    spec = kernel_spec(format)
    if isinstance(spec, Unsupported):
        return spec
    return _masked(replace(spec, mask=None, rotation=rotation, back=back), estimator)


def trained_spec(
    format: Format, estimator: Estimator, rotation: int | None = None, back: bool = False
) -> Spec | Unsupported:
    """Specification of the kernel in training, gradients of learned scales included, or why there is none."""
    if learns(format):
        return Unsupported("the gradient of a learned step is left to XLA")
    return spec_of(format, estimator, rotation, back)


def given_R1(format: Format, spec: Spec, x: Array, ctx: Context) -> Array | None:
    """Numbers that the scale rule of `spec` is given for every row of x (..., R, K), as (..., R, 1)."""
    if spec.scale is None or not spec.scale.given:
        return None
    assert isinstance(format, GivesKernel)
    rows = rotate(x, spec.rotation) if spec.rotation else x
    return jnp.broadcast_to(format.kernel_given(rows, ctx), (*x.shape[:-1], 1))


def _masked(spec: Spec, estimator: Estimator) -> Spec | Unsupported:
    """`spec` with the estimator as its mask, none where it passes everything; or why no kernel evaluates it."""
    if isinstance(estimator, Pulls):
        return Unsupported(f"{estimator} has a gradient of its own, which is no mask")
    measures = spec.measures
    try:
        traced = jax.make_jaxpr(cast(Any, estimator))(jax.ShapeDtypeStruct((1, 2), jnp.float32), measures)
    except UserError:
        return Unsupported(f"{estimator} reads what the kernel does not measure")
    if _SPECIAL & operations(traced.jaxpr):
        return Unsupported(f"{estimator} takes error functions of what is measured, which are left to XLA")
    if reads(estimator, measures, "value"):
        return Unsupported(f"{estimator} reads the value itself, which a kernel rounds after its mask")
    if any(aval.dtype != jnp.bool for aval in traced.out_avals):
        return Unsupported(f"{estimator} multiplies the gradient, and kernels keep a bit a value of what passes")
    return replace(spec, mask=cast(Any, estimator) if traced.out_avals else None)
