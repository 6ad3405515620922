"""Features of the heads of a token side by side, as the layer behind attention reads them.

Attention on TPUs leaves the tokens of a head together. A kernel that projects reads the features of a token, and XLA,
asked for that as a reshape, first makes an array with heads below each other, eight rows of a register for five, and
then another of that. Where a head is whole registers wide, its features are moved there at once.
"""

import jax
import jax.numpy as jnp
from jax import Array

from capscale.kernels import dispatch

LANES = 128
"""Features along a register of a TPU."""


def side_by_side(x_BTHK: Array, *, by_kernel: bool) -> Array:
    """Heads of x (B, T, H, K) as rows (B, T, H K). `by_kernel`: whether a kernel may read them, in place of XLA."""
    if by_kernel and dispatch.current().platform == "tpu" and not x_BTHK.shape[-1] % LANES:
        return _joined(x_BTHK)
    return _reshaped(x_BTHK)


def _reshaped(x_BTHK: Array) -> Array:
    return x_BTHK.reshape(*x_BTHK.shape[:2], -1)


@jax.custom_vjp
def _joined(x_BTHK: Array) -> Array:
    return jnp.concatenate([x_BTHK[:, :, head] for head in range(x_BTHK.shape[2])], axis=-1)


def _forward(x_BTHK: Array) -> tuple[Array, tuple[int, ...]]:
    return _joined(x_BTHK), x_BTHK.shape[2:]


def _backward(heads: tuple[int, ...], g_BTM: Array) -> tuple[Array]:
    """As the gradient of a reshape, of which XLA makes one transposition."""
    return (g_BTM.reshape(*g_BTM.shape[:2], *heads),)


_joined.defvjp(_forward, _backward)
