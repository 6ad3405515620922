"""Rotary position embedding (RoPE, arXiv 2104.09864).

A pair (a, b) of features K/2 apart turned by an angle is (a cos - b sin, b cos + a sin). Where a vector of 128 features
lies along the lanes of a register, as on TPUs, halves of it are slow to take apart and to join. There the features
times [[0, 1], [-1, 0]] are (-b, a), exactly, by the matrix unit, and no vector is split.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from capscale.kernels import dispatch
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
    if dispatch.current().platform == "tpu":
        return turned(x_BTHK, *(jnp.concatenate([each, each], axis=-1) for each in (cos_T1k, sin_T1k)))
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos_T1k - second * sin_T1k, second * cos_T1k + first * sin_T1k], axis=-1)
    return rotated.astype(x_BTHK.dtype)


@jax.custom_vjp
def turned(x_BTHK: Array, cos_T1K: Array, sin_T1K: Array) -> Array:
    """Pairs of features turned by the angles of these cosines and sines, by a product; no gradient goes into angles.

    Its gradient is turned back, so that the product stays exact: it multiplies what has the dtype of x.
    """
    across = jnp.asarray(_across(x_BTHK.shape[-1]), x_BTHK.dtype)
    precision = lax.Precision.DEFAULT if x_BTHK.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    other = jnp.matmul(x_BTHK, across, precision=precision, preferred_element_type=jnp.float32)
    return (x_BTHK.astype(jnp.float32) * cos_T1K + other * sin_T1K).astype(x_BTHK.dtype)


def _forward(x_BTHK: Array, cos_T1K: Array, sin_T1K: Array) -> tuple[Array, tuple[Array, Array]]:
    return turned(x_BTHK, cos_T1K, sin_T1K), (cos_T1K, sin_T1K)


def _backward(angles: tuple[Array, Array], g_BTHK: Array) -> tuple[Array, None, None]:
    cos_T1K, sin_T1K = angles
    return turned(g_BTHK, cos_T1K, -sin_T1K), None, None


turned.defvjp(_forward, _backward)


def _across(width: int) -> np.ndarray:
    """Matrix by which features (a, b), each half of them, become (-b, a)."""
    half = np.eye(width // 2)
    return np.block([[0 * half, half], [-half, 0 * half]])
