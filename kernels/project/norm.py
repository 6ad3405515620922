"""Rows that are normalised by their root mean square ahead of a projection, by the kernel that projects or by XLA.

y = x / sqrt(mean of x^2 + epsilon) * gain,   in float32, rounded to the dtype of x
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import dispatch


@dataclass(frozen=True)
class Norm:
    """The norm as a function of rows x (..., K) and their gain (K,)."""

    epsilon: float
    name: ClassVar[str] = "normed"
    rows: ClassVar[int] = 1
    elementwise: ClassVar[bool] = False

    def __call__(self, x: Array, gain: Array) -> Array:
        """The normalised rows, by XLA."""
        return normalised(self.epsilon, x, gain)


class Normed(NamedTuple):
    """Rows x (..., K) whose norm is not taken yet, and its gain (K,), float32."""

    x: Array
    gain: Array
    epsilon: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows, (..., K)."""
        return self.x.shape

    @property
    def prologue(self) -> Norm:
        """The norm as a function of the `operands`."""
        return Norm(self.epsilon)

    @property
    def operands(self) -> tuple[Array, ...]:
        """Rows and their gain."""
        return self.x, self.gain

    def times(self, signs_K: Array) -> "Normed":
        """Of the same value times ±1 of every place of a row: those of its gain."""
        return self._replace(gain=self.gain * signs_K)

    def value(self) -> Array:
        """The normalised rows, by XLA."""
        norm = self.prologue
        if dispatch.current().platform != "cpu":  # keeps x for the backward pass, in place of x in float32
            return jax.checkpoint(norm, prevent_cse=False)(self.x, self.gain)
        return norm(self.x, self.gain)


def normalised(epsilon: float, x: Array, gain: Array) -> Array:
    """Rows x (..., K) over their root mean square, times the gain (K,), in the dtype of x."""
    x32 = x.astype(jnp.float32)
    inverse_rms = lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (x32 * inverse_rms * jnp.broadcast_to(gain, x.shape)).astype(x.dtype)
