"""Rounding to a narrow float that compilers keep."""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def rounded_to(x: Array, dtype: DTypeLike) -> Array:
    """`x` in `dtype`, rounded to it whatever becomes of it.

    XLA may take a conversion from float32 to a narrower float and back for none at all (`xla_allow_excess_precision`,
    on by default), and on GPUs does: rotated rows in bfloat16 were projected unrounded there, and a third of the values
    came out otherwise than on a CPU (H200, jax 0.11.2). It keeps `reduce_precision`, and looks through no choice.

    Example:
      >>> rounded_to(jnp.float32(1.001), jnp.bfloat16)
      Array(1, dtype=bfloat16)
    """
    if x.dtype == jnp.bfloat16 or jnp.dtype(dtype) == x.dtype:
        return x.astype(dtype)
    if jnp.dtype(dtype) == jnp.bfloat16:  # has float32's exponents, so that nothing underflows
        return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7).astype(dtype)
    y = x.astype(dtype)
    return jnp.where(jnp.isnan(y), jnp.nan, y)
