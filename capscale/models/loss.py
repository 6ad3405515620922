"""Cross-entropy over large vocabularies, without the logits of all tokens at once."""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import DTypeLike

LOGITS = 2**26
"""Most logits that a device holds at once, 256 MiB in float32; the backward pass holds twice that."""


def logits(x_BTM: Array, head_VM: Array, dtype: DTypeLike) -> Array:
    """`(B, T, V)` in float32 from features and the float32 head, multiplied in `dtype`."""
    return jnp.einsum("BTM,VM->BTV", x_BTM, head_VM.astype(dtype), preferred_element_type=jnp.float32)


def tokens_at_once(sequences: int, context: int, vocabulary: int) -> int:
    """Most tokens of each of a device's sequences whose logits fit into `LOGITS`: a divisor of `context`."""
    fitting = LOGITS // (max(sequences, 1) * vocabulary)
    return max(tokens for tokens in range(1, context + 1) if context % tokens == 0 and tokens <= max(fitting, 1))


def cross_entropy(x_BTM: Array, head_VM: Array, target_BT: Array, dtype: DTypeLike, at_once: int) -> Array:
    """Cross-entropy of every target in nats, `float32 (B, T)`.

    Args:
      x_BTM: features of every token.
      head_VM: the head in float32.
      target_BT: token ids.
      dtype: what logits are multiplied in.
      at_once: tokens of each sequence whose logits exist together, a divisor of T; the backward pass computes them
        anew. Sequences stay whole, so that a batch split over devices stays so.
    """

    def losses(x_BtM: Array, target_Bt: Array) -> Array:
        # The head is cast in here: outside, its gradient would be summed over the parts in `dtype`.
        return optax.softmax_cross_entropy_with_integer_labels(logits(x_BtM, head_VM, dtype), target_Bt)

    B, T, M = x_BTM.shape
    if at_once == T:
        return losses(x_BTM, target_BT)
    x_nBtM = jnp.moveaxis(x_BTM.reshape(B, T // at_once, at_once, M), 1, 0)
    target_nBt = jnp.moveaxis(target_BT.reshape(B, T // at_once, at_once), 1, 0)
    loss_nBt = jax.lax.map(jax.checkpoint(lambda part: losses(*part)), (x_nBtM, target_nBt))
    return jnp.moveaxis(loss_nBt, 0, 1).reshape(B, T)
