"""Protocols for needs of a format besides the tensor: learned scales, a state, a random key."""

from typing import Protocol, runtime_checkable

import jax
from jax import Array

from capscale.kernels.project import Spec, Unsupported

from .base import Context, Format
from .stated import GIVEN, KERNEL, unstated
from .storage import Shape


@runtime_checkable
class HasShortName(Protocol):
    """A format from outside that has a name for tables, pictures and progress; others are shown by their repr."""

    @property
    def short_name(self) -> str:
        """Such as "int4-mine"; no name of the catalog or of its rules."""
        ...


@runtime_checkable
class HasLearnedScale(Protocol):
    """A format that may own learnable parameters: model parameters, checkpointed, without weight decay."""

    @property
    def learns(self) -> bool:
        """Whether it does, as configured."""
        ...

    def learned_shape(self, shape: Shape) -> Shape:
        """Shape of the learnable parameters of a tensor of this shape."""
        ...

    def initial_learned(self, x: Array) -> Array:
        """Where they start, of that shape, float32."""
        ...

    def learned_gain(self, shape: Shape) -> float:
        """Factor on the gradient of the learnable parameters of a tensor of this shape."""
        ...

    def expand_learned(self, learned: Array, shape: Shape) -> Array:
        """The learned number of every value, of this shape."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A format with a state from step to step: a collection of the model, checkpointed, moved by the train step."""

    def initial_state(self, x: Array) -> Array:
        """State at the start of training."""
        ...

    def next_state(self, state: Array, x: Array, gradient: Array, step: Array, progress: Array) -> Array:
        """State after optimizer step `step`, from the tensor and the gradient at its projection."""
        ...


@runtime_checkable
class Stochastic(Protocol):
    """A format that may draw random numbers from `Context.key`."""

    @property
    def draws(self) -> bool:
        """Whether it draws, as configured."""
        ...


@runtime_checkable
class HasKernel(Protocol):
    """A format that names a kernel for its projection: to be held to it by `capscale.kernel_checks.check_kernels`.

    A class derived from it that overrides how it projects has to name its own: an inherited one is not taken.
    """

    def kernel_spec(self) -> Spec | Unsupported:
        """Grid, scale rule, group, pattern, codebook, or why no kernel computes them; no more of a `Spec` is read."""
        ...


@runtime_checkable
class GivesKernel(Protocol):
    """A format whose kernel is given a number for every row: its scale, or what groups' scales are taken under."""

    def kernel_given(self, x: Array, ctx: Context) -> Array:
        """That number, of the rows as they are projected (rotated ones, where the kernel rotates): (..., 1)."""
        ...


def kernel_spec(format: Format) -> Spec | Unsupported:
    """Specification that kernels compute of `format`, or why none does."""
    if not isinstance(format, HasKernel):
        return Unsupported(f"{type(format).__name__} formats are left to XLA")
    if reason := unstated(format, KERNEL):
        return Unsupported(f"{reason}, it is left to XLA")
    spec = format.kernel_spec()
    if isinstance(spec, Unsupported) or spec.scale is None or not spec.scale.given:
        return spec
    if not isinstance(format, GivesKernel):
        return Unsupported(f"{type(format).__name__} has a scale that is given, and no kernel_given to give it")
    reason = unstated(format, GIVEN)
    return Unsupported(f"{reason}, it is left to XLA") if reason else spec


@runtime_checkable
class SumsInAnyOrder(Protocol):
    """A format whose value may be summed in the order of the device, as nothing is rounded to levels behind the sums.

    Devices and batches of several sizes then agree to the last bits of the largest value, not in all bits.
    """

    @property
    def any_order(self) -> bool:
        """Whether it is, as configured."""
        ...


@runtime_checkable
class StateSavesWork(Protocol):
    """A format with a state that spares it a computation: without one it projects as at the start of training."""

    @property
    def state_saves_work(self) -> bool:
        """Whether it does, as configured."""
        ...


@runtime_checkable
class HasLimit(Protocol):
    """A format whose bits and error may have no limit in large matrices, as those of a fixed rank have none.

    Its `bits`, and its `error` of no number of samples, are then those of one size, and what knows a matrix asks
    `storage_bits` and `capscale.gaussian_mse.gmse_of_shape`.
    """

    @property
    def has_limit(self) -> bool:
        """Whether they have one, as configured."""
        ...


def has_limit(format: Format) -> bool:
    """Whether the format's bits and error are those of large matrices; true of all that say nothing else."""
    return not isinstance(format, HasLimit) or format.has_limit


def learns(format: Format) -> bool:
    """Whether the format owns learnable parameters."""
    return isinstance(format, HasLearnedScale) and format.learns


def moves(format: Format) -> bool:
    """Whether the format projects by what training has learned or moved, and by nothing else."""
    spared = isinstance(format, StateSavesWork) and format.state_saves_work
    return learns(format) or (isinstance(format, Stateful) and not spared)


def any_order(format: Format) -> bool:
    """Whether sums behind the format's value may be in any order."""
    return isinstance(format, SumsInAnyOrder) and format.any_order


def draws(format: Format) -> bool:
    """Whether the format draws random numbers."""
    return isinstance(format, Stochastic) and format.draws


def initial_context(format: Format, x: Array, seed: int = 0, progress: float = 1.0) -> Context:
    """A context in which `format` can project `x` outside training: learnable parameters and state as they start."""
    return Context(
        progress=progress,
        key=jax.random.key(seed) if draws(format) else None,
        learned=format.initial_learned(x) if isinstance(format, HasLearnedScale) and format.learns else None,
        state=format.initial_state(x) if isinstance(format, Stateful) else None,
    )
