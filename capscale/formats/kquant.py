"""Scales and minima of several groups under common ones, as llama.cpp's K-quants have them (Q4_K, Q5_K)."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from capscale.checks import check_choice, check_real, check_whole
from capscale.errors import UserError
from capscale.kernels.project import ScaleOffset, extremes, rounded
from capscale.kernels.project.affine import Number, stored
from capscale.kernels.project.scales import SMALLEST, normalised, reciprocal
from capscale.kernels.rms import largest_magnitude, root_mean_square

from .base import Context
from .grids import Grid
from .groups import of_runs, runs_of
from .scale_rule import Group, Part, float_codes, float_values, number_bits

STEP = 0.1  # of the candidates, in levels


class Line(NamedTuple):
    """`scale * code + low`, near the values of a group."""

    scale: Array
    low: Array


@dataclass(frozen=True)
class KQuant:
    """`value = d sc code - dmin m`: whole numbers `sc` and `m` a group, floats `d` and `dmin` for several groups.

    Scale and minimum of a group are those of the least squared error, weighted by `RMS + |x|`, among lines fitted to
    the codes of `steps + 1` scales, at which `start`, `start + 0.1`, ... steps more than the grid has would span the
    group, and the line through both ends (llama.cpp, `make_qkx2_quants`). The largest of `groups` groups are
    `2^bits - 1` of `d` and `dmin`.

    A row whose groups are no multiple of `groups` ends with fewer under a common scale.

    Example: `Scalar(Int(4, "unsigned"), KQuant(), group=32)` is Q4_K.
    """

    groups: int = 8
    bits: int = 6
    number: Number = "float16"
    start: float = -1.0
    steps: int = 20

    def __post_init__(self) -> None:
        check_whole(self, "groups", least=2)
        check_whole(self, "bits", least=1, most=8)
        check_choice(self, "number", ("float32", "bfloat16", "float16"))
        check_real(self, "start", least=-1, most=16)
        check_whole(self, "steps")

    @property
    def part_bits(self) -> tuple[int, ...]:
        """Of the scale and the minimum of a group, and of the floats that several share."""
        number = number_bits(self.number)
        return self.bits, self.bits, number, number

    def check_grid(self, grid: Grid) -> None:
        """Codes are counted in levels of step 1."""
        if set(np.diff(grid.levels).tolist()) != {1.0}:
            raise UserError(f"{self} on {grid}: its lines are fitted to levels of step 1; use Int, such as unsigned")

    def parts(self, grid: Grid) -> tuple[Part, ...]:
        """Two whole numbers a group, two floats for `groups` of them."""
        own, _, number, _ = self.part_bits
        return Part(own), Part(own), Part(number, self.groups), Part(number, self.groups)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """`sc`, `m`, `d` and `dmin`."""
        line = self.fitted(group.x, float(grid.levels[-1] - grid.levels[0]))
        scale, below = jnp.maximum(line.scale, 0.0), -line.low
        most = float(2**self.bits - 1)
        whole, common = zip(*(self._under(part, most) for part in (scale, below)), strict=True)
        return (*whole, *common)

    def _under(self, part: Array, most: float) -> tuple[Array, Array]:
        """Numbers of groups (..., groups, 1) as whole multiples, up to `most`, of one that `self.groups` share."""
        runs = runs_of(part, self.groups)
        largest = largest_magnitude(runs, (-2,))
        whole = jnp.clip(jnp.round(normalised(runs, largest) * most), 0.0, most)
        common = stored(largest[..., 0] * reciprocal(most), self.number)
        return whole.reshape(*part.shape[:-2], -1, 1)[..., : part.shape[-2], :], common

    def combine(self, parts: tuple[Array, ...], grid: Grid) -> ScaleOffset:
        """`d sc`, and what the lowest level stands at, `-dmin m`."""
        whole_scale, whole_low, common_scale, common_low = parts
        of_groups = partial(of_runs, size=self.groups, groups=whole_scale.shape[-2])
        scale = rounded(whole_scale * of_groups(common_scale))
        low = -rounded(whole_low * of_groups(common_low))
        return ScaleOffset(scale, low - rounded(float(grid.levels[0]) * scale))

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """The whole numbers, and bits of the floats."""
        return (
            *(part.astype(jnp.uint32) for part in parts[:2]),
            *(float_codes(part, self.number) for part in parts[2:]),
        )

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Parts of the codes, the inverse of `encode`."""
        return (
            *(code.astype(jnp.float32) for code in codes[:2]),
            *(float_values(code, self.number) for code in codes[2:]),
        )

    def fitted(self, x: Array, span: float) -> Line:
        """The line of every group of `x` (..., groups, size), both (..., groups, 1), `low` at most 0."""
        ends = extremes(x)
        low = jnp.where(ends.low > 0, 0.0, ends.low)
        width = ends.high - low
        weight = root_mean_square(x) + jnp.abs(x)
        start = Line(width * reciprocal(span), low)
        code = partial(_codes, x - low, width, span)
        first = start, _error(x, weight, start, code(span))

        def better(best: tuple[Line, Array], levels: Array) -> tuple[tuple[Line, Array], None]:
            tried = code(levels)
            line, fits = _line(x, weight, tried)
            error = _error(x, weight, line, tried)
            wins = fits & (error < best[1])
            return jax.tree.map(lambda new, old: jnp.where(wins, new, old), (line, error), best), None

        steps = np.arange(self.steps + 1, dtype=np.float32)
        tries = jnp.asarray(np.float32(self.start) + np.float32(STEP) * steps + np.float32(span))
        (line, _), _ = lax.scan(better, first, tries)
        return line


def _codes(above: Array, width: Array, span: float, levels: Array | float) -> Array:
    """Whole numbers up to `span`, of values `above` the low end where `levels` of them span the group."""
    per_unit = jnp.where(width < SMALLEST, 0.0, levels / jnp.where(width < SMALLEST, 1.0, width))
    return jnp.clip(jnp.round(above * per_unit), 0.0, span)


def _line(x: Array, weight: Array, code: Array) -> tuple[Line, Array]:
    """Weighted least squares of x by codes, `low` at most 0; and whether they tell more than one code apart."""
    weighed = rounded(weight * code)
    total, first, second = _sum(weight), _sum(weighed), _sum(rounded(weighed * code))
    of_x, product = _sum(rounded(weight * x)), _sum(rounded(weighed * x))
    determinant = rounded(total * second) - rounded(first * first)
    fits = determinant > 0
    inverse = 1.0 / jnp.where(fits, determinant, 1.0)
    scale = (rounded(total * product) - rounded(of_x * first)) * inverse
    low = (rounded(second * of_x) - rounded(first * product)) * inverse
    through_zero = product * (1.0 / jnp.where(second > 0, second, 1.0))
    return Line(jnp.where(low > 0, through_zero, scale), jnp.where(low > 0, 0.0, low)), fits


def _error(x: Array, weight: Array, line: Line, code: Array) -> Array:
    """Weighted sum of squares of what the line leaves of x."""
    left = rounded(line.scale * code) + line.low - x
    return _sum(rounded(weight * rounded(left * left)))


def _sum(x: Array) -> Array:
    """Sum over the last axis, kept with length 1, in an order that no compiler chooses."""
    size = x.shape[-1]
    while size > 1:
        half = size // 2
        x = jnp.concatenate([x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]], axis=-1)
        size = x.shape[-1]
    return x
