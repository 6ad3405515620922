"""A model's weights as its representation holds them, projected once for any number of uses.

Kernels may have leading axes, `(layers, in, out)`; formats are applied layer by layer. What a format owns lies beside
the kernel it belongs to (`models/owned.py`): learnable parameters in the parameters, as "weights_step"; state in a tree
of its own.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from capscale.formats.base import Context, granularity_of
from capscale.formats.capabilities import Stateful, draws, learns
from capscale.models.assigned import TABLES, Held, runs
from capscale.representation import (
    ProjectedWeight,
    Representation,
    given_weights,
    project_weights,
)

STACKED_BELOW = 2**18
"""Kernels of fewer values are projected together with those of the same shape: at such sizes a projection costs more
to compile and to dispatch than to compute. Larger ones are projected one by one, without the copy that stacking is."""

KERNEL, LEARNED = "kernel", "weights_step"

FormatState = dict[str, Array]
"""State of the weights' format by the path of its kernel, `layers/mlp/up/kernel`; empty for formats without."""


class Piece(NamedTuple):
    """A parameter, or a run of its layers, that is held in one representation.

    Attributes:
      path: of the parameter.
      layers: the first and the one behind the last; None for all of it.
      representation: of these weights.
    """

    path: str
    layers: tuple[int, int] | None
    representation: Representation

    def of(self, leaf: Array) -> Array:
        """Weights of the piece, `(..., in, out)`, from the parameter or from what has its shape."""
        if self.path in TABLES:
            return leaf.T
        return self.along(leaf)

    def along(self, leaf: Array) -> Array:
        """The piece's layers of an array that has them first."""
        return leaf if self.layers is None else leaf[slice(*self.layers)]


def pieces_of(params: Any, held: Held) -> list[Piece]:
    """Every kernel, run by run of the layers that are held alike, and the tables that are compressed."""
    if isinstance(held, Representation):
        return [Piece(path, None, held) for path in kernels_of(params)]
    found = [Piece(name, None, each) for name in TABLES for each in held.of(name) if not each.weights.is_dense]
    for path in kernels_of(params):
        parts = runs(held.of(path))
        found += [Piece(path, None if len(parts) == 1 else (first, stop), each) for first, stop, each in parts]
    return found


def whole(pieces: list[Piece], values: list[Array]) -> dict[str, Array]:
    """Parameters, or what has their shape, from the weights of their pieces, by path."""
    parts: dict[str, list[Array]] = defaultdict(list)
    for piece, value in zip(pieces, values, strict=True):
        parts[piece.path].append(value.T if piece.path in TABLES else value)
    return {path: own[0] if len(own) == 1 else jnp.concatenate(own) for path, own in parts.items()}


class _Owned(NamedTuple):
    """A kernel with what its format owns of it."""

    kernel: Array
    learned: Array | None
    state: Array | None


Apart = Callable[[Callable[[Array, Context], Any], Array, Context], Any]
"""A function of kernels (..., in, out) whose outputs are independent of each other, by devices that share these out."""


def project_params(
    params: Any, held: Held, ctx: Context, state: FormatState | None = None, apart: Apart | None = None
) -> Any:
    """`params` with every kernel projected and marked `ProjectedWeight`; other leaves as they are.

    So are tables that a policy names. A train step calls this once, ahead of all micro-batches. The vector-Jacobian
    product applies the estimator's mask: gradients with respect to the result are those at the compressed point, pulled
    back they are the master weights'.

    `apart`: runs projections of kernels row by row, for devices that hold some outputs each; None for all at once.
    """
    leaves, state = values_of(params), state or {}
    pieces = pieces_of(params, held)
    weights = [piece.of(leaves[piece.path]) for piece in pieces]
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, (piece, w) in enumerate(zip(pieces, weights, strict=True)):
        groups[(w.shape if w.size < STACKED_BELOW else piece[:2], piece.representation)].append(place)
    keys = [None] * len(groups) if ctx.key is None else list(jax.random.split(ctx.key, len(groups)))
    projected: dict[int, Array] = {}

    def owned(place: int) -> _Owned:
        piece, fmt = pieces[place], pieces[place].representation.weights.format
        learned = leaves.get(piece.path.removesuffix(KERNEL) + LEARNED) if learns(fmt) else None
        moving = state.get(piece.path) if isinstance(fmt, Stateful) else None
        return _Owned(weights[place], *(None if leaf is None else piece.along(leaf) for leaf in (learned, moving)))

    for key, ((_, representation), places) in zip(keys, groups.items(), strict=True):
        own = [owned(place) for place in places]
        tables = any(pieces[place].path in TABLES for place in places)
        by_device = None if tables or not by_output(representation) else apart
        projected |= zip(places, _project(own, representation, ctx._replace(key=key), by_device), strict=True)
    values = whole(pieces, [projected[place] for place in range(len(pieces))])

    given = _given(pieces, weights)

    def marked(path: tuple[Any, ...], leaf: Array) -> Any:
        name = path_name(path)
        return ProjectedWeight(values[name], given.get(name)) if name in values else leaf

    return jax.tree_util.tree_map_with_path(marked, params)


def _given(pieces: list[Piece], weights: list[Array]) -> dict[str, Array]:
    """Weights before they are projected, of the kernels some layer of which takes them in a backward product."""
    taken = {piece.path for piece in pieces if piece.representation.needs_given_weights}
    own = [(piece, w) for piece, w in zip(pieces, weights, strict=True) if piece.path in taken]
    values = [(given_weights(w, piece.representation), w) for piece, w in own]
    return whole([piece for piece, _ in own], [jax.lax.stop_gradient(w) if g is None else g for g, w in values])


def coded_kernels(params: Any, held: Held) -> dict[str, Representation]:
    """Representations of the kernels, by path, that may be sent in codes and cut along their outputs.

    Those that are held in one format of all layers, row by row, whose backward products ask no weights but the
    compressed ones.
    """
    kernels = kernels_of(params)
    return {
        piece.path: piece.representation
        for piece in pieces_of(params, held)
        if piece.path in kernels
        and piece.layers is None
        and by_output(piece.representation)
        and not piece.representation.needs_given_weights
    }


def by_output(representation: Representation) -> bool:
    """Whether every output's weights are projected by themselves, with nothing drawn, learned or kept."""
    fmt = representation.weights.format
    alone = granularity_of(fmt) == "row" and not draws(fmt) and not learns(fmt) and not isinstance(fmt, Stateful)
    return alone and not representation.weights.is_dense


def _project(
    owned: list[_Owned], representation: Representation, ctx: Context, apart: Apart | None = None
) -> list[Array]:
    def project(one: _Owned) -> Array:
        return project_weights(one.kernel, representation, ctx._replace(learned=one.learned, state=one.state))

    stacked = owned[0] if len(owned) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *owned)
    owns = stacked.learned is not None or stacked.state is not None
    if apart is not None:
        projected = apart(lambda w, ctx: project_weights(w, representation, ctx), stacked.kernel, ctx)
    else:
        projected = by_layer(project, stacked.kernel)(stacked) if owns else project(stacked)
    return [projected] if len(owned) == 1 else list(projected)


def by_layer(function: Callable[..., Array], kernel: Array) -> Callable[..., Array]:
    """`function` of matrices, mapped over the leading axes of `kernel`."""
    for _ in range(kernel.ndim - 2):
        function = jax.vmap(function)
    return function


def path_name(path: tuple[Any, ...]) -> str:
    """`layers/mlp/up/kernel`, of a path as jax gives it."""
    return "/".join(str(key.key) for key in path if hasattr(key, "key"))


def values_of(tree: Any) -> dict[str, Array]:
    """Every leaf of `tree`, projected or not, by its path."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, ProjectedWeight))
    return {path_name(path): leaf.value if isinstance(leaf, ProjectedWeight) else leaf for path, leaf in found}


def kernels_of(tree: Any) -> dict[str, Array]:
    """Every kernel of `tree`, held or not, by its path."""
    return {path: leaf for path, leaf in values_of(tree).items() if path.split("/")[-1] == KERNEL}
