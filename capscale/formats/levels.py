"""Grids given by their levels: any list, and the Lloyd-Max optimum for Gaussian data."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.checks import check_reals
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline

from .distributions import Array64

LARGEST = 256


@dataclass(frozen=True)
class Levels:
    """Any ascending list of at most 256 finite levels, in units of the scale. Ties go to the smaller magnitude
    of symmetric lists, to the lower level of others.

    Example: `Levels((-1.0, 0.0, 1.0))` is the ternary grid.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        check_reals(self, "values")
        levels = np.asarray(self.values, np.float64)
        if not 2 <= len(self.values) <= LARGEST:
            raise UserError(f"Levels of {len(self.values)} values: give 2 to {LARGEST}")
        if not np.all(np.isfinite(levels)) or not np.all(np.diff(levels.astype(np.float32)) > 0):
            raise UserError(f"Levels({self.values}): levels must be finite and ascending, distinct in float32")
        if levels[-1] <= 0:
            raise UserError(f"Levels({self.values}): the largest level scales the grid and must be positive")

    @property
    def codes(self) -> int:
        """Number of codes, one per level."""
        return len(self.values)

    @property
    def levels(self) -> Array64:
        """The list as an array."""
        return np.asarray(self.values, np.float64)

    @jit_inline(0)
    def nearest(self, u: Array) -> tuple[Array, Array]:
        """A chain of selects over the cell boundaries; of one half only where the list is symmetric."""
        levels = self.levels
        if not np.array_equal(levels, -levels[::-1]):
            return _chain(u, levels)
        magnitude, gap = _chain(jnp.abs(u), levels[levels >= 0])
        innermost = float(levels[levels >= 0][0])
        if innermost > 0:  # the innermost pair is a step apart across 0
            gap = jnp.where(jnp.abs(u) < innermost, jnp.float32(2 * innermost), gap)
        return jnp.where((u < 0) & (magnitude > 0), -magnitude, magnitude), gap

    @jit_inline(0)
    def encode(self, u: Array) -> Array:
        """Index of the nearest level."""
        level, _ = self.nearest(u)
        code = jnp.zeros(u.shape, jnp.uint32)
        for boundary in _middles(self.levels):
            code = code + (level > boundary).astype(jnp.uint32)
        return code

    @jit_inline(0)
    def decode(self, codes: Array) -> Array:
        """Level at each index."""
        return jnp.asarray(self.values, jnp.float32)[codes]


TERNARY = Levels((-1.0, 0.0, 1.0))
_NF4_BELOW = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453)
_NF4_BELOW += (-0.28444138169288635, -0.18477343022823334, -0.09105003625154495)
_NF4_ABOVE = (0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224)
_NF4_ABOVE += (0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
NF4 = Levels((*_NF4_BELOW, 0.0, *_NF4_ABOVE))
"""NormalFloat (QLoRA, arXiv 2305.14314, appendix E): quantiles of the normal law, scaled to 1, with a zero."""

_AF4_BELOW = (-1.0, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812)
_AF4_ABOVE = (0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1.0)
AF4 = Levels((*_AF4_BELOW, 0.0, *_AF4_ABOVE))
"""AbnormalFloat for groups of 64 (arXiv 2306.06965; as bitsandbytes has it). Of Gaussian groups NF4 has less error."""


def _middles(levels: Array64) -> list[float]:
    return ((levels[1:] + levels[:-1]) / 2).tolist()


def _chain(u: Array, levels: Array64) -> tuple[Array, Array]:
    """Nearest of ascending `levels`, and the distance between the two around `u`."""
    value = jnp.where(jnp.isnan(u), u, jnp.float32(levels[0]))
    gaps = np.diff(levels) if len(levels) > 1 else np.array([2 * levels[0]])
    gap = jnp.full_like(u, gaps[0])
    for middle, upper in zip(_middles(levels), levels[1:].tolist(), strict=True):
        value = jnp.where(u > middle, jnp.float32(upper), value)
    for lower, width in zip(levels[1:-1].tolist(), gaps[1:].tolist(), strict=True):
        gap = jnp.where(u > lower, jnp.float32(width), gap)
    return value, gap


@cache
def lloyd_max(bits: int) -> Levels:
    """The 2^bits levels of least Gaussian error (Lloyd 1982, Max 1960); NF-style grids are its relatives.

    They are stored (scripts/make_levels.py computes them): solved for on every machine, the last bits would be those of
    its vector units, and with them the ids of runs.
    """
    if not 1 <= bits <= 8:
        raise UserError(f"lloyd_max(bits={bits}): bits must be 1 to 8")
    stored = json.loads((files("capscale.formats") / "data" / "lloyd_max.json").read_text())
    positive = stored[str(bits)]
    return Levels((*(-level for level in reversed(positive)), *positive))
