"""The kernel's specification of an operand: which formats `capscale.kernels.project` computes, and how."""

from dataclasses import replace
from functools import cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import capscale.kernels.project as kernel
from capscale.errors import UserError
from capscale.estimators import Estimator, Pulls
from capscale.formats.base import Context, Format
from capscale.formats.compose import Then
from capscale.formats.grids import Grid
from capscale.formats.pattern import NM
from capscale.formats.roles import Fuses
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, Learned, PowerOfTwo, Rms, ScaleRule, TwoLevel
from capscale.formats.vector import Vector, codebook
from capscale.kernels.hadamard import rotate
from capscale.kernels.project.op import choose
from capscale.kernels.project.op import project as fused
from capscale.kernels.project.rules import operations

_SPECIAL = {"erf", "erfc", "erf_inv"}
"""Of the normal distribution: Mosaic has not all of them, and compilers differ in their last bits."""


def project_fused(
    format: Format, estimator: Estimator, x: Array, ctx: Context, *, rotation: int | None, back: bool
) -> Array | None:
    """Rows x (..., K) rotated, projected and, where asked, rotated back by one kernel, gradient included.

    None where `capscale.kernels.dispatch` leaves them to XLA, on a CPU always.
    """
    spec = spec_of(format, estimator, rotation, back)
    if isinstance(format, Scalar) and format.learns:
        spec = "the gradient of a learned step is left to XLA"
    how = choose(spec, x, f"{format} {estimator}")
    if how.backend == "reference" or isinstance(spec, str):
        return None
    return fused(spec, x, given_R1(format, x, ctx, rotation), how)


@cache
def spec_of(format: Format, estimator: Estimator, rotation: int | None = None, back: bool = False) -> kernel.Spec | str:
    """What the kernel computes for this format and estimator, or why it does not.

    Formats are known by their exact types, as a class derived from one may compute something else; one of another type
    has a kernel if it is `Fuses`.

    Example: `spec_of(Scalar(Int(4)), Trust(), rotation=128, back=True)`.
    """
    parts = _parts(format)
    if isinstance(parts.get("scale"), str):
        return parts["scale"]
    if not parts:
        return f"{type(format).__name__} formats are left to XLA"
    return _masked(kernel.Spec(**parts, rotation=rotation, back=back), estimator)


def _parts(format: Format) -> dict[str, Any]:
    """Arguments of `Spec` that are the format's own; none without a kernel; `scale` may be why there is none."""
    if type(format) is Scalar:
        return _scalar(format)
    if type(format) is Vector:
        words = codebook(format.dimension, format.codewords)
        outermost = float(np.max(np.linalg.norm(words, axis=1)))
        scaling = _scalar(format.scaling)
        of = kernel.Codebook(tuple(map(tuple, words.tolist())), outermost)
        return {"codebook": of} | {name: scaling[name] for name in ("scale", "group")}
    if type(format) is NM:
        return {"pattern": kernel.Pattern(format.n, format.m, format.unit)}
    if type(format) is Then and type(format.sparse) is NM and type(format.scalar) is Scalar:
        sparse = format.sparse
        pattern = kernel.Pattern(sparse.n, sparse.m, sparse.unit, dense_scales=format.scales_from == "dense")
        return {"pattern": pattern} | _scalar(format.fitted)
    return _own(format) if isinstance(format, Fuses) and "fused" in vars(type(format)) else {}


def _own(format: Fuses) -> dict[str, Any]:
    """What a format says of its own kernel."""
    spec = format.fused()
    if spec.scale is not None and spec.scale.given:
        return {"scale": f"{type(format).__name__} has a scale that is given, which nothing here gives"}
    return {name: getattr(spec, name) for name in ("grid", "scale", "group", "codebook", "pattern")}


def given_R1(format: Format, x: Array, ctx: Context, rotation: int | None) -> Array | None:
    """What the scale rule of `spec_of(format)` is given for every row of x (..., R, K), as (..., R, 1)."""
    scalar = format.fitted if isinstance(format, Then) else format.scaling if isinstance(format, Vector) else format
    if not isinstance(scalar, Scalar) or not _needs(scalar):
        return None
    if isinstance(scalar.scale, Learned):
        scale = scalar.scale.measure(cast(Any, None), scalar.grid, ctx)[0]
    else:
        rows = rotate(x, rotation) if rotation else x
        sparse = format.sparse.project(rows, ctx) if isinstance(format, Then) else None
        on_survivors = sparse is not None and isinstance(format, Then) and format.scales_from == "survivors"
        scale = scalar.measure(sparse.value if sparse and on_survivors else rows, ctx)[-1]
        if isinstance(scalar.scale, TwoLevel):
            scale = scale[..., 0]
    return jnp.broadcast_to(scale, (*x.shape[:-1], 1))


def _needs(scalar: Scalar) -> bool:
    return scalar.group == "matrix" or isinstance(scalar.scale, TwoLevel | Learned)


def _scalar(format: Scalar) -> dict[str, Any]:
    """Grid, scale rule and group of a scalar format; in place of the rule, why the kernel has none."""
    group = format.group if isinstance(format.group, int) else None
    if isinstance(format.scale, Learned) and group is not None:
        return {"scale": "a learned step per group is left to XLA: the kernel takes one given scale a row"}
    return {"grid": format.grid, "scale": _rule(format.scale, format.grid, format.group == "matrix"), "group": group}


def _rule(scale: ScaleRule, grid: Grid, whole_matrix: bool) -> kernel.ScaleRule | str:
    top = float(grid.levels[-1])
    if type(scale) is TwoLevel:
        return kernel.LevelTimes(scale.scales, top)
    if type(scale) is Learned or whole_matrix:
        return kernel.Given()
    if type(scale) is Rms:
        return kernel.RmsTimes(scale.clip(grid) / top)
    if type(scale) is Absmax:
        return kernel.LargestOver(top)
    if type(scale) is PowerOfTwo:
        return kernel.PowerOfTwo(scale.reference(grid), scale.rounding)
    return f"{type(scale).__name__} scales are left to XLA"


def _masked(spec: kernel.Spec, estimator: Estimator) -> kernel.Spec | str:
    """`spec` with the estimator as its mask, none where it passes everything; or why no kernel evaluates it."""
    if isinstance(estimator, Pulls):
        return f"{estimator} has a gradient of its own, which is no mask"
    measures = spec.measures
    try:
        traced = jax.make_jaxpr(cast(Any, estimator))(jax.ShapeDtypeStruct((1, 2), jnp.float32), measures)
    except UserError:
        return f"{estimator} reads what the kernel does not measure"
    if _SPECIAL & operations(traced.jaxpr):
        return f"{estimator} takes error functions of what is measured, which are left to XLA"
    return replace(spec, mask=cast(Any, estimator) if traced.out_avals else None)
