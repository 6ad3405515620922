"""The matrix product of linear layers, and its gradients, in the dtype of the activations and summed in float32."""

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.custom_vjp
def product(x: Array, w: Array) -> Array:
    """`x w`: x (..., in), w (in, out), y (..., out). Multiplied in the dtype of x, summed in float32, y in that of x.

    So are its gradients; that of the weights stays float32. Those that JAX derives multiply float32 with the dtype of
    x, which GPUs have no matrix units for, and transpose the larger operand, which a CPU does in memory.
    """
    return jnp.matmul(x, w.astype(x.dtype), preferred_element_type=jnp.float32).astype(x.dtype)


def _product_forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, w), (x, w)


def backward_products(operands: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Gradients of the product of x and w with respect to both, from that with respect to y."""
    x, w = operands
    outer = tuple(range(x.ndim - 1))
    into_x = lax.dot_general(
        g, w.astype(x.dtype), (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    into_w = lax.dot_general(x, g, ((outer, outer), ((), ())), preferred_element_type=jnp.float32)
    return into_x.astype(x.dtype), into_w.astype(w.dtype)


product.defvjp(_product_forward, backward_products)
