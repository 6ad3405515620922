"""Rotary position embedding (RoPE, arXiv 2104.09864), and how its wavelengths are stretched to longer contexts."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from capscale.checks import check_real, check_whole
from capscale.errors import UserError


@dataclass(frozen=True)
class LinearRope:
    """Every wavelength is `factor` times as long: positions are interpolated (arXiv 2306.15595)."""

    factor: float

    def __post_init__(self) -> None:
        check_real(self, "factor", least=1)

    def stretched(self, frequency_k: Array) -> Array:
        """Angles a token, in radians, in place of `frequency_k`."""
        return frequency_k / self.factor


@dataclass(frozen=True)
class Llama3Rope:
    """Wavelengths far beyond the context of pre-training are `factor` times as long, short ones are kept.

    Those of more than `context / low` tokens are stretched, those of less than `context / high` are not, and between
    the two the share grows linearly in `context / wavelength` (Llama 3.1; `rope_type: llama3` of Hugging Face).

    Attributes:
      factor: how much longer.
      low, high: turns in the context of pre-training that bound the change, 1 and 4 in Llama 3.1.
      context: tokens of pre-training, 8192 in Llama 3.1.
    """

    factor: float
    low: float
    high: float
    context: int

    def __post_init__(self) -> None:
        check_real(self, "factor", least=1)
        check_real(self, "low", "high", above=0)
        check_whole(self, "context", least=1)
        if not self.low < self.high:
            raise UserError(f"Llama3Rope: low={self.low} must be below high={self.high}")

    def stretched(self, frequency_k: Array) -> Array:
        """Angles a token, in radians, in place of `frequency_k`."""
        turns_k = self.context * frequency_k / (2 * math.pi)
        kept_k = jnp.clip((turns_k - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1 - kept_k) * frequency_k / self.factor + kept_k * frequency_k


def rotary_embedding(x_BTHK: Array, theta: float, scaling: LinearRope | Llama3Rope | None = None) -> Array:
    """Queries or keys turned by their positions, pairing feature i with i + K/2.

    Feature pair i of token t is rotated by the angle `t * theta**(-2 i / K)`, or by what `scaling` makes of it. K must
    be even.
    """
    T, K = x_BTHK.shape[1], x_BTHK.shape[3]
    frequency_k = theta ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
    if scaling is not None:
        frequency_k = scaling.stretched(frequency_k)
    angle_Tk = jnp.arange(T, dtype=jnp.float32)[:, None] * frequency_k[None, :]
    cos_T1k, sin_T1k = jnp.cos(angle_Tk)[None, :, None, :], jnp.sin(angle_Tk)[None, :, None, :]
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos_T1k - second * sin_T1k, second * cos_T1k + first * sin_T1k], axis=-1)
    return rotated.astype(x_BTHK.dtype)
