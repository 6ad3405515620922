"""Rotary position embedding (RoPE, arXiv 2104.09864)."""

import jax.numpy as jnp
from jax import Array

from capscale.models.rope import LinearRope, Llama3Rope


def rotary_embedding(x_BTHK: Array, theta: float, scaling: LinearRope | Llama3Rope | None = None) -> Array:
    """Queries or keys turned by their positions, pairing feature i with i + K/2.

    Feature pair i of token t is rotated by the angle `t * theta**(-2 i / K)`, or by what `scaling` makes of it. K must
    be even.
    """
    T, K = x_BTHK.shape[1], x_BTHK.shape[3]
    frequency_k = theta ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
    if scaling is not None:
        frequency_k = scaling.stretched(frequency_k)
    angle_Tk = jnp.arange(T, dtype=jnp.float32)[:, None] * frequency_k[None, :]
    cos_T1k, sin_T1k = jnp.cos(angle_Tk)[None, :, None, :], jnp.sin(angle_Tk)[None, :, None, :]
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos_T1k - second * sin_T1k, second * cos_T1k + first * sin_T1k], axis=-1)
    return rotated.astype(x_BTHK.dtype)
