"""Scalar grids: which numbers a code can stand for, before scaling.

A grid is written on normalised values `u = x / scale`, in natural units (integer grids have step 1,
float grids their own quanta). `nearest` is elementwise jnp without sort, floor or sqrt, so that the same
function compiles inside a Pallas kernel.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.checks import check_choice, check_whole
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.project.codes import CodedGrid

from .distributions import Array64

Grid = CodedGrid
"""A finite set of levels, `nearest`, and `encode` and `decode`; a frozen, hashable dataclass. As kernels know it."""


@dataclass(frozen=True)
class Int:
    """2^bits evenly spaced levels of step 1.

    "mid-rise" (the paper's, after QuEST): ±1/2, ±3/2, ..., symmetric, without a zero.
    "mid-tread": 0, ±1, ..., ±(2^(bits-1) - 1): symmetric, one code unused.
    "twos-complement": -2^(bits-1), ..., 2^(bits-1) - 1.
    "unsigned": 0, ..., 2^bits - 1.
    Ties go to the even integer of `|u|` (of `|u| - 1/2` for mid-rise); 0 goes to +1/2 of mid-rise.
    """

    bits: int
    kind: Literal["mid-rise", "mid-tread", "twos-complement", "unsigned"] = "mid-rise"

    def __post_init__(self) -> None:
        check_whole(self, "bits")
        check_choice(self, "kind", ("mid-rise", "mid-tread", "twos-complement", "unsigned"))
        least = 1 if self.kind in ("mid-rise", "unsigned") else 2
        if not least <= self.bits <= 8:
            raise UserError(f"Int(bits={self.bits}, kind={self.kind!r}): bits must be {least} to 8")

    @property
    def codes(self) -> int:
        """Number of codes, 2^bits."""
        return 2**self.bits

    @property
    def _ends(self) -> tuple[float, float]:
        half = 2.0 ** (self.bits - 1)
        if self.kind == "mid-rise":
            return -half + 0.5, half - 0.5
        if self.kind == "unsigned":
            return 0.0, 2 * half - 1
        return (-half + 1 if self.kind == "mid-tread" else -half), half - 1

    @property
    def levels(self) -> Array64:
        """Distinct levels in ascending order."""
        low, high = self._ends
        return np.arange(low, high + 1, dtype=np.float64)

    @jit_inline(0)
    def nearest(self, u: Array) -> tuple[Array, Array]:
        """Rounds the magnitude, so that ties are symmetric about 0."""
        low, high = self._ends
        magnitude = jnp.abs(u)
        magnitude = jnp.round(magnitude - 0.5) + 0.5 if self.kind == "mid-rise" else jnp.round(magnitude)
        magnitude = jnp.maximum(magnitude, high % 1)
        signed = jnp.where((u < 0) & (magnitude != 0), -magnitude, magnitude)
        return jnp.clip(signed, low, high), jnp.ones_like(u)

    @jit_inline(0)
    def encode(self, u: Array) -> Array:
        """Levels counted from the lowest."""
        return (self.nearest(u)[0] - self._ends[0]).astype(jnp.uint32)

    @jit_inline(0)
    def decode(self, codes: Array) -> Array:
        """Parts of the codes, the inverse of `encode`."""
        return codes.astype(jnp.float32) + jnp.float32(self._ends[0])
