"""Causal attention as XLA computes it: the oracle of the kernel, and what runs where there is none."""

import jax
from jax import Array


def causal_attention(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array) -> Array:
    """`softmax(q k^T / sqrt(K)) v` over the tokens up to each one's own, (B, T, H, K) in the dtype of q.

    A key and value head serves `H / G` queries. Scores and their softmax are float32.
    """
    with jax.numpy_dtype_promotion("standard"):  # its bfloat16 scores are float32 by promotion
        return jax.nn.dot_product_attention(q_BTHK, k_BTGK, v_BTGK, is_causal=True)
