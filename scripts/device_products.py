"""Activations times packed int4 weights, over the number of rows: the kernel, bfloat16, and unpacking for cuBLAS.

A loop on the device goes round as many matrices as no cache holds together, and each product is the next one's input. A
barrier ties weights to the input, without which a compiler may unpack them once for all rounds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from capscale.kernels import dispatch
from capscale.kernels.dispatch import Mode
from capscale.kernels.matmul import matmul
from device_kernels import int4_weights, normal
from device_plan import REHEARSE
from device_where import seconds
from jax import Array

SIZE = 128 if REHEARSE else 4096
PACKED, DENSE = (1, 1) if REHEARSE else (16, 4)
"""Matrices of 8 and of 32 MiB, 128 in all."""
TURNS = 2 if REHEARSE else 8


def prepare(case: str, row: dict[str, Any]) -> Callable[[], None]:
    """Loops of products of so many rows, compiled; what is given measures them."""
    x = jax.ShapeDtypeStruct((int(case.split(maxsplit=1)[0]), SIZE), jnp.bfloat16)
    packed = [jax.eval_shape(lambda: int4_weights(SIZE))] * PACKED
    dense = [jax.ShapeDtypeStruct((SIZE, SIZE), jnp.bfloat16)] * DENSE

    def by_bf16(x: Array, w: Array) -> Array:
        return jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(x.dtype)

    loops = [_loop(by_bf16, x, dense), _loop(_by("reference"), x, packed), _loop(_by("require"), x, packed)]
    return partial(_measure, *loops, x, row)


def _measure(bf16: Any, unpacked: Any, kernel: Any, like: Any, row: dict[str, Any]) -> None:
    x = normal(like.shape, like.dtype, 1)
    packed = [int4_weights(SIZE, seed=seed) for seed in range(PACKED)]
    dense = [normal((SIZE, SIZE), jnp.bfloat16, seed) * jnp.bfloat16(SIZE**-0.5) for seed in range(DENSE)]
    row["packed_bytes"] = sum(a.nbytes for a in jax.tree.leaves(packed[0]))
    row["bf16_us"] = 1e6 * seconds(bf16, x, dense) / (TURNS * DENSE)
    row["unpacked_us"] = 1e6 * seconds(unpacked, x, packed) / (TURNS * PACKED)
    row["us"] = 1e6 * seconds(kernel, x, packed) / (TURNS * PACKED)
    row["over_bf16"], row["over_unpacked"] = row["bf16_us"] / row["us"], row["unpacked_us"] / row["us"]
    row["flop_per_s"] = 2 * x.shape[0] * SIZE**2 / (1e-6 * row["us"])
    row["bytes_per_s"] = (row["packed_bytes"] + 2 * x.nbytes) / (1e-6 * row["us"])


def _by(mode: Mode) -> Callable[[Array, Any], Array]:
    def product(x: Array, w: Any) -> Array:
        with dispatch.force(mode):
            return matmul(x, w)

    return product


def _loop(product: Callable[[Array, Any], Array], x: Any, weights: list[Any]) -> Any:
    """Several turns through the weights, compiled."""

    def turn(_: Any, x: Array, weights: list[Any]) -> Array:
        for w in weights:
            tied, x = jax.lax.optimization_barrier((w, x))
            x = product(x, tied)
        return x

    loop = jax.jit(lambda x, weights: jax.lax.fori_loop(0, TURNS, lambda i, x: turn(i, x, weights), x))
    return loop.lower(x, weights).compile()
