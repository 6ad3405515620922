"""How far training is, how fast it goes, and when it will be done."""

from typing import NamedTuple

import jax

from capscale.train.flops import peak_flops
from capscale.train.run import Run


class Progress(NamedTuple):
    """Report to an observer after every chunk: of all the runs trained side by side.

    Attributes:
      step, steps: done, and in all.
      loss: of the last step in nats per token, the mean over runs that have not diverged.
      tokens_per_s: in the chunk.
      left_s: seconds to the end of training at the pace so far, compilation left out.
      mfu: share of the devices' peak FLOP/s in the chunk; None where the peak is not known.
    """

    step: int
    steps: int
    loss: float
    tokens_per_s: float
    left_s: float
    mfu: float | None


class Clock:
    """Adds up the chunks of a process, the first of which is slow: it is compiled."""

    def __init__(self):
        self.last_s = self.total_s = self._first_s = 0.0
        self._steps = self._first_steps = 0

    def add(self, steps: int, seconds: float) -> None:
        """A chunk of so many steps took so long."""
        self.last_s = seconds
        if not self._steps:
            self._first_s, self._first_steps = self.last_s, steps
        self.total_s, self._steps = self.total_s + self.last_s, self._steps + steps

    def left_s(self, steps: int) -> float:
        """Seconds that so many more steps will take, at the pace of all chunks but the first where there are others."""
        if self._steps == self._first_steps:
            return self.total_s / self._steps * steps
        return (self.total_s - self._first_s) / (self._steps - self._first_steps) * steps


def mfu(run: Run, tokens_per_s: float, devices: int) -> float | None:
    """Share of the peak FLOP/s of this process's kind of device; None where that is not known."""
    peak = peak_of(devices)
    return None if peak is None else tokens_per_s / run.tokens_per_step * run.step_flops / peak


def peak_of(devices: float) -> float | None:
    """Peak FLOP/s of so many of this process's kind of device; None where that is not known."""
    peak = peak_flops(jax.devices()[0].device_kind)
    return None if peak is None else peak * devices
