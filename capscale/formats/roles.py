"""What a format may need besides the tensor: learned numbers, a state, a random key."""

from typing import Protocol, runtime_checkable

import jax
from jax import Array

from capscale.kernels.project import Spec

from .base import Context, Format
from .storage import Shape


@runtime_checkable
class Learns(Protocol):
    """A format that may own learned numbers: model parameters, checkpointed, without weight decay."""

    @property
    def learns(self) -> bool:
        """Whether it does, as configured."""
        ...

    def learned_shape(self, shape: Shape) -> Shape:
        """Shape of the learned numbers of a tensor of this shape."""
        ...

    def initial_learned(self, x: Array) -> Array:
        """Where they start, of that shape, float32."""
        ...

    def learned_gain(self, shape: Shape) -> float:
        """Factor on the gradient of the learned numbers of a tensor of this shape."""
        ...

    def expand_learned(self, learned: Array, shape: Shape) -> Array:
        """The learned number of every value, of this shape."""
        ...


@runtime_checkable
class Keeps(Protocol):
    """A format with a state from step to step: a collection of the model, checkpointed, moved by the train step."""

    def initial_state(self, x: Array) -> Array:
        """State at the start of training."""
        ...

    def next_state(self, state: Array, x: Array, gradient: Array, step: Array, progress: Array) -> Array:
        """State after optimizer step `step`, from the tensor and the gradient at its projection."""
        ...


@runtime_checkable
class Draws(Protocol):
    """A format that draws random numbers from `Context.key`."""

    @property
    def draws(self) -> bool:
        """True."""
        ...


@runtime_checkable
class Fuses(Protocol):
    """A format that names a kernel for its projection: to be held to it by `capscale.kernel_checks.check_kernels`.

    A class derived from it that computes something else has to name its own: an inherited one is not taken.
    """

    def fused(self) -> Spec:
        """Grid, scale rule (not one that is given), group, pattern, codebook; no more of a `Spec` is read."""
        ...


def learns(format: Format) -> bool:
    """Whether the format owns learned numbers."""
    return isinstance(format, Learns) and format.learns


def initial_context(format: Format, x: Array, seed: int = 0, progress: float = 1.0) -> Context:
    """A context in which `format` can project `x` outside training: learned numbers and state as they start."""
    return Context(
        progress=progress,
        key=jax.random.key(seed) if isinstance(format, Draws) else None,
        learned=format.initial_learned(x) if isinstance(format, Learns) and format.learns else None,
        state=format.initial_state(x) if isinstance(format, Keeps) else None,
    )
