"""RigL (arXiv 1911.11134): a sparsity mask that is state, moved now and then to where gradients are large."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from capscale.checks import check_real, check_whole
from capscale.errors import UserError
from capscale.kernels.select import largest

from .base import Context, Granularity, Projection, granularity_axes
from .distributions import Distribution, second_moment
from .mse import Mse
from .sparse import VALUE_BITS, BitMask, StoresSurvivors, TopK
from .storage import Shape
from .survivors import Survival


@dataclass(frozen=True)
class RigL(BitMask, StoresSurvivors):
    """Keeps the entries of its mask. Every `period` optimizer steps, until the share `stop` of training, the mask drops
    the smallest kept magnitudes and grows as many pruned entries of largest gradient.

    The moved share of the kept is `drop / 2 (1 + cos(pi progress / stop))`. The state is a boolean mask; it starts as
    the mask of the largest magnitudes. Growth reads the gradient at the projected tensor, which pruned entries have
    too; the tensor itself is trained under the mask (`ForwardMask`). A grown entry resumes its value at the drop.
    """

    sparsity: float
    period: int = 100
    stop: float = 0.75
    drop: float = 0.3

    def __post_init__(self) -> None:
        check_real(self, "sparsity", "drop", least=0, below=1)
        check_real(self, "stop", above=0, most=1)
        check_whole(self, "period", least=1)

    @property
    def _magnitude(self) -> TopK:
        return TopK(self.sparsity)

    @property
    def density(self) -> float:
        """Kept share of the values."""
        return 1 - self.sparsity

    @property
    def bits(self) -> float:
        """Survivors in bfloat16, and the mask."""
        return VALUE_BITS * self.density + self.mask_bits

    @property
    def granularity(self) -> Granularity:
        """The mask moves over the matrix."""
        return "matrix"

    def survivors(self, shape: Shape) -> int:
        """Kept values of a tensor of this shape."""
        return self._magnitude.survivors(shape)

    def survival(self, distribution: Distribution) -> Survival | None:
        """That of the mask it starts with."""
        return self._magnitude.survival(distribution)

    def error(self, distribution: Distribution, samples: int | None) -> Mse:
        """Of the mask it starts with: the least that any mask of this sparsity has."""
        survival = self.survival(distribution)
        assert survival is not None
        return Mse(1 - second_moment(survival)[1], "closed form")

    def initial_state(self, x: Array) -> Array:
        """Mask of the largest magnitudes."""
        keep = self._magnitude.project(x, Context()).keep
        assert keep is not None
        return keep

    def next_state(self, state: Array, x: Array, gradient: Array, step: Array, progress: Array) -> Array:
        """The mask after optimizer step `step`: moved at multiples of the period before `stop`, else as it was.

        The moved mask keeps as many entries: `kept - n` of largest magnitude, and the n of largest gradient among the
        others; entries dropped at this step may grow again, as in the original.
        """
        axes = granularity_axes("matrix", x.ndim)
        kept = self._magnitude.kept(int(np.prod([x.shape[axis] for axis in axes])))
        share = self.drop / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(progress / self.stop, 1.0)))
        moved = jnp.floor(share * kept).astype(jnp.int32)

        def move(mask: Array) -> Array:
            stay, _ = largest(_above_zero(x, mask), kept - moved, axes)
            grown, _ = largest(_above_zero(gradient, ~stay), jnp.maximum(moved, 1), axes)
            return stay | (grown & (moved > 0))

        due = (step % self.period == 0) & (progress < self.stop)
        return lax.cond(due, move, lambda mask: mask, state)

    def project(self, x: Array, ctx: Context) -> Projection:
        """Zeroes what the mask does not keep."""
        if ctx.state is None:
            raise UserError("RigL needs its mask in Context.state; see RigL.initial_state")
        return Projection(value=jnp.where(ctx.state, x, jnp.zeros_like(x)), keep=ctx.state)


def _above_zero(x: Array, eligible: Array) -> Array:
    """Magnitudes of the eligible, positive even where x is 0, so that none of the others (0 here) is chosen before."""
    return jnp.where(eligible, jnp.maximum(jnp.abs(x).astype(jnp.float32), jnp.finfo(jnp.float32).tiny), 0.0)
