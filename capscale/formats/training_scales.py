"""Scale rules that quantized training has brought: powers of two that do not clip, powers of two of an RMS, MS-EDEN."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import capscale.kernels.project as kernel
from capscale.checks import check_choice, check_real
from capscale.errors import UserError
from capscale.kernels.project import reciprocal
from capscale.kernels.rms import largest_magnitude, root_mean_square

from .base import Context, Granularity
from .distributions import Array64
from .floats import E4M3, E8M0_BITS, Float
from .grids import Grid
from .optimum import optimal_clip
from .scale import PowerOfTwo
from .scale_rule import FLOAT32_BITS, Group, Part, largest
from .stochastic import Drawn, StochasticRounding
from .unbiased import unbiasing

FLOOR = PowerOfTwo()


@dataclass(frozen=True)
class PowerOfTwoTimes:
    """A constant times the power of two of the OCP rule (`PowerOfTwo`), which is stored as an E8M0 byte.

    At 4/3 the largest magnitude of a group of E2M1 lies from 3 to 6 levels, where nothing saturates: rounding by chance
    is then unbiased. That is Algorithm 2 of arXiv 2502.20586, which multiplies values by 3/4 before it rounds and
    products by 16/9 behind them.
    """

    multiple: float = 4 / 3

    def __post_init__(self) -> None:
        check_real(self, "multiple", least=1, below=2)

    @property
    def part_bits(self) -> tuple[int, ...]:
        """One byte a group."""
        return (E8M0_BITS,)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """The multiple of the power of two."""
        return (FLOOR.measure(group, grid, ctx)[0] * jnp.float32(self.multiple),)

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """The exponent: the multiple is below 2, so that it is that of the power of two."""
        return FLOOR.encode(parts)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """The multiple of the power of two."""
        return (FLOOR.decode(codes)[0] * jnp.float32(self.multiple),)

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """The same on the host, in float64."""
        return self.multiple * FLOOR.of_maximum(maximum, grid)

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """Where the exponent changes."""
        return FLOOR.jumps(low, high, grid)


@dataclass(frozen=True)
class PowerOfTwoOfRms:
    """The power of two not above the scale that puts the largest level at `multiple` times the RMS, as an E8M0 byte.

    None: the multiple that is MSE-optimal for Gaussian data. So QuEST's projection makes MXFP4 in Quartet (arXiv
    2505.14669; its code has 2.92247856 for E2M1, and takes the standard deviation, from which the mean is subtracted).
    """

    multiple: float | None = None

    def __post_init__(self) -> None:
        check_real(self, "multiple", above=0, optional=True)

    @property
    def part_bits(self) -> tuple[int, ...]:
        """One byte a group."""
        return (E8M0_BITS,)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """2^floor(log2(multiple * RMS / largest level)); 2^-126 to 2^127."""
        multiple = optimal_clip(grid) if self.multiple is None else self.multiple
        rule = kernel.PowerOfTwoOver(float(grid.levels[-1]) / multiple, "floor")
        return (rule(root_mean_square(group.x, group.axes, group.filled), None),)

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """The exponent with float32's bias, which is E8M0's."""
        return FLOOR.encode(parts)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """The power of two."""
        return FLOOR.decode(codes)


@dataclass(frozen=True)
class MsEden:
    """NVFP4's two scales, of which a group's is corrected as EDEN's is and rounded by chance (arXiv 2601.22813).

    Levels are chosen, to the nearest, by a scale as `TwoLevel`'s, `stretch` times as wide; the group's scale is then
    multiplied by `<x, x> / <x, q>` (`Unbiased`) and rounded up or down by chance to a level of `scales`. Given x, the
    mean of `<x, v>` over draws is `<x, x>` for every group. Under random rotations of unbounded length the projection
    is unbiased, and nearly so under those of blocks.

    Algorithm 1 of the paper's second version corrects group by group; the numbers are those of the authors' code
    (Quartet-II, `quartet_2.py`): scales reach 256 of E4M3's 448, which leaves room for the correction, and the stretch
    is 17/16 * 0.93.
    """

    scales: Float = E4M3
    granularity: Granularity = "matrix"
    stretch: float = 17 / 16 * 0.93
    top: float = 256.0

    def __post_init__(self) -> None:
        check_choice(self, "granularity", ("row", "matrix"))
        check_real(self, "stretch", "top", above=0)

    @property
    def draws(self) -> bool:
        """Random numbers round the scales."""
        return True

    @property
    def part_bits(self) -> tuple[int, ...]:
        """A code a group, and one float32."""
        return (int(np.log2(self.scales.codes)), FLOAT32_BITS)

    def parts(self, grid: Grid) -> tuple[Part, ...]:
        """The float32 serves the row, or the matrix."""
        own, outer = self.part_bits
        return Part(own), Part(outer, self.granularity)

    def check_grid(self, grid: Grid) -> None:
        """Rounds to the nearest level."""
        if isinstance(grid, Drawn):
            raise UserError(f"{self} on {grid}: its scales are rounded by chance, levels are not; give the grid itself")

    def choosing(self, group: Group, grid: Grid, ctx: Context) -> Array:
        """The scale before its correction."""
        level, outer = self._nearest(group, grid)
        return level * jnp.broadcast_to(outer, level.shape)

    def _nearest(self, group: Group, grid: Grid) -> tuple[Array, Array]:
        maximum, at = largest(group), float(grid.levels[-1]) / self.stretch
        over = tuple(range(-len(group.axes) - (2 if self.granularity == "matrix" else 1), 0))
        outer = largest_magnitude(maximum, over[-group.x.ndim :]) * reciprocal(at * self.top)
        return kernel.LevelTimes(self.scales, at).inner(maximum, outer), outer

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """Level of the group's scale, drawn, and the outer scale."""
        if ctx.key is None:
            raise UserError(f"{self} needs a PRNG key in Context.key")
        level, outer = self._nearest(group, grid)
        scale = level * jnp.broadcast_to(outer, level.shape)
        corrected = level * unbiasing(group, grid, scale)
        uniform = jax.random.uniform(ctx.key, corrected.shape, jnp.float32)
        drawn, _ = StochasticRounding(self.scales).drawn(corrected, uniform)
        return drawn, outer

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Code of the level, bits of the float32."""
        return self.scales.encode(parts[0]), lax.bitcast_convert_type(parts[1], jnp.uint32)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Parts of the codes, the inverse of `encode`."""
        return self.scales.decode(codes[0]), lax.bitcast_convert_type(codes[1], jnp.float32)
