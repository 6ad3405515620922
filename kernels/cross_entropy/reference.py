"""Cross-entropy and its gradients as XLA computes them: the oracle of the kernels, and what runs without them."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class CrossEntropyGradients(NamedTuple):
    """Cross-entropy of tokens, and its gradients.

    Attributes:
      loss: the sum over tokens in nats, float32 scalar.
      by_logits_BTV: of that sum, rounded to the dtype of the head.
      by_features_BTM: of that sum, from the rounded ones, float32.
    """

    loss: Array
    by_logits_BTV: Array
    by_features_BTM: Array


def cross_entropy(x_BTM: Array, head_VM: Array, target_BT: Array) -> CrossEntropyGradients:
    """Of logits `x head^T`, multiplied in the dtype of the head and summed in float32; targets are ids below V."""
    logit_BTV = jnp.einsum("BTM,VM->BTV", x_BTM, head_VM, preferred_element_type=jnp.float32)
    largest_BT1 = jnp.max(logit_BTV, axis=-1, keepdims=True)
    exp_BTV = jnp.exp(logit_BTV - largest_BT1)  # once, for the loss and for its gradient
    total_BT1 = jnp.sum(exp_BTV, axis=-1, keepdims=True)
    is_target_BTV = jnp.arange(len(head_VM))[None, None] == target_BT[..., None]
    loss = jnp.sum(jnp.log(total_BT1) + largest_BT1) - jnp.sum(jnp.where(is_target_BTV, logit_BTV, 0.0))
    slope_BTV = (exp_BTV / total_BT1 - is_target_BTV.astype(jnp.float32)).astype(head_VM.dtype)
    dx_BTM = jnp.einsum("BTV,VM->BTM", slope_BTV, head_VM, preferred_element_type=jnp.float32)
    return CrossEntropyGradients(loss, slope_BTV, dx_BTM)
