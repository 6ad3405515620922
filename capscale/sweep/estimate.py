"""Time of a training step before there is a chip: an estimate from what the compiler wrote, not a measurement."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from capscale.kernels import bundles
from capscale.sweep.schedule import Schedule
from capscale.sweep.slices import Slice
from capscale.train.run import Run

BETWEEN_SLICES = "between slices"
Bottleneck = Literal["compute", "kernels", "wire"]


class Estimate(NamedTuple):
    """Estimated time of a step on one device, in seconds.

    Attributes:
      compute: XLA's own estimate, of everything but the two below.
      kernels: Pallas kernels by their schedule where `by_schedule`, which is a lower bound; and by their bytes.
      beside: sending between devices while something is computed, at the chip's `wire` bandwidth.
      alone: sending while nothing is.
      sent: bytes that a device sends.
      by_schedule: whether every kernel's schedule was at hand.
      between: sending between slices, at the chip's share of the network, as if nothing were computed beside it.
      kinds: bytes that a device sends by kind of collective, those to other slices as such.
    """

    compute: float
    kernels: float
    beside: float
    alone: float
    sent: float
    by_schedule: bool
    between: float = 0.0
    kinds: Mapping[str, float] = MappingProxyType({})

    @property
    def step(self) -> float:
        """Seconds of a step, with what can overlap overlapping."""
        return max(self.compute + self.kernels, self.beside) + self.alone + self.between

    @property
    def bottleneck(self) -> Bottleneck:
        """The largest part of a step."""
        parts: dict[Bottleneck, float] = {
            "compute": self.compute,
            "kernels": self.kernels,
            "wire": self.beside + self.alone + self.between,
        }
        return max(parts, key=lambda part: parts[part])

    def mfu(self, run: Run, slice_: Slice) -> float:
        """Share of the slice's peak that a step of `run` would reach, by its FLOPs."""
        return run.step_flops / (self.step * slice_.peak)


def estimate(schedule: Schedule, slice_: Slice, devices: int, written: Path | None = None) -> Estimate:
    """Time of a step by its schedule.

    Args:
      schedule: of the compiled step.
      slice_: that it was compiled for.
      devices: of the slice; a v4 chip is two.
      written: folder of the kernels' own schedules (`bundles.folder`); None for kernels by their bytes.
    """
    chip, share = slice_.chip, slice_.chips / devices
    files = {} if written is None else bundles.schedules(written)
    of_kernels = 0.0
    for kernel in schedule.kernels:
        cycles = bundles.cycles(files[kernel.name].read_text()) if kernel.name in files else 0
        of_kernels += kernel.runs * max(cycles / chip.clock, kernel.bytes / (chip.bandwidth * share))
    sent = sum(schedule.sent.values())
    between = 2 * (slice_.count - 1) / slice_.count * schedule.handed_over  # as a ring of slices adds up
    return Estimate(
        compute=schedule.cycles / chip.clock,
        kernels=of_kernels,
        beside=(sent - schedule.sent_alone) / (chip.wire * share),
        alone=schedule.sent_alone / (chip.wire * share),
        sent=sent + between,
        by_schedule=all(kernel.name in files for kernel in schedule.kernels),
        between=between / (chip.network * share),
        kinds=schedule.sent | ({BETWEEN_SLICES: between} if between else {}),
    )
