"""Three levels of scales over 64 values, as HiFloat4 has them (HiF4, arXiv 2602.11287)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

from capscale.kernels.project import rounded
from capscale.kernels.project.scales import in_16_bits
from capscale.kernels.rms import largest_magnitude

from .base import Context
from .grids import Grid
from .groups import of_runs, runs_of
from .scale_rule import Group, Part, largest

QUADS, PAIR = 16, 2  # groups of 4 under a scale, and under a bit
TOP = 1.75  # of the element S1P2, in the units of its authors
SEVENTH = 0.142578125  # 1 / (4 TOP) in bfloat16: both bits may double the scale
LEAST, MOST = 2.0**-48, 1.5 * 2.0**15  # of E6M2; the code above is NaN
DROPPED = 21  # bits of a float32 below the mantissa of E6M2
FIRST = (127 - 48) << 2  # exponent and mantissa of 2^-48 in float32


@dataclass(frozen=True)
class HiF4Scales:
    """`scale = s 2^a 2^b`: E6M2 s for 16 groups, a bit a for two, a bit b for each, of 4 values.

    s is the largest magnitude over 7, in bfloat16, rounded to E6M2. The bit of 8 values is set where they reach 4 s,
    that of 4 where they then reach twice the scale. Levels are chosen by the reciprocal of s in bfloat16, as in the
    authors' code; its ties go away from zero, the grid's to even.

    A row whose groups are no multiple of 16 ends with fewer under a scale.

    Example: `Scalar(E1M2, HiF4Scales(), 4)` is HiF4: 4.5 bits a value.
    """

    @property
    def part_bits(self) -> tuple[int, ...]:
        """Of both bits, and of the scale of 64 values."""
        return 1, 1, 8

    def parts(self, grid: Grid) -> tuple[Part, ...]:
        """The bits of 4 and 8 values, the scale of 64."""
        return Part(1), Part(1, PAIR), Part(8, QUADS)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """Factors of 1 or 2 of 4 and 8 values, the scale of 64."""
        return self._measured(group)[0]

    def choosing(self, group: Group, grid: Grid, ctx: Context) -> Array:
        """The scale, of the reciprocal in bfloat16."""
        (four, eight, _), inverse = self._measured(group)
        return self.combine((four, eight, 1.0 / inverse), grid)

    def _measured(self, group: Group) -> tuple[tuple[Array, Array, Array], Array]:
        of_four = largest(group)
        of_eight, of_all = (largest_magnitude(runs_of(of_four, size), (-2,))[..., 0] for size in (PAIR, QUADS))
        scale = e6m2(rounded(of_all * SEVENTH))
        inverse = in_16_bits(1.0 / scale, "bfloat16")
        count = of_four.shape[-2]
        eight = _doubled(of_eight * of_runs(inverse, QUADS // PAIR, of_eight.shape[-2]), 4.0)
        left = of_four * of_runs(inverse, QUADS, count) / of_runs(eight, PAIR, count)
        return (_doubled(left, 2.0), eight, scale), inverse

    def combine(self, parts: tuple[Array, ...], grid: Grid) -> Array:
        """Product of the parts, in units of the grid."""
        four, eight, scale = parts
        count = four.shape[-2]
        units = four * of_runs(eight, PAIR, count) * (TOP / float(grid.levels[-1]))
        return of_runs(scale, QUADS, count) * units

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Both bits, and exponent and mantissa of the scale."""
        four, eight, scale = parts
        code = lax.shift_right_logical(lax.bitcast_convert_type(scale, jnp.uint32), jnp.uint32(DROPPED)) - jnp.uint32(
            FIRST
        )
        return (four - 1.0).astype(jnp.uint32), (eight - 1.0).astype(jnp.uint32), code

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Parts of the codes, the inverse of `encode`; NaN for code 255."""
        four, eight, code = codes
        bits = lax.shift_left(code.astype(jnp.uint32) + jnp.uint32(FIRST), jnp.uint32(DROPPED))
        scale = jnp.where(code == 255, jnp.nan, lax.bitcast_convert_type(bits, jnp.float32))
        return four.astype(jnp.float32) + 1.0, eight.astype(jnp.float32) + 1.0, scale


def e6m2(x: Array) -> Array:
    """Float32 `x` rounded to bfloat16, then to E6M2, ties to even; it saturates. Not finite where x is not."""
    bits = lax.bitcast_convert_type(jnp.clip(in_16_bits(x, "bfloat16"), LEAST, MOST), jnp.int32)
    odd = lax.shift_right_logical(bits, jnp.int32(DROPPED)) & 1
    up = bits + jnp.int32((1 << (DROPPED - 1)) - 1) + odd
    found = lax.bitcast_convert_type(up & jnp.int32(-(1 << DROPPED)), jnp.float32)
    return jnp.where(x < jnp.inf, found, x)


def _doubled(x: Array, least: float) -> Array:
    """2 where x reaches `least`, and 1 below it; NaN of NaN."""
    return jnp.where(x >= least, 2.0, jnp.where(x < least, 1.0, x))
