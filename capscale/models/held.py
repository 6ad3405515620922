"""A model's weights as its representation holds them, projected once for any number of uses."""

from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from capscale.formats.base import Context
from capscale.representation import Held, Representation, project_weights

STACKED_BELOW = 2**18
"""Kernels of fewer values are projected together with those of the same shape: at such sizes a projection costs more
to compile and to dispatch than to compute. Larger ones are projected one by one, without the copy that stacking is."""


def hold_weights(params: Any, representation: Representation, ctx: Context) -> Any:
    """`params` with every kernel projected and marked `Held`; other leaves as they are.

    A train step calls this once, ahead of all micro-batches. Kernels may have leading axes, `(layers, in, out)`.
    The vector-Jacobian product applies the estimator's mask: gradients with respect to the result are those at the
    compressed point, pulled back they are the masters'.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, (path, leaf) in enumerate(leaves):
        if path[-1].key == "kernel":
            groups[leaf.shape if leaf.size < STACKED_BELOW else number].append(number)
    held: list[Any] = [leaf for _, leaf in leaves]
    keys = [None] * len(groups) if ctx.key is None else list(jax.random.split(ctx.key, len(groups)))
    for key, numbers in zip(keys, groups.values(), strict=True):
        projected = _project([held[number] for number in numbers], representation, ctx._replace(key=key))
        for number, kernel in zip(numbers, projected, strict=True):
            held[number] = Held(kernel)
    return jax.tree.unflatten(structure, held)


def _project(kernels: list[Array], representation: Representation, ctx: Context) -> list[Array]:
    if len(kernels) == 1:
        return [project_weights(kernels[0], representation, ctx)]
    return list(project_weights(jnp.stack(kernels), representation, ctx))
