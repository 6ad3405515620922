"""Cross-entropy over large vocabularies, without the logits of all tokens at once."""

from functools import partial
from math import prod
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from capscale.kernels.cross_entropy import cross_entropy as with_gradients
from capscale.kernels.mesh import automatic_axes, dividing

LOGITS = 2**26
"""Most logits that a device holds at once, 256 MiB in float32; training holds their gradient beside them."""


def logits(x_BTM: Array, head_VM: Array, dtype: DTypeLike) -> Array:
    """`(B, T, V)` in float32 from features and the head, multiplied in `dtype`."""
    return jnp.einsum("BTM,VM->BTV", x_BTM, head_VM.astype(dtype), preferred_element_type=jnp.float32)


def tokens_at_once(sequences: int, context: int, vocabulary: int) -> int:
    """Most tokens of each of a device's sequences whose logits fit into `LOGITS`: a divisor of `context`."""
    fitting = LOGITS // (max(sequences, 1) * vocabulary)
    return max(tokens for tokens in range(1, context + 1) if context % tokens == 0 and tokens <= max(fitting, 1))


def cross_entropy(x_BTM: Array, head_VM: Array, target_BT: Array, dtype: DTypeLike, at_once: int) -> Array:
    """Cross-entropy of every target in nats, `float32 (B, T)`; what evaluation needs.

    Args:
      x_BTM: features of every token.
      head_VM: the head in float32.
      target_BT: token ids.
      dtype: what logits are multiplied in.
      at_once: tokens of each sequence whose logits exist together, a divisor of T. Sequences stay whole, so that a
        batch split over devices stays so.
    """

    def losses(part: tuple[Array, Array]) -> Array:
        x_BtM, target_Bt = part
        return optax.softmax_cross_entropy_with_integer_labels(logits(x_BtM, head_VM, dtype), target_Bt)

    loss_nBt = jax.lax.map(losses, (_parts(x_BTM, at_once), _parts(target_BT, at_once)))
    return _whole(loss_nBt)


def mean_cross_entropy(x_BTM: Array, head_VM: Array, target_BT: Array, dtype: DTypeLike, at_once: int) -> Array:
    """Mean of `cross_entropy`, float32 scalar; what training needs.

    The forward pass of its `custom_vjp` also computes the gradients of features and head: every logit is computed once,
    each device sums its share of the head's gradient, and one all-reduce adds these up.
    Gradients of logits are rounded to `dtype`, as what they are multiplied with is; sums are float32.
    """
    return cast(Array, _mean(jnp.dtype(dtype).name, at_once, x_BTM, head_VM, target_BT))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mean(dtype: str, at_once: int, x_BTM: Array, head_VM: Array, target_BT: Array) -> Array:
    return cross_entropy(x_BTM, head_VM, target_BT, dtype, at_once).mean()


def _forward(
    dtype: str, at_once: int, x_BTM: Array, head_VM: Array, target_BT: Array
) -> tuple[Array, tuple[Array, Array]]:
    mesh, auto = automatic_axes()
    axes = dividing(mesh, auto, len(x_BTM))
    local = partial(_with_gradients, at_once, axes)
    if axes:
        split, same = PartitionSpec(axes), PartitionSpec()
        local = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(split, same, split),
            out_specs=(same, (split, same)),
            axis_names=set(auto),
            check_vma=False,
        )
    total, gradients = local(x_BTM, head_VM.astype(dtype), target_BT)
    return total / target_BT.size, gradients


def _backward(dtype: str, at_once: int, gradients: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array, None]:
    by_features_BTM, by_head_VM = gradients
    share = cotangent / prod(by_features_BTM.shape[:2])
    return (by_features_BTM.astype(jnp.float32) * share).astype(by_features_BTM.dtype), by_head_VM * share, None


_mean.defvjp(_forward, _backward)


def _with_gradients(
    at_once: int, axes: tuple[str, ...], x_BTM: Array, head_VM: Array, target_BT: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Sum of the losses, and its gradients by features, in their dtype, and by the head, in float32.

    `axes`: of the mesh, that the batch is split over.
    """

    def add(sums: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        x_BtM, target_Bt = part
        loss, slope_BtV, dx_BtM = with_gradients(x_BtM, head_VM, target_Bt)
        # In this order, and transposed once at the end: a CPU would transpose the slopes otherwise, which are larger.
        dhead_MV = jnp.einsum("BTM,BTV->MV", x_BtM, slope_BtV, preferred_element_type=jnp.float32)
        return (sums[0] + loss, sums[1] + dhead_MV), dx_BtM.astype(x_BtM.dtype)

    nothing = (jnp.float32(0), jnp.zeros(head_VM.T.shape, jnp.float32))
    parts = (_parts(x_BTM, at_once), _parts(target_BT, at_once))
    (loss, dhead_MV), dx_nBtM = jax.lax.scan(add, nothing, parts)
    if axes:
        loss, dhead_MV = jax.lax.psum((loss, dhead_MV), axes)
    return loss, (_whole(dx_nBtM), dhead_MV.T)


def _parts(y_BT: Array, at_once: int) -> Array:
    """(B, T, ...) as (n, B, at_once, ...)."""
    B, T = y_BT.shape[:2]
    return jnp.moveaxis(y_BT.reshape(B, T // at_once, at_once, *y_BT.shape[2:]), 1, 0)


def _whole(y_nBt: Array) -> Array:
    """The inverse of `_parts`."""
    y_Bnt = jnp.moveaxis(y_nBt, 0, 1)
    return y_Bnt.reshape(len(y_Bnt), -1, *y_nBt.shape[3:])
