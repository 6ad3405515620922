"""Activations times packed weights, as the equations say.

    one scale per output:  y = (sum_k x_k level_k) * scale        levels in the dtype of x
    one scale per group:   y = sum_k x_k (level_k * scale_k)      products rounded to the dtype of x

Both accumulate in float32. Integer levels are exact in bfloat16 up to 8 bits, so that a scale per output costs no
rounding of the weights at all; groups use the weights that `unpack` gives in bfloat16.
"""

import jax.numpy as jnp
from capscale.kernels.jit_inline import jit_inline
from jax import Array

from .layout import Weights, decode


@jit_inline()
def levels(weights: Weights) -> Array:
    """Levels (F, K) of the packed codes, float32; zero where sparsity dropped."""
    tiles = [plane.astype(jnp.int32) for plane in weights.codes]
    pattern = None if weights.pattern is None else weights.pattern.astype(jnp.int32)
    return jnp.stack(decode(weights.layout, tiles, pattern), axis=-1).reshape(weights.shape)


@jit_inline()
def dequantize(weights: Weights) -> Array:
    """Weights (F, K), float32."""
    return levels(weights) * jnp.repeat(weights.scale, weights.shape[1] // weights.scale.shape[1], axis=1)


@jit_inline(2)
def matmul(x: Array, weights: Weights, dtype: jnp.dtype | None = None) -> Array:
    """y (B, F) = x (B, K) times the packed weights (F, K), transposed; in `dtype`, that of x if None."""
    if weights.layout.group is None:
        dense = levels(weights).astype(x.dtype)
        y = jnp.matmul(x, dense.T, preferred_element_type=jnp.float32) * weights.scale.T
    else:
        dense = dequantize(weights).astype(x.dtype)
        y = jnp.matmul(x, dense.T, preferred_element_type=jnp.float32)
    return y.astype(dtype or x.dtype)


def tolerance(width: int, dtype: jnp.dtype) -> float:
    """How far two results may lie apart, in units of `sum_k |x_k weight_k|`.

    Sums of `width` terms in float32 in any order, and the rounding of the result to `dtype`.
    """
    return width * float(jnp.finfo(jnp.float32).eps) + float(jnp.finfo(dtype).eps)
