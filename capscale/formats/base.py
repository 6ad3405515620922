"""What a compressed format is: a frozen dataclass with `bits` and `project`.

Every format works on the LAST axis of its input; leading axes are batch. Weights `(in, out)` reach a
format as `(out, in)`, activations as `(..., tokens, features)`; see `capscale.representation.linear`.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from jax import Array


class Projection(NamedTuple):
    """The nearest representable tensor, with what an estimator needs to build its backward mask.

    All arrays broadcast to `value.shape`.
    """

    value: Array
    """The representable tensor, in the dtype of the input."""
    step: Array | None = None
    """Distance between neighbouring levels in units of the input, for trust masks."""
    keep: Array | None = None
    """Boolean, False where sparsity zeroed the entry."""


class Context(NamedTuple):
    """What changes from step to step: everything else about a format is static.

    `learned` and `state` hold this tensor's own learned numbers (LSQ's step) and state (RigL's mask),
    for formats that declare them.
    """

    progress: Array | float = 0.0
    """Share of training done, in [0, 1]; read by schedules."""
    key: Array | None = None
    """PRNG key; read by noise."""
    learned: Array | None = None
    state: Array | None = None


@runtime_checkable
class Format(Protocol):
    """A compressed format: a frozen, hashable dataclass, usable as a jit-static argument."""

    @property
    def bits(self) -> float:
        """Storage bits per value: codes, scales, indices and masks included."""
        ...

    def project(self, x: Array, ctx: Context) -> Projection:
        """Nearest representable tensor to `x` along its last axis."""
        ...
