"""The gated product of a feed-forward layer, `silu(gate) * up`, as the input of the layer that reads it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import Array

from .. import dispatch


class Gated(NamedTuple):
    """Rows gate and up (..., K) whose product is not taken yet, on an accelerator."""

    gate: Array
    up: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows, (..., K)."""
        return self.gate.shape

    def value(self) -> Array:
        """The product, by XLA, of which the backward pass keeps both in place of five arrays."""
        return jax.checkpoint(gated, prevent_cse=False)(self.gate, self.up)


def gated(gate: Array, up: Array) -> Array:
    """`silu(gate) * up` (SwiGLU, arXiv 2002.05202)."""
    return jax.nn.silu(gate) * up


def gated_by(gate: Array, up: Callable[[], Array]) -> Array | Gated:
    """`gated(gate, up())`, on accelerators not taken yet.

    On CPUs the backward pass reads what JAX keeps for it, and results that are stored have the last bits of that.
    """
    return jax.nn.silu(gate) * up() if dispatch.current().platform == "cpu" else Gated(gate, up())
