"""Operands projected ahead of a product: weights once a step, inputs once for the layers that read them."""

from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from capscale.coded import Coded, Turned
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.capabilities import kernel_spec, learns
from capscale.fused import given_R1, project_ahead, project_coded, project_fused
from capscale.kernels.matmul.codes import Multiplicand
from capscale.kernels.project import Unsupported, encode, has_codes
from capscale.kernels.project.ahead import Ahead
from capscale.operands import Operand, project
from capscale.representation.multiplied import Multiplied, codes_of_activations, multiplied
from capscale.representation.value import Representation, rotated, rotated_back, rotated_block


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
    """Weights that `project_weights` has projected, or a parametrization has made, so that `linear` does neither.

    `given`: the weights before that, in the same basis, where the gradient of the inputs is taken with them
    (`given_weights`). No gradient reaches them by that way.
    `coded`: the same weights in codes (`coded_weights`), which the product decodes, forward and backward, and reads in
    place of `value`; the gradient is that of `value` all the same.
    `codes`: the same weights in codes that a product of codes reads forward (`codes_of_weights`).
    """

    value: Array
    given: Array | None = None
    coded: Coded | None = None
    codes: Multiplicand | None = None

    def __jax_array__(self) -> Array:
        """Refused: another layer that multiplied these would leave out the activations, or the rotation of both."""
        raise UserError(
            f"weights of shape {self.value.shape} are ProjectedWeight, for capscale.linear alone, and met another "
            "layer; compress models that are not capscale's by capscale.compress(model, policy, inputs)"
        )


@partial(jax.tree_util.register_dataclass, data_fields=["value", "given", "codes"], meta_fields=["representation"])
@dataclass(frozen=True)
class ProjectedActivations:
    """Activations that are projected already, for several products of `linear`: made by `project_once`.

    Gradients of the products add up before they meet the one mask and the one rotation. `given` and `codes`: see
    `ProjectedWeight`.
    """

    value: Array
    representation: Representation
    given: Array | None = None
    codes: Multiplicand | None = None

    def __jax_array__(self) -> Array:
        """Refused: they are rotated where both operands are, for a product with weights that are as well."""
        raise UserError(f"ProjectedActivations of shape {self.value.shape} met another operation than capscale.linear")


def project_once(x: Array, representation: Representation, ctx: Context = NO_CONTEXT) -> ProjectedActivations:
    """`x` of shape (..., in) projected for every `linear` that multiplies it in this representation.

    Values are those of as many `linear(x, ...)`, bit for bit. So are float32 gradients under a mask of booleans without
    a rotation; a rotation of the sum rounds otherwise than a sum of rotated gradients, and XLA may leave a sum of
    bfloat16 gradients unrounded inside of a program.
    """
    by = multiplied(representation, x.shape[-1], prod(x.shape[:-1]))
    value, codes = _with_codes(x, representation, by, ctx)
    return ProjectedActivations(value, representation, given_activations(x, representation), codes)


class ProjectedAhead(NamedTuple):
    """Rows that one kernel has computed and projected.

    `x`: those ahead of a norm, as they came; a residual connection that takes them from here leaves the sum of both
    gradients to the kernel that writes that of the norm. None of a gated product.
    """

    activations: ProjectedActivations
    x: Array | None


def project_ahead_once(rows: Ahead, representation: Representation) -> ProjectedAhead | None:
    """`project_once(rows.value(), representation)` by one kernel, without that value; None where none does it.

    A norm is then that of the kernel, whose sums are in another order than XLA's.
    """
    held, width = representation.activations, rows.shape[-1]
    if held.is_dense or representation.needs_given_activations:
        return None
    block, signs = rotated_block(width, representation), representation.signs
    back = block is not None and not representation.rotates_both
    by = multiplied(representation, width, prod(rows.shape[:-1]))
    pair = None if by is None else by.pair
    found = project_ahead(held.format, held.backward(), rows, rotation=block, back=back, signs=signs, pair=pair)
    if found is None:
        return None
    return ProjectedAhead(ProjectedActivations(found.value, representation, None, found.codes), found.x)


def _with_codes(
    x: Array, representation: Representation, by: Multiplied | None, ctx: Context
) -> tuple[Array, Multiplicand | None]:
    """Values of x, and codes where a product reads them: by one kernel where one writes both."""
    if by is None:
        return project_activations(x, representation, ctx), None
    held, block = representation.activations, rotated_block(x.shape[-1], representation)
    both = project_coded(held.format, held.backward(), x, rotation=block, signs=representation.signs, pair=by.pair)
    if both is not None:
        return both
    return project_activations(x, representation, ctx), codes_of_activations(x, representation, by, ctx)


def coded_weights(w: Array, representation: Representation, ctx: Context = NO_CONTEXT) -> Coded | None:
    """`project_weights(w, representation, ctx)` of w (..., in, out) in codes; None where the format has none.

    Scalar grids of up to 256 levels have codes, where no mask keeps places, no step is learned and no scale has an
    offset. No gradient goes through.
    """
    format, width = representation.weights.format, w.shape[-2]
    spec = kernel_spec(format)
    if isinstance(spec, Unsupported) or learns(format) or not has_codes(spec):
        return None
    rows = weight_rows(lax.stop_gradient(w), representation)
    encoded = encode(replace(spec, mask=None), rows, given_R1(format, spec, rows, ctx))
    block = None if representation.rotates_both else rotated_block(width, representation)
    turned = None if block is None else Turned(block, representation.signs)
    return Coded(encoded.codes, encoded.scales, spec, width, turned)


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


def _project_fused(operand: Operand, rows: Array, representation: Representation, ctx: Context) -> Array | None:
    """Rows rotated, projected, and rotated back unless both operands stay rotated, by one kernel; None without one."""
    block, signs = rotated_block(rows.shape[-1], representation), representation.signs
    back = block is not None and not representation.rotates_both
    return project_fused(operand.format, operand.backward(), rows, ctx, rotation=block, signs=signs, back=back)
