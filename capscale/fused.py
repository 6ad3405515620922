"""The kernel's specification of an operand: which formats `capscale.kernels.project` computes, and how."""

from functools import cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import capscale.kernels.project as kernel
from capscale.errors import UserError
from capscale.estimators import Estimator, StraightThrough
from capscale.formats.base import Context, Format
from capscale.formats.compose import Then
from capscale.formats.grids import Grid
from capscale.formats.pattern import NM
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, Learned, PowerOfTwo, Rms, ScaleRule, TwoLevel
from capscale.formats.vector import Vector, codebook
from capscale.kernels.hadamard import rotate
from capscale.kernels.project.op import choose
from capscale.kernels.project.op import project as fused


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

    Example: `spec_of(Scalar(Int(4)), Trust(), rotation=128, back=True)`.
    """
    parts: dict[str, Any]
    if isinstance(format, Scalar):
        parts = _scalar(format)
    elif isinstance(format, Vector):
        words = codebook(format.dimension, format.codewords)
        outermost = float(np.max(np.linalg.norm(words, axis=1)))
        scaling = _scalar(format.scaling)
        parts = {"codebook": kernel.Codebook(tuple(map(tuple, words.tolist())), outermost)}
        parts |= {name: scaling[name] for name in ("scale", "group")}
    elif isinstance(format, NM):
        parts = {"pattern": kernel.Pattern(format.n, format.m, format.unit)}
    elif isinstance(format, Then) and isinstance(format.sparse, NM):
        sparse = format.sparse
        pattern = kernel.Pattern(sparse.n, sparse.m, sparse.unit, dense_scales=format.scales_from == "dense")
        parts = {"pattern": pattern} | _scalar(format.fitted)
    else:
        return f"{type(format).__name__} formats are left to XLA"
    if isinstance(parts.get("scale"), str):
        return parts["scale"]
    mask = None if estimator == StraightThrough() else estimator
    if mask is not None and (reason := _unreadable(mask, parts)):
        return reason
    return kernel.Spec(**parts, mask=cast(Any, mask), rotation=rotation, back=back)


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
    if isinstance(scale, TwoLevel):
        return kernel.LevelTimes(scale.scales, top)
    if isinstance(scale, Learned) or whole_matrix:
        return kernel.Given()
    match scale:
        case Rms():
            return kernel.RmsTimes(scale.clip(grid) / top)
        case Absmax():
            return kernel.LargestOver(top)
        case PowerOfTwo():
            return kernel.PowerOfTwo(scale.reference(grid), scale.rounding)
    return f"{type(scale).__name__} scales are left to XLA"


def _unreadable(mask: Estimator, parts: dict[str, Any]) -> str | None:
    """Why an estimator cannot be evaluated on what the kernel measures."""
    value, flag = jax.ShapeDtypeStruct((1, 2), jnp.float32), jax.ShapeDtypeStruct((1, 2), jnp.bool)
    measures = kernel.Measures()
    if "grid" in parts:
        measures = measures._replace(step=value, distance=value, radius=value, slope=value)
    if "codebook" in parts:
        measures = measures._replace(radius=value)
    if "pattern" in parts:
        measures = measures._replace(keep=flag, threshold=value)
    try:
        jax.eval_shape(mask, value, measures)
    except UserError:
        return f"{mask} reads what the kernel does not measure"
    return None
