"""How far held weights are from their master weights, and how much of the gradient passes to these.

The first is what Theorem 1 of arXiv 2506.01863 bounds the gradient by, `||theta_hat - theta||_2`; relative to these it
is the error that the format makes on them, where GMSE is the one on Gaussian weights. What passes is the share of ones
in the estimator's mask, or its mean where a mask is not of zeros and ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from capscale.models.projected import kernels_of, path_name
from capscale.representation import Representation, rotated_back, weight_rows


def weights_distance(params: Any, held: Any, representation: Representation) -> Array:
    """Euclidean distance of all compressed weights from their master weights, float32 scalar; 0 for dense weights.

    A rotation leaves it as it is, so weights that stay rotated are compared in their basis.
    """
    return jnp.sqrt(_square_distance(params, held, representation))


def weights_error(params: Any, held: Any, representation: Representation) -> Array:
    """Realised error `||held - masters||^2 / ||masters||^2` of all compressed weights, float32 scalar; 0 for dense.

    Both sums go over all compressed kernels, which makes it the mean of the relative errors of the groups that share a
    scale (or a threshold), each weighted by its energy. GMSE is relative to the energy of such a group, so where every
    group is Gaussian, whatever its variance, this is GMSE. A mean over kernels of one ratio each would be as well, and
    would let a kernel of hardly any energy, whose error hardly moves a product, count as much as any other. NaN where
    all masters are zero.
    """
    if representation.weights.is_dense:
        return jnp.float32(0)
    energy = sum((_sum(jnp.square(w)) for w in kernels_of(params).values()), jnp.float32(0))
    return _square_distance(params, held, representation) / energy


def _square_distance(params: Any, held: Any, representation: Representation) -> Array:
    if representation.weights.is_dense:
        return jnp.float32(0)
    masters = kernels_of(params)
    if representation.rotates_both:
        masters = {path: jnp.swapaxes(weight_rows(w, representation), -1, -2) for path, w in masters.items()}
    held_kernels = kernels_of(held)
    return sum((_sum(jnp.square(held_kernels[path] - w)) for path, w in masters.items()), jnp.float32(0))


def mask_pass_rate(
    params: Any, held: Any, vjp_to_master: Callable[[Any], tuple[Any]], representation: Representation
) -> Array:
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
    if representation.weights.is_dense:
        return jnp.float32(1)
    masters = kernels_of(params)
    ones = {path: _ones(w, representation) for path, w in masters.items()}

    def cotangent(path: str, leaf: Array) -> Array:
        if path not in masters:
            return jnp.zeros_like(leaf)
        return jnp.ones_like(leaf) if representation.rotates_both else ones[path].astype(leaf.dtype)

    (pulled,) = vjp_to_master(
        jax.tree_util.tree_map_with_path(lambda path, leaf: cotangent(path_name(path), leaf), held)
    )
    passed = sum((_sum(ones[path] * w) for path, w in kernels_of(pulled).items()), jnp.float32(0))
    return passed / sum(w.size for w in masters.values())


def _ones(kernel: Array, representation: Representation) -> Array:
    """The ones of the format's basis, seen in the basis of the master weights."""
    column = jnp.ones((kernel.shape[-2], 1), kernel.dtype)
    return jnp.broadcast_to(rotated_back(column, representation, axis=-2), kernel.shape)


def _sum(x: Array) -> Array:
    """Row by row first: one running sum over all would lose the small ones."""
    return jnp.sum(jnp.sum(x, axis=-1))
