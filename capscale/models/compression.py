"""How far held weights are from their master weights, and how much of the gradient passes to these.

The first is what Theorem 1 of arXiv 2506.01863 bounds the gradient by, `||theta_hat - theta||_2`; relative to these it
is the error that the format makes on them, where GMSE is the one on Gaussian weights. What passes is the share of ones
in the estimator's mask, or its mean where a mask is not of zeros and ones.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from capscale.models.assigned import Held
from capscale.models.projected import Piece, path_name, pieces_of, values_of, whole
from capscale.representation import Representation, rotated_back, weight_rows


def weights_distance(params: Any, held: Any, representation: Held) -> Array:
    """Euclidean distance of all compressed weights from their master weights, float32 scalar; 0 for dense weights.

    A rotation leaves it as it is, so weights that stay rotated are compared in their basis.
    """
    return jnp.sqrt(_square_distance(params, held, representation))


def weights_error(params: Any, held: Any, representation: Held) -> Array:
    """Realised error `||held - masters||^2 / ||masters||^2` of all compressed weights, float32 scalar; 0 for dense.

    Both sums go over all compressed weights, which makes it the mean of the relative errors of the groups that share a
    scale (or a threshold), each weighted by its energy. GMSE is relative to the energy of such a group, so where every
    group is Gaussian, whatever its variance, this is GMSE, or under a policy a mean of GMSEs. A mean over kernels of
    one ratio each would be as well, and would let a kernel of hardly any energy, whose error hardly moves a product,
    count as much as any other. NaN where all masters are zero.
    """
    masters = _compressed(params, representation)
    if not masters:
        return jnp.float32(0)
    energy = sum((_sum(jnp.square(w)) for w in masters.values()), jnp.float32(0))
    return _square_distance(params, held, representation) / energy


def weight_errors(params: Any, held: Any, representation: Held) -> dict[str, Array]:
    """Master weights less what they are held as, in their own basis, by path; zeros where they are dense."""
    leaves, values = values_of(params), values_of(held)
    pieces = pieces_of(params, representation)

    def error(piece: Piece) -> Array:
        w, value = piece.of(leaves[piece.path]), piece.of(values[piece.path])
        if piece.representation.weights.is_dense:
            return jnp.zeros_like(w)
        if not piece.representation.rotates_both:
            return w - value
        rows = jnp.swapaxes(weight_rows(w, piece.representation), -1, -2)
        return rotated_back(rows - value, piece.representation, axis=-2)

    return whole(pieces, [error(piece) for piece in pieces])


def _compressed(params: Any, representation: Held) -> dict[Piece, Array]:
    """Compressed weights `(..., in, out)` of every piece."""
    leaves = values_of(params)
    pieces = [piece for piece in pieces_of(params, representation) if not piece.representation.weights.is_dense]
    return {piece: piece.of(leaves[piece.path]) for piece in pieces}


def _square_distance(params: Any, held: Any, representation: Held) -> Array:
    masters = _compressed(params, representation)
    for piece, w in masters.items():
        if piece.representation.rotates_both:
            masters[piece] = jnp.swapaxes(weight_rows(w, piece.representation), -1, -2)
    values = values_of(held)
    return sum((_sum(jnp.square(piece.of(values[piece.path]) - w)) for piece, w in masters.items()), jnp.float32(0))


def mask_pass_rate(params: Any, held: Any, vjp_to_master: Callable[[Any], tuple[Any]], representation: Held) -> Array:
    """Mean of the mask that gradients of compressed weights are multiplied by, float32 scalar; 1 for dense weights.

    Args:
      params: the master weights.
      held: what they are held as.
      vjp_to_master: the vector-Jacobian product from `held` to `params`; it is linear, and applies the mask in the
        basis of the format. Pulling the ones of that basis back, and comparing with the ones, sums the mask without
        computing it again. What an estimator adds to the gradient counts as well: that is a share of noise alone for
        noise (`ThroughScale`), whose rate is 1 but for chance.
      representation: of both.
    """
    masters = _compressed(params, representation)
    if not masters:
        return jnp.float32(1)
    ones = {piece: _ones(w, piece.representation) for piece, w in masters.items()}
    leaves = values_of(held)

    def seen(piece: Piece) -> Array:
        """The ones of a piece's basis as gradients of its projected weights, zeros for a dense one."""
        like = piece.of(leaves[piece.path])
        if piece not in masters:
            return jnp.zeros_like(like)
        return jnp.ones_like(like) if piece.representation.rotates_both else ones[piece].astype(like.dtype)

    of_path: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces_of(params, representation):
        of_path[piece.path].append(piece)

    def cotangent(path: str, leaf: Array) -> Array:
        own = of_path.get(path)
        return jnp.zeros_like(leaf) if own is None else whole(own, [seen(piece) for piece in own])[path]

    (pulled,) = vjp_to_master(
        jax.tree_util.tree_map_with_path(lambda path, leaf: cotangent(path_name(path), leaf), held)
    )
    into = values_of(pulled)
    passed = sum((_sum(ones[piece] * piece.of(into[piece.path])) for piece in masters), jnp.float32(0))
    return passed / sum(w.size for w in masters.values())


def _ones(kernel: Array, representation: Representation) -> Array:
    """The ones of the format's basis, seen in the basis of the master weights."""
    column = jnp.ones((kernel.shape[-2], 1), kernel.dtype)
    return jnp.broadcast_to(rotated_back(column, representation, axis=-2), kernel.shape)


def _sum(x: Array) -> Array:
    """Row by row first: one running sum over all would lose the small ones."""
    return jnp.sum(jnp.sum(x, axis=-1))
