"""Belongings of the formats of weights: learnable parameters beside a kernel, and a state of their own.

Where layers are held in different representations, both are of all layers all the same, and zero for those without.
"""

from collections import defaultdict
from typing import Any

import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError
from capscale.formats.capabilities import HasLearnedScale, Stateful, learns
from capscale.models.assigned import TABLES, Held, every
from capscale.models.projected import KERNEL, LEARNED, FormatState, Piece, by_layer, kernels_of, pieces_of, whole
from capscale.representation import weight_rows


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
        return by_layer(lambda w: fmt.initial_learned(weight_rows(w, piece.representation)), rows)(rows)

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
        return by_layer(lambda w: fmt.initial_state(weight_rows(w, piece.representation)), rows)(rows)

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

        return by_layer(of_matrix, w)(before, w, g)

    return whole(pieces, [move(piece) for piece in pieces])
