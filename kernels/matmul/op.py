"""Activations times packed weights, on whatever runs it best."""

from functools import partial
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
from capscale.kernels import dispatch, measured
from capscale.kernels.mesh import by_rows, unknown_sharding_reason
from jax import Array

from . import reference
from .layout import Weights


def matmul(x: Array, weights: Weights, dtype: jnp.dtype | None = None) -> Array:
    """y (..., F) = x (..., K) times the packed weights (F, K), transposed; in `dtype`, that of x if None.

    Accumulates in float32; see `reference` for the order of scaling and rounding. Differentiable by x alone: packed
    weights are what training ended with. Rows are split over the context mesh (`jax.set_mesh`), weights are whole on
    every device.
    Raises ValueError where K is not the width of the weights.
    """
    outputs, width = weights.shape
    if x.shape[-1] != width:
        raise ValueError(f"matmul: x has {x.shape[-1]} inputs, the packed weights {width}; pass x as (..., {width})")
    rows = x.reshape(prod(x.shape[:-1]), width)
    y = cast(Array, _matmul(jnp.dtype(dtype or x.dtype).name, rows, weights))
    return y.reshape(*x.shape[:-1], outputs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(dtype: str, x: Array, weights: Weights) -> Array:
    of = weights.layout
    split = unknown_sharding_reason()
    detail = f"{x.dtype} {x.shape} x {weights.shape}, {of.bits} bits, group {of.group}{', 2:4' * of.sparse}"
    backend = dispatch.choose(
        "matmul",
        (x.dtype, x.shape, of, weights.shape, split),
        partial(_unsupported, x, weights, split),
        partial(measured.slower_product, x.shape[0]),
        detail=f"{detail}{', split' if split else ''}",
    )
    if backend == "reference":
        return reference.matmul(x, weights, jnp.dtype(dtype))
    options = {"interpret": dispatch.current().interpret}

    def run(x: Array, weights: Weights) -> Array:
        return _module(backend).matmul(x, weights, jnp.dtype(dtype), **options)

    return by_rows(run, whole=1)(x, weights)


def _unsupported(x: Array, weights: Weights, split: str | None, backend: dispatch.Backend) -> str | None:
    if not x.shape[0] or not weights.shape[0]:
        return "there is nothing to multiply"
    if split is not None:
        return split
    return _module(backend).unsupported(x, weights)


def _forward(dtype: str, x: Array, weights: Weights) -> tuple[Array, tuple[Array, Weights]]:
    return _matmul(dtype, x, weights), (jnp.zeros((), x.dtype), weights)


def _backward(dtype: str, residuals: tuple[Array, Weights], g: Array) -> tuple[Array, None]:
    like, weights = residuals
    dense = reference.dequantize(weights).astype(g.dtype)
    return jnp.matmul(g, dense, preferred_element_type=jnp.float32).astype(like.dtype), None


_matmul.defvjp(_forward, _backward)


def _module(backend: dispatch.Backend) -> Any:
    """`matmul` and `unsupported` of a backend; Pallas is imported where it is used."""
    if backend == "tpu":
        from . import tpu

        return tpu
    from . import gpu

    return gpu
