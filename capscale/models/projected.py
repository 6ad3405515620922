"""A model's weights as its representation holds them, projected once for any number of uses.

Kernels may have leading axes, `(layers, in, out)`; formats are applied layer by layer. What a format owns lies beside
the kernel it belongs to: learnable parameters in the parameters, as "weights_step"; state in a tree of its own.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from capscale.formats.base import Context
from capscale.formats.capabilities import HasLearnedScale, Stateful
from capscale.representation import ProjectedWeight, Representation, given_weights, project_weights, weight_rows

STACKED_BELOW = 2**18
"""Kernels of fewer values are projected together with those of the same shape: at such sizes a projection costs more
to compile and to dispatch than to compute. Larger ones are projected one by one, without the copy that stacking is."""

KERNEL, LEARNED = "kernel", "weights_step"

FormatState = dict[str, Array]
"""State of the weights' format by the path of its kernel, `layers/mlp/up/kernel`; empty for formats without."""


class _Owned(NamedTuple):
    """A kernel with what its format owns of it."""

    kernel: Array
    learned: Array | None
    state: Array | None


def add_learned(params: Any, representation: Representation) -> Any:
    """`params` with the learnable parameters of the weights' format beside each kernel, as it starts them."""
    fmt = representation.weights.format
    if not (isinstance(fmt, HasLearnedScale) and fmt.learns):
        return params

    def visit(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        visited = {name: visit(branch) for name, branch in tree.items()}
        if KERNEL in tree:
            start = _by_layer(lambda w: fmt.initial_learned(weight_rows(w, representation)), tree[KERNEL])
            visited[LEARNED] = start(tree[KERNEL])
        return visited

    return visit(params)


def initial_format_state(params: Any, representation: Representation) -> FormatState:
    """State of the weights' format for every kernel at the start of training."""
    fmt = representation.weights.format
    if not isinstance(fmt, Stateful):
        return {}

    def start(kernel: Array) -> Array:
        return fmt.initial_state(weight_rows(kernel, representation))

    return {path: _by_layer(start, kernel)(kernel) for path, kernel in kernels_of(params).items()}


def next_format_state(
    state: FormatState, params: Any, gradient: Any, representation: Representation, *, step: Array, progress: Array
) -> FormatState:
    """State after optimizer step `step`.

    `gradient` is taken with respect to the held weights: dense, so that it tells of pruned entries too.
    """
    fmt = representation.weights.format
    if not isinstance(fmt, Stateful):
        return state
    kernels, gradients = kernels_of(params), kernels_of(gradient)

    def move(mask: Array, w: Array, g: Array) -> Array:
        return fmt.next_state(mask, weight_rows(w, representation), weight_rows(g, representation), step, progress)

    return {path: _by_layer(move, w)(state[path], w, gradients[path]) for path, w in kernels.items()}


def project_params(params: Any, representation: Representation, ctx: Context, state: FormatState | None = None) -> Any:
    """`params` with every kernel projected and marked `ProjectedWeight`; other leaves as they are.

    A train step calls this once, ahead of all micro-batches. The vector-Jacobian product applies the estimator's mask:
    gradients with respect to the result are those at the compressed point, pulled back they are the master weights'.
    """
    leaves, state = _leaves(params), state or {}
    groups: dict[Any, list[str]] = defaultdict(list)
    for path, kernel in kernels_of(params).items():
        groups[kernel.shape if kernel.size < STACKED_BELOW else path].append(path)
    keys = [None] * len(groups) if ctx.key is None else list(jax.random.split(ctx.key, len(groups)))
    held: dict[str, Array] = {}
    for key, paths in zip(keys, groups.values(), strict=True):
        owned = [_Owned(leaves[p], leaves.get(p.removesuffix(KERNEL) + LEARNED), state.get(p)) for p in paths]
        held |= zip(paths, _project(owned, representation, ctx._replace(key=key)), strict=True)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            ProjectedWeight(held[path_name(path)], given_weights(leaf, representation))
            if path[-1].key == KERNEL
            else leaf
        ),
        params,
    )


def _project(owned: list[_Owned], representation: Representation, ctx: Context) -> list[Array]:
    def project(one: _Owned) -> Array:
        return project_weights(one.kernel, representation, ctx._replace(learned=one.learned, state=one.state))

    stacked = owned[0] if len(owned) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *owned)
    owns = stacked.learned is not None or stacked.state is not None
    projected = _by_layer(project, stacked.kernel)(stacked) if owns else project(stacked)
    return [projected] if len(owned) == 1 else list(projected)


def _by_layer(function: Callable[..., Array], kernel: Array) -> Callable[..., Array]:
    """`function` of matrices, mapped over the leading axes of `kernel`."""
    for _ in range(kernel.ndim - 2):
        function = jax.vmap(function)
    return function


def path_name(path: tuple[Any, ...]) -> str:
    """`layers/mlp/up/kernel`, of a path as jax gives it."""
    return "/".join(str(key.key) for key in path if hasattr(key, "key"))


def _leaves(tree: Any) -> dict[str, Array]:
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, ProjectedWeight))
    return {path_name(path): leaf.value if isinstance(leaf, ProjectedWeight) else leaf for path, leaf in found}


def kernels_of(tree: Any) -> dict[str, Array]:
    """Every kernel of `tree`, held or not, by its path."""
    return {path: leaf for path, leaf in _leaves(tree).items() if path.split("/")[-1] == KERNEL}
