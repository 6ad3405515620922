"""Sparsity schedules: the pruned share as a function of training progress."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array

from capscale.checks import check_real
from capscale.errors import UserError


class Schedule(Protocol):
    """Share of the final sparsity at a point of training; a frozen, hashable dataclass."""

    def __call__(self, progress: Array | float) -> Array | float:
        """In [0, 1] for progress in [0, 1]; exactly 1 from some point on."""
        ...


@dataclass(frozen=True)
class Constant:
    """The final sparsity throughout."""

    def __call__(self, progress: Array | float) -> float:
        """The whole sparsity, at any time."""
        return 1.0


@dataclass(frozen=True)
class Cubic:
    """Gradual magnitude pruning (Zhu & Gupta, arXiv 1710.01878): `1 - (1 - t)^3`, t from `start` to `end`."""

    start: float = 0.0
    end: float = 0.75

    def __post_init__(self) -> None:
        check_real(self, "start", "end")
        if not 0 <= self.start < self.end <= 1:
            raise UserError(f"Cubic(start={self.start}, end={self.end}): needs 0 <= start < end <= 1")

    def __call__(self, progress: Array | float) -> Array:
        """0 up to `start`, 1 from `end` on."""
        t = jnp.clip((jnp.asarray(progress, jnp.float32) - self.start) / (self.end - self.start), 0.0, 1.0)
        return jnp.where(jnp.asarray(progress) >= self.end, 1.0, 1.0 - (1.0 - t) ** 3)


CONSTANT = Constant()

PARTS = 10_000
"""Shares of training at which something starts are whole multiples of one by this."""


def first_step(starts: float, steps: Array | int) -> Any:
    """First step, counted from 0, of the part of training that begins at a share of its steps, in whole `PARTS`.

    By whole numbers, and below 2^31 on the way: the same on every device, and on the host.

    Example:
      >>> first_step(0.9, 12), first_step(0.5, 12), first_step(0.3333, 3)
      (11, 6, 1)
    """
    share = round(starts * PARTS)
    return share * (steps // PARTS) - (-share * (steps % PARTS)) // PARTS


def needs_progress(format: object) -> bool:
    """Whether a format, or a part of it, follows a schedule and so reads the share of training done."""
    if not is_dataclass(format) or isinstance(format, type):
        return False
    parts = [(field.name, getattr(format, field.name)) for field in fields(format)]
    return any((name == "schedule" and part != CONSTANT) or needs_progress(part) for name, part in parts)
