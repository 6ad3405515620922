"""Causal attention on a TPU by splash attention of `jax.experimental.pallas.ops.tpu`: scores never leave VMEM.

         keys in blocks
       +---+---+---+---+
       | s |   |   |   |     one sequence and one head a program: s = q k^T, its running maximum and sum, and the
query  +---+---+---+---+     products with v, all of a block in VMEM; blocks above the diagonal are not visited
blocks | s | s |   |   |
       +---+---+---+---+     backward: s anew from q, k and the logarithm of each row's sum, dq, dk and dv in one pass
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

LANES = 128
BLOCKS = (512, 256, 128)
"""Tokens of a block, of queries and of keys: the most that divide the context. At 512 tokens one block of 512 takes
2,120 bundles forward and 2,863 backward on v5e, by libtpu 0.0.42.1's schedule."""


def unsupported(shape_BTHK: tuple[int, ...], dtype: jax.typing.DTypeLike) -> str | None:
    """Why this kernel cannot run, or None."""
    tokens, width = shape_BTHK[1], shape_BTHK[3]
    if jnp.dtype(dtype) != jnp.bfloat16:
        return f"queries are {jnp.dtype(dtype)}; the kernel multiplies bfloat16"
    if width % LANES:
        return f"heads of {width} features are no multiple of {LANES} lanes"
    if tokens % BLOCKS[-1]:
        return f"{tokens} tokens are no multiple of {BLOCKS[-1]}"
    return None


def causal_attention(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, interpret: bool = False) -> Array:
    """As `reference.causal_attention`, for bfloat16.

    Queries are scaled ahead of the product, and so rounded once more; weights are rounded only after they are divided.
    """
    _, tokens, heads, width = q_BTHK.shape
    scaled = (q_BTHK.astype(jnp.float32) * width**-0.5).astype(q_BTHK.dtype)
    q_BHTK, k_BGTK, v_BGTK = (jnp.swapaxes(y, 1, 2) for y in (scaled, k_BTGK, v_BTGK))
    block = next(size for size in BLOCKS if tokens % size == 0)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        use_fused_bwd_kernel=True,
    )
    mask = masks.MultiHeadMask([masks.CausalMask((tokens, tokens))] * heads)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # of its own sources
        kernel = splash.make_splash_mha_single_device(mask, block_sizes=sizes, interpret=interpret)
        mixed_BHTK: Any = jax.vmap(kernel)(q_BHTK, k_BGTK, v_BGTK)
    return jnp.swapaxes(mixed_BHTK, 1, 2)
