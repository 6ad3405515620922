"""How fast TPU chips compute and read their memory: what their makers state, and the clock that follows."""

from typing import NamedTuple


class Speed(NamedTuple):
    """Speed of a chip.

    Attributes:
      peak: bfloat16 FLOP/s.
      products: multiply-adds of bfloat16 a cycle, of all matrix units: 4 a core of 128 x 128, of 256 x 256 on v6e.
      bandwidth: bytes of memory read or written a second.
    """

    peak: float
    products: int
    bandwidth: float

    @property
    def clock(self) -> float:
        """Cycles a second: what the peak and the matrix units make of it."""
        return self.peak / (2 * self.products)


TPUS = {
    "v4": Speed(275e12, 8 * 128**2, 1.23e12),
    "v5e": Speed(197e12, 4 * 128**2, 8.19e11),
    "v5p": Speed(459e12, 8 * 128**2, 2.765e12),
    "v6e": Speed(918e12, 4 * 256**2, 1.64e12),
}
"""Peak and bandwidth as stated at cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; matrix units of "How to Scale Your
Model" (jax-ml.github.io/scaling-book/tpus)."""
