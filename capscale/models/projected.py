"""A model's weights as its representation holds them, projected once for any number of uses.

Kernels may have leading axes, `(layers, in, out)`; formats are applied layer by layer. What a format owns lies beside
the kernel it belongs to: learnable parameters in the parameters, as "weights_step"; state in a tree of its own. Where
layers are held in different representations, both are of all layers all the same, and zero for those without.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from capscale.coded import Coded
from capscale.errors import UserError
from capscale.formats.base import Context, granularity_of
from capscale.formats.capabilities import HasLearnedScale, Stateful, draws, learns
from capscale.models.assigned import TABLES, Held, every, runs
from capscale.representation import (
    ProjectedWeight,
    Representation,
    given_weights,
    project_weights,
    weight_rows,
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


def add_learned(params: Any, held: Held) -> Any:
    """`params` with the learnable parameters of the weights' formats beside each kernel, as they start them."""
    if not any(learns(each.weights.format) for each in every(held)):
        return params
    pieces = [piece for piece in pieces_of(params, held) if piece.path not in TABLES]
    of_path: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        of_path[piece.path].append(piece)

    def start(piece: Piece, kernel: Array) -> Array | None:
        fmt = piece.representation.weights.format
        if not (isinstance(fmt, HasLearnedScale) and fmt.learns):
            return None
        rows = piece.along(kernel)
        return _by_layer(lambda w: fmt.initial_learned(weight_rows(w, piece.representation)), rows)(rows)

    def visit(tree: Any, place: str) -> Any:
        if not isinstance(tree, dict):
            return tree
        visited = {name: visit(branch, f"{place}{name}/") for name, branch in tree.items()}
        if KERNEL in tree:
            own = of_path[place + KERNEL]
            learned = _padded(place + LEARNED, own, [start(piece, tree[KERNEL]) for piece in own])
            if learned is not None:
                visited[LEARNED] = learned
        return visited

    return visit(params, "")


def _padded(path: str, pieces: list[Piece], values: list[Array | None]) -> Array | None:
    """Arrays that formats own of all layers of one kernel, zero where one owns nothing; None where none does."""
    shapes = {(value.shape[1:], value.dtype): value for value in values if value is not None}
    if not shapes:
        return None
    if len(pieces) == 1:
        return values[0]
    if len(shapes) > 1:
        told = " and ".join(f"{shape or 'one number'}" for shape, _ in shapes)
        raise UserError(
            f"{path}: formats of its layers own arrays of the shapes {told}, and they share one; choose formats that "
            "own the same, or one format for all of its layers"
        )
    ((shape, dtype),) = shapes
    sizes = [piece.layers[1] - piece.layers[0] for piece in pieces if piece.layers is not None]
    return jnp.concatenate(
        [jnp.zeros((n, *shape), dtype) if value is None else value for n, value in zip(sizes, values, strict=True)]
    )


def initial_format_state(params: Any, held: Held) -> FormatState:
    """State of the weights' formats for every kernel at the start of training."""
    kernels, of_path = kernels_of(params), defaultdict(list)
    for piece in pieces_of(params, held):
        if piece.path in kernels:
            of_path[piece.path].append(piece)

    def start(piece: Piece) -> Array | None:
        fmt, rows = piece.representation.weights.format, piece.along(kernels[piece.path])
        if not isinstance(fmt, Stateful):
            return None
        return _by_layer(lambda w: fmt.initial_state(weight_rows(w, piece.representation)), rows)(rows)

    found = {path: _padded(path, own, [start(piece) for piece in own]) for path, own in of_path.items()}
    return {path: state for path, state in found.items() if state is not None}


def next_format_state(
    state: FormatState, params: Any, gradient: Any, held: Held, *, step: Array, progress: Array
) -> FormatState:
    """State after optimizer step `step`.

    `gradient` is taken with respect to the held weights: dense, so that it tells of pruned entries too.
    """
    if not any(isinstance(each.weights.format, Stateful) for each in every(held)):
        return state
    kernels, gradients = kernels_of(params), kernels_of(gradient)
    pieces = [piece for piece in pieces_of(params, held) if piece.path in state]

    def move(piece: Piece) -> Array:
        fmt, representation = piece.representation.weights.format, piece.representation
        before, w, g = (piece.along(of[piece.path]) for of in (state, kernels, gradients))
        if not isinstance(fmt, Stateful):
            return before

        def of_matrix(mask: Array, w: Array, g: Array) -> Array:
            return fmt.next_state(mask, weight_rows(w, representation), weight_rows(g, representation), step, progress)

        return _by_layer(of_matrix, w)(before, w, g)

    return whole(pieces, [move(piece) for piece in pieces])


Apart = Callable[[Callable[[Array, Context], Array], Array, Context], Array]
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
        by_device = None if tables or not _by_output(representation) else apart
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
        and _by_output(piece.representation)
        and not piece.representation.needs_given_weights
    }


def with_codes(held: Any, coded: Mapping[str, Coded]) -> Any:
    """Held weights, of which products read these codes in place of the values."""

    def visit(path: tuple[Any, ...], leaf: Any) -> Any:
        return leaf._replace(coded=coded[name]) if (name := path_name(path)) in coded else leaf

    return jax.tree_util.tree_map_with_path(visit, held, is_leaf=lambda leaf: isinstance(leaf, ProjectedWeight))


def _by_output(representation: Representation) -> bool:
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


def values_of(tree: Any) -> dict[str, Array]:
    """Every leaf of `tree`, projected or not, by its path."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, ProjectedWeight))
    return {path_name(path): leaf.value if isinstance(leaf, ProjectedWeight) else leaf for path, leaf in found}


def kernels_of(tree: Any) -> dict[str, Array]:
    """Every kernel of `tree`, held or not, by its path."""
    return {path: leaf for path, leaf in values_of(tree).items() if path.split("/")[-1] == KERNEL}
