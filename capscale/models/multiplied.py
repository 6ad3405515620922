"""Codes of a model's weights for products of codes, made once for any number of uses, as projected weights are."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from capscale.coded import Coded
from capscale.errors import UserError
from capscale.formats.base import Context
from capscale.kernels.config import PRODUCTS
from capscale.kernels.matmul.codes import Multiplicand
from capscale.models.assigned import TABLES, Held
from capscale.models.projected import Apart, Piece, by_output, path_name, pieces_of, values_of
from capscale.representation import ProjectedWeight, codes_of_weights, multiplied


def multiplicands(
    params: Any, held: Held, ctx: Context, rows: int, apart: Apart | None = None
) -> dict[str, Multiplicand]:
    """Codes by path of the kernels that products of codes read, where linear layers get so many rows.

    Zero for layers that multiply values. Embedding and head multiply values always. `apart`: see `project_params`.

    Raises:
      UserError: layers of one kernel that would be multiplied by several kinds of codes.
    """
    leaves, of_path = values_of(params), defaultdict[str, list[tuple[Piece, Multiplicand | None]]](list)
    for piece in pieces_of(params, held):
        if piece.path not in TABLES:
            of_path[piece.path].append((piece, _of(piece, piece.of(leaves[piece.path]), ctx, rows, apart)))
    found = {path: _joined(path, parts, leaves[path]) for path, parts in of_path.items()}
    return {path: codes for path, codes in found.items() if codes is not None}


def with_codes(held: Any, coded: Mapping[str, Coded | Multiplicand]) -> Any:
    """Held weights, of which products read these codes in place of the values."""

    def visit(path: tuple[Any, ...], leaf: Any) -> Any:
        own = coded.get(path_name(path))
        if own is None:
            return leaf
        return leaf._replace(codes=own) if isinstance(own, Multiplicand) else leaf._replace(coded=own)

    return jax.tree_util.tree_map_with_path(visit, held, is_leaf=lambda leaf: isinstance(leaf, ProjectedWeight))


def _of(piece: Piece, w: Array, ctx: Context, rows: int, apart: Apart | None) -> Multiplicand | None:
    by = multiplied(piece.representation, w.shape[-2], rows)
    if by is None:
        return None

    def codes(w: Array, ctx: Context) -> Multiplicand:
        return codes_of_weights(w, piece.representation, by, ctx)

    return codes(w, ctx) if apart is None or not by_output(piece.representation) else apart(codes, w, ctx)


def _joined(path: str, parts: list[tuple[Piece, Multiplicand | None]], w: Array) -> Multiplicand | None:
    """Codes of all layers of a kernel."""
    there = [codes for _, codes in parts if codes is not None]
    if not there or len(parts) == 1:
        return there[0] if there else None
    if len(kinds := {codes.codes.dtype.name for codes in there}) > 1:
        raise UserError(
            f"{path}: its layers would be multiplied in {' and '.join(sorted(kinds))} codes, which one array does not "
            f"hold; set {PRODUCTS}=values, or hold all of its layers in formats of one kind"
        )
    like, whole = there[0], []
    for piece, codes in parts:
        layers = len(piece.along(w))
        zeros = Multiplicand(
            jnp.zeros((layers, *like.codes.shape[1:]), like.codes.dtype), jnp.zeros((layers, *like.scales.shape[1:]))
        )
        whole.append(zeros if codes is None else codes)
    return Multiplicand(*(jnp.concatenate(of) for of in zip(*whole, strict=True)))
