"""Pulls of weights towards what their format makes of them, beside the gradient and decoupled from Adam's moments.

With `e = x - Q(x)` before a step, `x <- x - rate * direction - share * e`: each kind says what the share is.

What was read. CAGE (arXiv 2510.18784): the abstract; a review with its condition `grad f + lambda (x - Q(x)) = 0`, its
error `e_t` and the two variants, coupled and decoupled; a public copy of the authors' training script (lambda 10,
silence ratio .8, linear ramp); and an implementation by others of the decoupled variant (`x -= rate * lambda * e`,
silent, then a ramp up to the end). The paper's own pseudocode was not read. PV-Tuning (arXiv 2405.14852): the authors'
`StraightThroughAdamW` and its option `delta_decay`.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from capscale.checks import check_real


@dataclass(frozen=True)
class Cage:
    """The decoupled correction of CAGE: `share = rate * strength * ramp`.

    The ramp is 0 for the first `silence` of training and rises from there in a line, to 1 at its end. The rate is that
    of the step, so that the pull fades with it.

    Attributes:
      strength: lambda of the paper.
      silence: share of training without a correction.
    """

    strength: float = 10.0
    silence: float = 0.8

    def __post_init__(self):
        check_real(self, "strength", above=0)
        check_real(self, "silence", least=0, below=1)

    @property
    def name(self) -> str:
        """Text that tables have: `cage 10 silence 0.8`."""
        return f"cage {self.strength:g} silence {self.silence:g}"

    def largest(self, rate: float) -> float:
        """Bound of the share at a peak rate; the values move past the grid from 1 on."""
        return rate * self.strength

    def share(self, rate: Array, progress: Array) -> Array:
        """Share of the error that a step takes away."""
        ramp = jnp.clip((progress - self.silence) / (1.0 - self.silence), 0.0, 1.0)
        return rate * self.strength * ramp


@dataclass(frozen=True)
class DeltaDecay:
    """The same share of the error at every step, which PV-Tuning calls a decay of the straight-through delta.

    0 would be straight-through estimation, the source's default; 1 leaves no memory of steps that changed no level, and
    training stands still where a step is less than half a level. The source limits how many codes a step may change and
    searches codes by beams, which is not done here.

    Attributes:
      decay: the share.
    """

    decay: float

    def __post_init__(self):
        check_real(self, "decay", above=0, most=1)

    @property
    def name(self) -> str:
        """Text that tables have: `delta decay 0.1`."""
        return f"delta decay {self.decay:g}"

    def largest(self, rate: float) -> float:
        """Bound of the share, whatever the rate."""
        return self.decay

    def share(self, rate: Array, progress: Array) -> Array:
        """Share of the error that a step takes away."""
        return jnp.float32(self.decay)


Correction = Cage | DeltaDecay
CORRECTIONS = (Cage, DeltaDecay)
"""Classes that a run's JSON may hold."""
