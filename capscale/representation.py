"""Representation: how weights and activations are compressed, and the one seam to a model.

`linear(x, w, representation)` is the only place where compression meets a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from capscale.backward import Factors, compressed_product
from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context, granularity_of
from capscale.formats.capabilities import Stateful, learns
from capscale.formats.catalog import label
from capscale.formats.rotation import hadamard_block, turned, turned_back
from capscale.formats.stages import stages_of
from capscale.fused import project_fused
from capscale.gradients import DENSE_GRADIENTS, Gradients
from capscale.kernels.hadamard import BASES, base_of
from capscale.kernels.renamed import old_names
from capscale.operands import DENSE_OPERAND, Operand, operand, project
from capscale.product import product

_BY_TOKEN = ("activations", "keys", "values")
"""Operands that are projected token by token."""


@dataclass(frozen=True)
class Representation:
    """How the weights, the activations and the gradients of a linear layer are held, and what attention caches.

    `hadamard`: largest block of the Hadamard rotation of the input axis, or None. The block used is the largest one up
    to it that divides the width: of powers of two, and where it is 12, 20, 28 or 36 times one, of such products too
    (1792 makes one block of 576, 640 or 1792 inputs). Both operands are rotated when both are compressed; a single
    compressed operand is rotated forth and back.
    `signs`: seed of random signs that every row is multiplied by ahead of the rotation, the same for all rows of a
    width, so that no input lies along a row of the Hadamard matrix; None for none.
    `gradients`: what the two backward products project their own operands to; see `capscale.gradients`.
    `keys`, `values`: what attention reads of earlier tokens, each head and token by itself, as a cache would hold them:
    keys after their rotary positions. A rotation is along a head's features, forth and back. Linear layers do not see
    them.
    Estimators that an operand leaves open become the defaults for its format and this rotation.

    Example: `Representation(operand("int4"), operand("int8", per_token=True), hadamard=128)`.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"signs": None, "gradients": DENSE_GRADIENTS, "keys": DENSE_OPERAND, "values": DENSE_OPERAND}
    )

    weights: Operand = DENSE_OPERAND
    activations: Operand = DENSE_OPERAND
    hadamard: int | None = None
    signs: int | None = None
    gradients: Gradients = DENSE_GRADIENTS
    keys: Operand = DENSE_OPERAND
    values: Operand = DENSE_OPERAND

    def __post_init__(self) -> None:
        check_whole(self, "hadamard", "signs", optional=True)
        block = self.hadamard
        for side in ("weights", *_BY_TOKEN):
            operand: Operand = getattr(self, side)
            if operand.estimator is None:
                filled = Operand(operand.format, operand.backward(rotated=block is not None))
                object.__setattr__(self, side, filled)
        if block is not None and base_of(block) is None:
            raise UserError(
                f"Representation(hadamard={block}): the block must be a power of two from 2, one times {BASES}, or None"
            )
        if block is None and self.signs is not None:
            raise UserError(f"Representation(signs={self.signs}): signs belong to a rotation; give hadamard=128 too")
        if block is not None and isinstance(self.weights.format, Stateful):
            raise UserError(
                f"weights={self.weights.format!r} keep a mask of the matrix itself, so they cannot be rotated; "
                "use hadamard=None"
            )
        for operand in (self.weights, self.activations, self.keys, self.values):
            stages = stages_of(operand.format)
            if block is not None and stages.rotates_between and stages.sparse and stages.rounding:
                other = f"{label(stages.sparse)}+{label(stages.rounding)}"
                raise UserError(
                    f"{label(operand.format)} rotates what it keeps by itself, and hadamard={block} would rotate "
                    f"before that as well; use hadamard=None, or {other} to prune in the rotated basis"
                )
        for side in _BY_TOKEN:
            format = getattr(self, side).format
            if isinstance(format, Stateful):
                raise UserError(f"{side}={format!r} have no state from step to step; use TopK")
            if granularity_of(format) != "row":
                raise UserError(
                    f"{side}={format!r} would let one token see others; choose a format that "
                    "works per row, such as TopK(..., granularity='row') or Scalar(..., group='row')"
                )
        for side in ("keys", "values"):
            format = getattr(self, side).format
            if learns(format):
                raise UserError(
                    f"{side}={format!r} learns a scale, which attention has no parameter for; choose a format that "
                    "measures its scale"
                )

    @property
    def rotates_both(self) -> bool:
        """True where both operands are compressed in the rotated basis and stay there."""
        return self.hadamard is not None and not self.weights.is_dense and not self.activations.is_dense

    @property
    def rotation(self) -> int | str | None:
        """The rotation as tables tell it: 128, `128 signs 7` with random signs, None for none."""
        return self.hadamard if self.signs is None else f"{self.hadamard} signs {self.signs}"

    @property
    def caches_compressed(self) -> bool:
        """Whether attention reads compressed keys or values."""
        return not (self.keys.is_dense and self.values.is_dense)

    @property
    def needs_given_weights(self) -> bool:
        """Whether a backward product takes the weights as they are before they are projected."""
        return self.gradients.inputs.source == "given" and not self.weights.is_dense

    @property
    def needs_given_activations(self) -> bool:
        """Whether a backward product takes the activations as they are before they are projected."""
        return self.gradients.weights.source == "given" and not self.activations.is_dense


DENSE = Representation()
"""Neither operand compressed: `linear` is the plain product."""


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
    return projected if representation.rotates_both else rotated_back(projected, representation, axis=-2)


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
    return projected if representation.rotates_both else rotated_back(projected, representation)


def project_cached(
    x: Array, representation: Representation, side: Literal["keys", "values"], ctx: Context = NO_CONTEXT
) -> Array:
    """Keys or values of shape (..., head features) as a cache in `representation` holds them, head and token alone."""
    held: Operand = getattr(representation, side)
    if held.is_dense:
        return x
    alone = Representation(activations=held, hadamard=representation.hadamard, signs=representation.signs)
    return project_activations(x, alone, ctx)


class ProjectedWeight(NamedTuple):
    """Weights that `project_weights` has projected already, marked so that `linear` does not do it again.

    `given`: the weights before that, in the same basis, where the gradient of the inputs is taken with them
    (`given_weights`). No gradient reaches them by that way.
    """

    value: Array
    given: Array | None = None

    def __jax_array__(self) -> Array:
        """Refused: another layer that multiplied these would leave out the activations, or the rotation of both."""
        raise UserError(
            f"weights of shape {self.value.shape} are ProjectedWeight, for capscale.linear alone, and met another "
            "layer; compress models that are not capscale's by capscale.compress(model, policy, inputs)"
        )


@partial(jax.tree_util.register_dataclass, data_fields=["value", "given"], meta_fields=["representation"])
@dataclass(frozen=True)
class ProjectedActivations:
    """Activations that are projected already, for several products of `linear`: made by `project_once`.

    Gradients of the products add up before they meet the one mask and the one rotation. `given`: see `ProjectedWeight`.
    """

    value: Array
    representation: Representation
    given: Array | None = None

    def __jax_array__(self) -> Array:
        """Refused: they are rotated where both operands are, for a product with weights that are as well."""
        raise UserError(f"ProjectedActivations of shape {self.value.shape} met another operation than capscale.linear")


def project_once(x: Array, representation: Representation, ctx: Context = NO_CONTEXT) -> ProjectedActivations:
    """`x` of shape (..., in) projected for every `linear` that multiplies it in this representation.

    Values are those of as many `linear(x, ...)`, bit for bit. So are float32 gradients under a mask of booleans without
    a rotation; a rotation of the sum rounds otherwise than a sum of rotated gradients, and XLA may leave a sum of
    bfloat16 gradients unrounded inside of a program.
    """
    projected = project_activations(x, representation, ctx)
    return ProjectedActivations(projected, representation, given_activations(x, representation))


def given_weights(w: Array, representation: Representation) -> Array | None:
    """`w` (in, out) in the basis that products take it in, not projected, for `needs_given_weights`; None without."""
    if not representation.needs_given_weights:
        return None
    return lax.stop_gradient(rotated(w, representation, axis=-2) if representation.rotates_both else w)


def given_activations(x: Array, representation: Representation) -> Array | None:
    """`x` (..., in) in the basis that products take it in, not projected, for `needs_given_activations`."""
    if not representation.needs_given_activations:
        return None
    return lax.stop_gradient(rotated(x, representation) if representation.rotates_both else x)


def linear(
    x: Array | ProjectedActivations,
    w: Array | ProjectedWeight,
    representation: Representation = DENSE,
    weights_ctx: Context = NO_CONTEXT,
    activations_ctx: Context = NO_CONTEXT,
    *,
    gradients_key: Array | None = None,
) -> Array:
    """`y = R(x) R(w)`: x (..., in), w (in, out), y (..., out) in the dtype of x.

    Weights are projected in their own dtype (the float32 masters), unless they are `ProjectedWeight`, then cast to the
    dtype of x; products accumulate in float32. Activations are projected here, unless `project_once` did it.
    `gradients_key`: PRNG key of what the backward products draw.

    Raises:
      UserError: activations that were projected in another representation; weights that were projected without what
        the backward products take; what `capscale.backward.compressed_product` refuses.
    """
    if not isinstance(w, ProjectedWeight):
        w = ProjectedWeight(project_weights(w, representation, weights_ctx), given_weights(w, representation))
    if not isinstance(x, ProjectedActivations):
        given = given_activations(x, representation)
        x = ProjectedActivations(project_activations(x, representation, activations_ctx), representation, given)
    if x.representation != representation:
        raise UserError(
            f"linear(representation={representation}): the activations were projected for {x.representation}; project "
            "them for this layer, or hold both layers in one representation"
        )
    if representation.gradients.is_dense:
        return product(x.value, w.value)
    if representation.needs_given_weights and w.given is None:
        raise UserError(
            f"linear(representation={representation}): the gradient of the inputs takes the weights as they were "
            "before they were projected; make them ProjectedWeight(project_weights(w, representation), "
            "given_weights(w, representation))"
        )
    return compressed_product(Factors(x.value, w.value, x.given, w.given, gradients_key), representation.gradients)


def _block(width: int, representation: Representation) -> int | None:
    return None if representation.hadamard is None else hadamard_block(width, representation.hadamard)


def rotated(x: Array, representation: Representation, axis: int = -1) -> Array:
    """The axis rotated block by block, behind random signs where there are some; `x` where there is no rotation."""
    return turned(x, _block(x.shape[axis], representation), representation.signs, axis)


def rotated_back(x: Array, representation: Representation, axis: int = -1) -> Array:
    """Inverse of `rotated`: the rotation is its own, and so are the signs."""
    return turned_back(x, _block(x.shape[axis], representation), representation.signs, axis)


def _project_fused(operand: Operand, rows: Array, representation: Representation, ctx: Context) -> Array | None:
    """Rows rotated, projected, and rotated back unless both operands stay rotated, by one kernel; None without one."""
    block, signs = _block(rows.shape[-1], representation), representation.signs
    back = block is not None and not representation.rotates_both
    return project_fused(operand.format, operand.backward(), rows, ctx, rotation=block, signs=signs, back=back)


__all__ = [
    "DENSE",
    "DENSE_GRADIENTS",
    "DENSE_OPERAND",
    "Gradients",
    "Operand",
    "ProjectedActivations",
    "ProjectedWeight",
    "Representation",
    "given_activations",
    "given_weights",
    "hadamard_block",
    "linear",
    "operand",
    "product",
    "project",
    "project_activations",
    "project_cached",
    "project_once",
    "project_weights",
    "rotated",
    "rotated_back",
    "weight_rows",
]
__getattr__ = old_names(__name__, {"Held": "ProjectedWeight"})
