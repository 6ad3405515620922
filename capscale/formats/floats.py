"""Floating-point grids ExMy: sign, x exponent bits, y mantissa bits."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from capscale.checks import check_choice, check_whole
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline

from .distributions import Array64

FLOAT32_BIAS = 127
FLOAT32_MANTISSA = 23


@dataclass(frozen=True)
class Float:
    """ExMy with bias 2^(x-1) - 1 and subnormals, rounding to nearest even, saturating at the largest finite level.

    `specials`: which codes are no numbers. "none": none (OCP MX FP4 and FP6); "nan": the all-ones code (OCP
    E4M3); "ieee": the whole top exponent, infinities and NaNs (OCP E5M2). Levels are in natural units.
    """

    exponent: int
    mantissa: int
    specials: Literal["none", "nan", "ieee"] = "none"

    def __post_init__(self) -> None:
        check_whole(self, "exponent", "mantissa")
        check_choice(self, "specials", ("none", "nan", "ieee"))
        x, y = self.exponent, self.mantissa
        if not (1 <= x <= 6 and 0 <= y <= 6 and x + y <= 7):
            raise UserError(f"Float(exponent={x}, mantissa={y}): needs 1 to 6 exponent bits, at most 8 bits in all")
        if self.specials == "ieee" and x < 2:
            raise UserError(f"Float(exponent={x}, specials='ieee'): the top exponent is the only one; use 'none'")
        if self.specials == "nan" and x + y < 2:
            raise UserError(f"Float(exponent={x}, mantissa={y}, specials='nan'): no level but 0 is left; use 'none'")

    @property
    def codes(self) -> int:
        """2^(1 + x + y)."""
        return 2 ** (1 + self.exponent + self.mantissa)

    @property
    def bias(self) -> int:
        """Exponent field of 1."""
        return 2 ** (self.exponent - 1) - 1

    @property
    def _finite(self) -> int:
        """How many codes of one sign are numbers."""
        half = self.codes // 2
        return {"none": half, "nan": half - 1, "ieee": half - 2**self.mantissa}[self.specials]

    @property
    def levels(self) -> Array64:
        """Distinct finite levels, ascending; one zero."""
        code = np.arange(self._finite)
        field, fraction = code >> self.mantissa, code % 2**self.mantissa
        significand = fraction + np.where(field > 0, 2.0**self.mantissa, 0.0)
        positive = significand * 2.0 ** (np.maximum(field, 1) - self.bias - self.mantissa)
        return np.concatenate([-positive[:0:-1], positive])

    def _quantised(self, u: Array) -> tuple[Array, Array, Array]:
        """Magnitude in quanta of its binade, the binade's exponent, and the quantum."""
        largest = float(self.levels[-1])
        highest = int(np.floor(np.log2(largest)))
        magnitude = jnp.minimum(jnp.abs(u), largest)  # keeps NaN
        field = lax.shift_right_logical(lax.bitcast_convert_type(magnitude, jnp.int32), jnp.int32(FLOAT32_MANTISSA))
        power = jnp.clip(field - FLOAT32_BIAS, 1 - self.bias, highest)
        quanta = jnp.round(magnitude * _power_of_two(self.mantissa - power))
        return quanta, power, _power_of_two(power - self.mantissa)

    @jit_inline(0)
    def nearest(self, u: Array) -> tuple[Array, Array]:
        """Rounds the magnitude to the quantum of its binade."""
        quanta, _, quantum = self._quantised(u)
        level = jnp.minimum(quanta * quantum, jnp.float32(self.levels[-1]))
        return jnp.where(u < 0, -level, level), quantum

    @jit_inline(0)
    def encode(self, u: Array) -> Array:
        """Sign bit, exponent field, mantissa; a carry out of the mantissa moves up to the exponent."""
        quanta, power, _ = self._quantised(u)
        code = (power + self.bias - 1) * 2**self.mantissa + quanta.astype(jnp.int32)
        code = jnp.minimum(code, self._finite - 1)
        return (code + jnp.where(u < 0, self.codes // 2, 0)).astype(jnp.uint32)

    @jit_inline(0)
    def decode(self, codes: Array) -> Array:
        """Number of each code; infinity and NaN for the special ones."""
        code = codes.astype(jnp.int32) % (self.codes // 2)
        field, fraction = code // 2**self.mantissa, code % 2**self.mantissa
        significand = fraction + jnp.where(field > 0, 2**self.mantissa, 0)
        power = jnp.maximum(field, 1) - self.bias - self.mantissa
        level = significand.astype(jnp.float32) * _power_of_two(power)
        infinite = (fraction == 0) & (self.specials == "ieee")
        level = jnp.where(code < self._finite, level, jnp.where(infinite, jnp.inf, jnp.nan))
        return jnp.where(codes >= self.codes // 2, -level, level)


def _power_of_two(exponent: Array) -> Array:
    """2^exponent as float32, by its bits."""
    return lax.bitcast_convert_type(lax.shift_left(exponent + FLOAT32_BIAS, jnp.int32(FLOAT32_MANTISSA)), jnp.float32)


E2M1 = Float(2, 1)
E3M2 = Float(3, 2)
E2M3 = Float(2, 3)
E4M3 = Float(4, 3, "nan")
E5M2 = Float(5, 2, "ieee")
"""The element formats of OCP Microscaling Formats v1.0, with OCP FP8's special codes."""
E1M2 = Float(1, 2)
E3M0 = Float(3, 0)
E4M1 = Float(4, 1)
E6M1 = Float(6, 1)
E3M4 = Float(3, 4)
E2M5 = Float(2, 5)
"""The other splits of 4, 6 and 8 bits in Figure 3 of arXiv 2506.01863, all codes finite."""
E8M0_BITS = 8  # OCP MX shared exponents
