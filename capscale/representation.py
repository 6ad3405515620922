"""Representation: how weights and activations are compressed, and the one seam to a model.

`linear(x, w, representation)` is the only place where compression meets a model.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from capscale.checks import check_whole
from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.estimator_names import estimator_name, find_estimator, split_name
from capscale.estimators import STRAIGHT_THROUGH, Estimator
from capscale.formats.base import NO_CONTEXT, Context, Format, granularity_of, per_row
from capscale.formats.capabilities import HasLearnedScale, Stateful
from capscale.formats.catalog import find, label
from capscale.formats.dense import UNCOMPRESSED
from capscale.formats.rotation import hadamard_block
from capscale.formats.stages import stages_of
from capscale.fused import project_fused
from capscale.kernels.hadamard import rotate
from capscale.kernels.renamed import old_names
from capscale.masks import Pulls, checked_mask, masked
from capscale.product import product


@dataclass(frozen=True)
class Operand:
    """One side of a matrix product: its format forward, its estimator backward.

    `estimator`: None for the default one, which a `Representation` fills in, as it depends on the rotation.
    """

    format: Format = UNCOMPRESSED
    estimator: Estimator | None = None

    @property
    def is_dense(self) -> bool:
        """True where nothing is compressed."""
        return self.format == UNCOMPRESSED

    def backward(self, rotated: bool = False) -> Estimator:
        """The estimator: the one given, or the default in a basis that is rotated or not."""
        return default_estimator(self.format, rotated) if self.estimator is None else self.estimator

    def name(self, rotated: bool) -> str:
        """Text that `operand` reads: `int4`, with the estimator where it is not the default, `top50 [fw]`."""
        usual = self.backward(rotated) == default_estimator(self.format, rotated)
        return label(self.format) if usual else f"{label(self.format)} [{estimator_name(self.backward(rotated))}]"


DENSE_OPERAND = Operand(estimator=STRAIGHT_THROUGH)


def operand(name: str, estimator: Estimator | None = None, per_token: bool = False) -> Operand:
    """Operand of a named format (`capscale.formats.catalog`) and estimator (`capscale.estimator_names`).

    Args:
      name: `int4`, or with an estimator in brackets, `top50 [fw]`.
      estimator: the estimator, where it is not in the name; the default of the format where neither gives one.
      per_token: the row-by-row variant, which activations need.

    Raises:
      UserError: names that are unknown, or two estimators at once.

    Example: `operand("top50 [fw]")`, `operand("int1 [clip 1.3]")`, `operand("top50", per_token=True)`.
    """
    format_name, estimator_text = split_name(name)
    if estimator_text and estimator is not None:
        raise UserError(f"operand {name!r} names an estimator, and estimator={estimator!r} another; give one of them")
    format = per_row(find(format_name)) if per_token else find(format_name)
    return Operand(format, find_estimator(estimator_text) if estimator_text else estimator)


@dataclass(frozen=True)
class Representation:
    """How the weights and the activations of a linear layer are held.

    `hadamard`: largest block of the Hadamard rotation of the input axis, a power of two, or None. The block used is the
    largest power of two up to it that divides the width. Both operands are rotated when both are compressed; a single
    compressed operand is rotated forth and back.
    Estimators that an operand leaves open become the defaults for its format and this rotation.

    Example: `Representation(operand("int4"), operand("int8", per_token=True), hadamard=128)`.
    """

    weights: Operand = DENSE_OPERAND
    activations: Operand = DENSE_OPERAND
    hadamard: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, "hadamard", optional=True)
        block = self.hadamard
        for side in ("weights", "activations"):
            operand: Operand = getattr(self, side)
            if operand.estimator is None:
                filled = Operand(operand.format, operand.backward(rotated=block is not None))
                object.__setattr__(self, side, filled)
        if block is not None and (block < 2 or block & (block - 1)):
            raise UserError(f"Representation(hadamard={block}): the block must be a power of two from 2, or None")
        if block is not None and isinstance(self.weights.format, Stateful):
            raise UserError(
                f"weights={self.weights.format!r} keep a mask of the matrix itself, so they cannot be rotated; "
                "use hadamard=None"
            )
        for operand in (self.weights, self.activations):
            stages = stages_of(operand.format)
            if block is not None and stages.rotates_between and stages.sparse and stages.rounding:
                other = f"{label(stages.sparse)}+{label(stages.rounding)}"
                raise UserError(
                    f"{label(operand.format)} rotates what it keeps by itself, and hadamard={block} would rotate "
                    f"before that as well; use hadamard=None, or {other} to prune in the rotated basis"
                )
        if isinstance(self.activations.format, Stateful):
            raise UserError(f"activations={self.activations.format!r} have no state from step to step; use TopK")
        if granularity_of(self.activations.format) != "row":
            raise UserError(
                f"activations={self.activations.format!r} would let one token see others; choose a format that "
                "works per row, such as TopK(..., granularity='row') or Scalar(..., group='row')"
            )

    @property
    def rotates_both(self) -> bool:
        """True where both operands are compressed in the rotated basis and stay there."""
        return self.hadamard is not None and not self.weights.is_dense and not self.activations.is_dense


DENSE = Representation()


def project_weights(w: Array, representation: Representation, ctx: Context = NO_CONTEXT) -> Array:
    """`w` of shape (in, out) as `representation` holds it, in the rotated basis where both operands are rotated.

    A function of `w` alone: a train step may call it once per optimizer step, ahead of every use.
    """
    if representation.weights.is_dense:
        return w
    fused = _project_fused(representation.weights, jnp.swapaxes(w, -1, -2), representation, ctx)
    if fused is not None:
        return jnp.swapaxes(fused, -1, -2)
    projected = jnp.swapaxes(project(representation.weights, weight_rows(w, representation), ctx), -1, -2)
    return projected if representation.rotates_both else rotated(projected, representation, axis=-2)


def weight_rows(w: Array, representation: Representation) -> Array:
    """Rows that the format of the weights sees of `w` (in, out): its columns (out, in), rotated where it asks so.

    Rotated as they lie: on a CPU the additions of many columns at once are several times as fast.
    """
    return jnp.swapaxes(rotated(w, representation, axis=-2), -1, -2)


def project_activations(x: Array, representation: Representation, ctx: Context = NO_CONTEXT) -> Array:
    """`x` of shape (..., in) as `representation` holds it, token by token."""
    if representation.activations.is_dense:
        return x
    fused = _project_fused(representation.activations, x, representation, ctx)
    if fused is not None:
        return fused
    projected = project(representation.activations, rotated(x, representation), ctx, tokens=True)
    return projected if representation.rotates_both else rotated(projected, representation)


class ProjectedWeight(NamedTuple):
    """Weights that `project_weights` has projected already, marked so that `linear` does not do it again."""

    value: Array

    def __jax_array__(self) -> Array:
        """Refused: another layer that multiplied these would leave out the activations, or the rotation of both."""
        raise UserError(
            f"weights of shape {self.value.shape} are ProjectedWeight, for capscale.linear alone, and met another "
            "layer; compress models that are not capscale's by capscale.compress(model, policy, inputs)"
        )


@partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["representation"])
@dataclass(frozen=True)
class ProjectedActivations:
    """Activations that are projected already, for several products of `linear`: made by `project_once`.

    Gradients of the products add up before they meet the one mask and the one rotation.
    """

    value: Array
    representation: Representation

    def __jax_array__(self) -> Array:
        """Refused: they are rotated where both operands are, for a product with weights that are as well."""
        raise UserError(f"ProjectedActivations of shape {self.value.shape} met another operation than capscale.linear")


def project_once(x: Array, representation: Representation, ctx: Context = NO_CONTEXT) -> ProjectedActivations:
    """`x` of shape (..., in) projected for every `linear` that multiplies it in this representation.

    With a mask of booleans and no rotation, values and gradients are those of as many `linear(x, ...)`, bit for bit;
    a rotation of the sum rounds otherwise than a sum of rotated gradients.
    """
    return ProjectedActivations(project_activations(x, representation, ctx), representation)


def linear(
    x: Array | ProjectedActivations,
    w: Array | ProjectedWeight,
    representation: Representation = DENSE,
    weights_ctx: Context = NO_CONTEXT,
    activations_ctx: Context = NO_CONTEXT,
) -> Array:
    """`y = R(x) R(w)`: x (..., in), w (in, out), y (..., out) in the dtype of x.

    Weights are projected in their own dtype (the float32 masters), unless they are `ProjectedWeight`, then cast to the
    dtype of x; products accumulate in float32. Activations are projected here, unless `project_once` did it.

    Raises:
      UserError: activations that were projected in another representation.
    """
    held_w = w.value if isinstance(w, ProjectedWeight) else project_weights(w, representation, weights_ctx)
    if not isinstance(x, ProjectedActivations):
        return product(project_activations(x, representation, activations_ctx), held_w)
    if x.representation != representation:
        raise UserError(
            f"linear(representation={representation}): the activations were projected for {x.representation}; project "
            "them for this layer, or hold both layers in one representation"
        )
    return product(x.value, held_w)


def _block(width: int, representation: Representation) -> int | None:
    return None if representation.hadamard is None else hadamard_block(width, representation.hadamard)


def rotated(x: Array, representation: Representation, axis: int = -1) -> Array:
    """The axis rotated block by block; its own inverse, and nothing where there is no rotation."""
    block = _block(x.shape[axis], representation)
    return x if block is None else rotate(x, block, axis)


def _project_fused(operand: Operand, rows: Array, representation: Representation, ctx: Context) -> Array | None:
    """Rows rotated, projected, and rotated back unless both operands stay rotated, by one kernel; None without one."""
    block = _block(rows.shape[-1], representation)
    back = block is not None and not representation.rotates_both
    return project_fused(operand.format, operand.backward(), rows, ctx, rotation=block, back=back)


class _Residuals(NamedTuple):
    """For the backward pass: a mask, or what `Pulls` asks for; for learnable parameters the value's slope."""

    mask: Array | None
    dvalue_dscale: Array | None
    learned: Array | None
    own: Any = None


def project(operand: Operand, x: Array, ctx: Context, tokens: bool = False) -> Array:
    """Forward exactly `operand.format.project(x).value`; backward `mask * g`, the mask being the estimator's.

    An estimator that is `Pulls` has a gradient of its own in place of that.

    The gradient of a learned number, `ctx.learned`, is the sum of `dvalue_dscale * g` over the values that it scales,
    times the format's factor for a tensor of this shape. With `tokens` it is that for one row: how many there are at
    once depends on micro-batches and devices (LSQ too counts the features of a layer, not those of a batch).
    """
    return cast(Array, _project(operand, tokens, x, ctx))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _project(operand: Operand, tokens: bool, x: Array, ctx: Context) -> Array:
    return operand.format.project(x, ctx).value


def _forward(operand: Operand, tokens: bool, x: Array, ctx: Context) -> tuple[Array, _Residuals]:
    projection, estimator = operand.format.project(x, ctx), operand.backward()
    full, learned = x.astype(jnp.float32), ctx.learned
    own = estimator.residuals(full, projection) if isinstance(estimator, Pulls) else None
    dvalue_dscale = None if learned is None else projection.dvalue_dscale
    mask = checked_mask(estimator(full, projection), estimator)
    return projection.value, _Residuals(mask, dvalue_dscale, learned, own)


def _backward(operand: Operand, tokens: bool, residuals: _Residuals, g: Array) -> tuple[Array, Context | None]:
    mask, dvalue_dscale, learned, own = residuals
    estimator = operand.backward()
    into_x = estimator.pull(own, g) if isinstance(estimator, Pulls) else masked(mask, g)
    if learned is None:
        return into_x, None
    format = operand.format
    assert isinstance(format, HasLearnedScale)
    assert dvalue_dscale is not None
    _, pull = jax.vjp(lambda numbers: format.expand_learned(numbers, g.shape), learned)
    (into_learned,) = pull(dvalue_dscale * g.astype(dvalue_dscale.dtype))
    into_learned = into_learned * format.learned_gain(g.shape[-1:] if tokens else g.shape)
    return into_x, Context(progress=cast(Array, None), learned=into_learned)


_project.defvjp(_forward, _backward)


__getattr__ = old_names(__name__, {"Held": "ProjectedWeight"})
