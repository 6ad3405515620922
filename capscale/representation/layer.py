"""Linear layer of a representation, the only place where compression meets a model."""

import jax
from jax import Array

from capscale.backward import Factors, compressed_product
from capscale.coded import decoded
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context
from capscale.gradients import Gradients
from capscale.product import product
from capscale.representation.projecting import (
    ProjectedActivations,
    ProjectedWeight,
    given_activations,
    given_weights,
    project_activations,
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
    dtype of x; products accumulate in float32. Activations are projected here, unless `project_once` did it.
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
        w = ProjectedWeight(project_weights(w, representation, weights_ctx), given_weights(w, representation))
    if not isinstance(x, ProjectedActivations):
        given = given_activations(x, representation)
        x = ProjectedActivations(project_activations(x, representation, activations_ctx), representation, given)
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
    if w.coded is None:
        return _multiplied(x, w, representation.gradients, gradients_key)

    def of_codes(x: ProjectedActivations, w: ProjectedWeight, key: Array | None) -> Array:
        assert w.coded is not None
        return _multiplied(x, w._replace(value=decoded(w.value, w.coded)), representation.gradients, key)

    # The backward pass decodes anew: what is kept for it are the codes.
    return jax.checkpoint(of_codes)(x, w, gradients_key)


def _multiplied(x: ProjectedActivations, w: ProjectedWeight, gradients: Gradients, key: Array | None) -> Array:
    if gradients.is_dense:
        return product(x.value, w.value)
    return compressed_product(Factors(x.value, w.value, x.given, w.given, key), gradients)
