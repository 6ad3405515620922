"""How the wavelengths of rotary position embedding are stretched to longer contexts. Needs no jax."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capscale.checks import check_real, check_whole
from capscale.errors import UserError

if TYPE_CHECKING:
    from jax import Array


@dataclass(frozen=True)
class LinearRope:
    """Every wavelength is `factor` times as long: positions are interpolated (arXiv 2306.15595)."""

    factor: float

    def __post_init__(self) -> None:
        check_real(self, "factor", least=1)

    def stretched(self, frequency_k: "Array") -> "Array":
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

    def stretched(self, frequency_k: "Array") -> "Array":
        """Angles a token, in radians, in place of `frequency_k`."""
        turns_k = self.context * frequency_k / (2 * math.pi)
        kept_k = ((turns_k - self.low) / (self.high - self.low)).clip(0.0, 1.0)
        return (1 - kept_k) * frequency_k / self.factor + kept_k * frequency_k
