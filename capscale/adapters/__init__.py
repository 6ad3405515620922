"""Compression of models that are not capscale's: `compress` and `describe`, for every host that has an adapter.

Flax Linen and NNX models, Equinox models, and trees of parameters of anything else.
"""

import sys
from types import ModuleType
from typing import Any

from capscale.coverage import Coverage
from capscale.errors import UserError
from capscale.formats.catalog import label
from capscale.formats.nested import Nested
from capscale.policy import Policy, rules_of


def compress(model: Any, policy: Policy, *inputs: Any, **kwargs: Any) -> Any:
    """A model, or its parameters, with weights and activations of its linear layers held as `policy` says.

    Training is straight-through with the estimators of the representations, in any loop; master weights get gradients.

    Args:
      model: a Flax Linen or NNX module, an Equinox module, or a tree of arrays.
      policy: a `Representation` for all that is multiplied, or rules, ((pattern, Representation), ...): the first whose
        regular expression matches the whole path of a weight decides. Rules for trees state the contraction as third.
      *inputs: example inputs of a Linen model, which has no layers before it is traced; shapes are enough.
      **kwargs: its keywords.

    Returns:
      For Linen, an object with the model's `init` and `apply`; for NNX and Equinox, a model; for a tree, an object with
      `project(params)`. See `capscale.adapters`' modules.

    Raises:
      UserError: a rule that matches nothing, contracted axes that cannot be known, a weight that no rule covers, a
        representation that the host cannot hold.

    Example:
      compressed = capscale.compress(model, Representation(operand("int4"), hadamard=128), x)
      params = compressed.init(key, x)["params"]
      loss = lambda params: mean_loss(compressed.apply({"params": params}, x))
    """
    for rule in rules_of(policy):
        format = rule.representation.weights.format
        if isinstance(format, Nested) and format.at is None:
            raise UserError(
                f"{label(format)} trains a loss for every width, which the steps of `capscale sweep` have and a loop "
                f"of one's own does not; name one slice, such as {label(format.sliced(format.widths[-1]))}"
            )
    return _adapter(model).compress(model, policy, *inputs, **kwargs)


def describe(model: Any, policy: Policy, *inputs: Any, **kwargs: Any) -> Coverage:
    """Coverage of every parameter by `policy`, with contracted axes and the reason of what stays dense; print it.

    Takes and raises what `compress` does.
    """
    return _adapter(model).describe(model, policy, *inputs, **kwargs)


def _adapter(model: Any) -> ModuleType:
    # A model's package is there when its model is: neither is imported here for the others.
    equinox, linen, nnx = (sys.modules.get(name) for name in ("equinox", "flax.linen", "flax.nnx"))
    if equinox is not None and isinstance(model, equinox.Module):
        from capscale.adapters import equinox as adapter
    elif linen is not None and isinstance(model, linen.Module):
        from capscale.adapters import linen as adapter
    elif nnx is not None and isinstance(model, nnx.Module):
        from capscale.adapters import nnx as adapter
    elif isinstance(model, dict | list | tuple):
        from capscale.adapters import pytree as adapter
    else:
        raise UserError(
            f"{type(model).__name__} is neither a Flax or Equinox module nor a tree of parameters; give one of them"
        )
    return adapter
