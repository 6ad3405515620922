"""The gated product of a feed-forward layer ahead of a projection, by the kernel that projects or by XLA.

y = silu(gate) * up,   every operation rounded to their dtype
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import dispatch


@dataclass(frozen=True)
class Gate:
    """The gated product as a function of rows gate and up (..., K), and of signs (K,) behind it where there are."""

    name: ClassVar[str] = "gated"
    rows: ClassVar[int] = 2
    elementwise: ClassVar[bool] = True

    def __call__(self, gate: Array, up: Array, signs: Array | None = None) -> Array:
        """The product, by XLA."""
        return gated(gate, up, signs)


class Gated(NamedTuple):
    """Rows gate and up (..., K) whose product is not taken yet, on an accelerator.

    `signs` (K,), float32: ±1 that every row of the product is multiplied by.
    """

    gate: Array
    up: Array
    signs: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows, (..., K)."""
        return self.gate.shape

    @property
    def prologue(self) -> Gate:
        """The product as a function of the `operands`."""
        return Gate()

    @property
    def operands(self) -> tuple[Array, ...]:
        """Both rows, and signs where there are."""
        return self.gate, self.up, *([] if self.signs is None else [self.signs])

    def times(self, signs_K: Array) -> "Gated":
        """Of the same value times ±1 of every place of a row."""
        return self._replace(signs=signs_K if self.signs is None else self.signs * signs_K)

    def value(self) -> Array:
        """The product, by XLA, of which the backward pass keeps both in place of five arrays."""
        return jax.checkpoint(gated, prevent_cse=False)(*self.operands)


def gated(gate: Array, up: Array, signs: Array | None = None) -> Array:
    """`silu(gate) * up` (SwiGLU, arXiv 2002.05202), times `signs` of the places of a row, which are constants."""
    product = jax.nn.silu(gate) * up
    if signs is None:
        return product
    return product * jnp.broadcast_to(lax.stop_gradient(signs), product.shape).astype(product.dtype)


def gated_by(gate: Array, up: Callable[[], Array]) -> Array | Gated:
    """`gated(gate, up())`, on accelerators not taken yet.

    On CPUs the backward pass reads what JAX keeps for it, and results that are stored have the last bits of that.
    """
    return jax.nn.silu(gate) * up() if dispatch.current().platform == "cpu" else Gated(gate, up())
