"""Learned scales of the inputs of layers: where they start, found by sending tokens through the model."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from capscale.errors import UserError
from capscale.formats.base import Context

STEP = "activations_step"
"""Name of the parameter beside the kernel that it belongs to."""


def start_steps(
    module: nn.Module, params: Mapping[str, Any], x: Array, ctx: Context, rngs: Mapping[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """Outputs of a layer, and the start of what the formats of its inputs learn, by path in the layer."""
    streams = {"params": jax.random.key(0), **rngs}  # asked for where a parameter is made, and not drawn from
    (y, _), made = module.apply({"params": without_steps(params)}, x, ctx, rngs=streams, mutable=["params"])
    leaves = jax.tree_util.tree_leaves_with_path(made["params"])
    names = ["/".join(str(key.key) for key in path if hasattr(key, "key")) for path, _ in leaves]
    return y, {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True) if name.endswith(STEP)}


def without_steps(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without the learned scales of inputs."""
    return {
        name: without_steps(branch) if isinstance(branch, Mapping) else branch
        for name, branch in params.items()
        if name != STEP
    }


def joined_steps(made: Sequence[tuple[int, dict[str, Array]]]) -> dict[str, Array]:
    """Steps of all layers in one array a path, from runs of layers; zeros for layers that learn none.

    Raises:
      UserError: layers that learn of one input in different shapes.
    """
    shapes: dict[str, Array] = {}
    for _, steps in made:
        for path, leaf in steps.items():
            other = shapes.setdefault(path, leaf)
            if other.shape[1:] != leaf.shape[1:]:
                raise UserError(
                    f"layers/*/{path}: layers learn steps of the shapes {other.shape[1:]} and {leaf.shape[1:]}, and "
                    "they share one array; learn them at one granularity in every layer"
                )
    return {
        path: jnp.concatenate(
            [steps.get(path, jnp.zeros((count, *like.shape[1:]), like.dtype)) for count, steps in made]
        )
        for path, like in shapes.items()
    }


def with_steps(params: Mapping[str, Any], steps: Mapping[str, Array]) -> dict[str, Any]:
    """Parameters with the learned scales of inputs set, by their paths."""
    found = dict(params)
    for path, leaf in steps.items():
        *parents, name = path.split("/")
        place = found
        for parent in parents:
            place[parent] = dict(place[parent])
            place = place[parent]
        place[name] = leaf
    return found
