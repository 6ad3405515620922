"""The matrix product of linear layers by the codes of their operands, with the gradients of that of their values."""

from dataclasses import dataclass
from functools import partial

import jax
from jax import Array

from capscale.kernels.matmul.codes import Multiplicand, Pair, multiply
from capscale.product import backward_products


@partial(jax.tree_util.register_dataclass, data_fields=["x", "w"], meta_fields=["pair"])
@dataclass(frozen=True)
class Codes:
    """Both operands of a product in codes: x (..., in), w (in, out), and how they are multiplied."""

    x: Multiplicand
    w: Multiplicand
    pair: Pair

    def multiplied(self) -> Array:
        """The product of the values that are meant, float32 (..., out)."""
        return multiply(self.pair, self.x, self.w)


@jax.custom_vjp
def product_of_codes(x: Array, w: Array, codes: Codes) -> Array:
    """The product of `x` (..., in) and `w` (in, out), whose codes are given, in the dtype of x.

    Only codes are read. Gradients are those of `capscale.product.product` at the values.
    """
    return codes.multiplied().astype(x.dtype)


def _forward(x: Array, w: Array, codes: Codes) -> tuple[Array, tuple[Array, Array]]:
    return product_of_codes(x, w, codes), (x, w)


def _backward(operands: tuple[Array, Array], g: Array) -> tuple[Array, Array, None]:
    return *backward_products(operands, g), None


product_of_codes.defvjp(_forward, _backward)
