"""Linear layer of a representation, the only place where compression meets a model."""

from math import prod

import jax
from jax import Array

from capscale.backward import Factors, compressed_product
from capscale.code_product import Codes, product_of_codes
from capscale.coded import decoded
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context
from capscale.kernels.config import PRODUCTS
from capscale.product import product
from capscale.representation.multiplied import Multiplied, codes_of_coded, codes_of_weights, multiplied
from capscale.representation.projecting import (
    ProjectedActivations,
    ProjectedWeight,
    given_weights,
    project_once,
    project_weights,
)
from capscale.representation.value import DENSE, Representation


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
    dtype of x; products accumulate in float32. `CAPSCALE_PRODUCTS` chooses products of codes, whose operands are not
    rounded to the dtype of x (`capscale.representation.multiplied`); gradients are those of values. Activations are
    projected here, unless `project_once` did it.
    `gradients_key`: PRNG key of what the backward products draw.

    Raises:
      UserError: activations that were projected in another representation; weights that were projected without what
        the backward products take, or that a parametrization has not made; what
        `capscale.backward.compressed_product` refuses.
    """
    if not isinstance(w, ProjectedWeight):
        if (held := representation.parametrization) is not None:
            raise UserError(
                f"linear(representation={representation}): weights of {held} are made of stored numbers; give "
                "ProjectedWeight(parametrization.value(stored, (inputs, outputs)))"
            )
        by = multiplied(representation, *_inputs_and_rows(x))
        codes = None if by is None else codes_of_weights(w, representation, by, weights_ctx)
        given = given_weights(w, representation)
        w = ProjectedWeight(project_weights(w, representation, weights_ctx), given, codes=codes)
    if not isinstance(x, ProjectedActivations):
        x = project_once(x, representation, activations_ctx)
    if x.representation != representation:
        raise UserError(
            f"linear(representation={representation}): the activations were projected for {x.representation}; project "
            "them for this layer, or hold both layers in one representation"
        )
    if representation.needs_given_weights and w.given is None:
        raise UserError(
            f"linear(representation={representation}): the gradient of the inputs takes the weights as they were "
            "before they were projected; make them ProjectedWeight(project_weights(w, representation), "
            "given_weights(w, representation))"
        )
    by = multiplied(representation, *_inputs_and_rows(x.value))
    if w.coded is None:
        return _multiplied(x, w, by, gradients_key)

    def of_coded(x: ProjectedActivations, w: ProjectedWeight, key: Array | None) -> Array:
        assert w.coded is not None
        codes = codes_of_coded(w.coded, by) if by is not None else None
        return _multiplied(x, w._replace(value=decoded(w.value, w.coded), codes=codes), by, key)

    # The backward pass decodes anew: what is kept for it are the codes.
    return jax.checkpoint(of_coded)(x, w, gradients_key)


def _multiplied(x: ProjectedActivations, w: ProjectedWeight, by: Multiplied | None, key: Array | None) -> Array:
    gradients, codes = x.representation.gradients, None if by is None else _codes(x, w, by)
    if gradients.is_dense:
        return product(x.value, w.value) if codes is None else product_of_codes(x.value, w.value, codes)
    return compressed_product(Factors(x.value, w.value, x.given, w.given, key, codes), gradients)


def _codes(x: ProjectedActivations, w: ProjectedWeight, by: Multiplied) -> Codes:
    """Codes of both operands; raises `UserError` for one that was projected without."""
    if x.codes is None or w.codes is None:
        side, made = ("weights", "codes_of_weights") if w.codes is None else ("activations", "project_once")
        raise UserError(
            f"linear(representation={x.representation}): {PRODUCTS} multiplies codes, and the {side} were projected "
            f"without; make them by capscale.representation.{made} under the same setting, or set {PRODUCTS}=values"
        )
    return Codes(x.codes, w.codes, by.pair)


def _inputs_and_rows(x: Array | ProjectedActivations) -> tuple[int, int]:
    """Features of x (..., in), and how many rows of them there are."""
    *rows, inputs = (x.value if isinstance(x, ProjectedActivations) else x).shape
    return inputs, prod(rows)
