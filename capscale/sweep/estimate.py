"""Time of a training step before there is a chip: an estimate from what the compiler wrote, not a measurement."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

from capscale.kernels import bundles
from capscale.sweep.schedule import Schedule
from capscale.sweep.slices import Slice
from capscale.train.run import Run

BETWEEN_SLICES = "between slices"
Unit = Literal["matrix unit", "memory", "vector unit"]
Bottleneck = Literal[Unit, "chip", "wire"]
"""The chip where nothing says which of its units."""

KEPT = 8_000_000
"""Bytes of the largest values that programs of full effort are taken to keep in fast memory: those of the lowest effort
keep none there, and read and write up to twice the bytes for it."""
BEYOND = 1.15
"""Times what a step's products take at the peak, and then its bytes at the bandwidth of memory, that XLA's estimate at
full effort is: 1.13 of 30M dense, 1.26 in int4 with activations, 1.09 of 430M, 1.13 of 800M, all on v5e:4x4 by libtpu
0.0.42.1 (docs/benchmarks/README.md)."""
QUICK_ERROR = "in four steps on v5e 10% below to 8% above those of full effort"
"""Distance of such estimates of a step from those at full effort, as seen."""


class Estimate(NamedTuple):
    """Estimated time of a step on one device, in seconds.

    Attributes:
      compute: XLA's own estimate, of everything but the two below; where `quick`, by products and bytes (`estimate`).
      kernels: Pallas kernels by their schedule where `by_schedule`, which is a lower bound; and by their bytes.
      beside: sending between devices while something is computed, at the chip's `wire` bandwidth.
      alone: sending while nothing is.
      sent: bytes that a device sends.
      by_schedule: whether every kernel's schedule was at hand.
      units: of `compute` and `kernels`, by what each of their parts waits for (`waits_for`), or all the chip's.
      between: sending between slices, at the chip's share of the network, as if nothing were computed beside it.
      kinds: bytes that a device sends by kind of collective, those to other slices as such.
      quick: whether the program was compiled at XLA's lowest effort, whose cycles say nothing.
    """

    compute: float
    kernels: float
    beside: float
    alone: float
    sent: float
    by_schedule: bool
    units: Mapping[Unit | Literal["chip"], float]
    between: float = 0.0
    kinds: Mapping[str, float] = MappingProxyType({})
    quick: bool = False

    @property
    def step(self) -> float:
        """Seconds of a step, with what can overlap overlapping."""
        return max(self.compute + self.kernels, self.beside) + self.alone + self.between

    @property
    def bottleneck(self) -> Bottleneck:
        """Unit, or the wire, that the largest part of a step waits for."""
        parts: dict[Bottleneck, float] = {**self.units, "wire": self.beside + self.alone + self.between}
        return max(parts, key=lambda part: parts[part])

    def mfu(self, run: Run, slice_: Slice) -> float:
        """Share of the slice's peak that a step of `run` would reach, by its FLOPs."""
        return run.step_flops / (self.step * slice_.peak)


def waits_for(seconds: float, products: float, bytes: float) -> Unit:
    """Unit of a chip that a part of a step waits for.

    The matrix unit or memory, whichever takes longer by itself, where that is half of the time or more; else the vector
    unit, which does everything else.

    Args:
      seconds: that the part is estimated to take.
      products: seconds of its products at the chip's peak.
      bytes: seconds of what it reads and writes at the bandwidth of memory.
    """
    if max(products, bytes) < seconds / 2:
        return "vector unit"
    return "matrix unit" if products >= bytes else "memory"


def estimate(
    schedule: Schedule, slice_: Slice, devices: int, written: Path | None = None, *, quick: bool = False
) -> Estimate:
    """Time of a step by its schedule.

    A quick program has the operations of one of full effort, and takes several times as many cycles for them: 321 ms in
    place of 60 in a step of the 30M model on v5e. So the time of its products and bytes stands in for cycles, `BEYOND`
    times; which unit a part waits for does not follow.

    Args:
      schedule: of the compiled step; where that is quick, read with values up to `KEPT` bytes kept.
      slice_: that it was compiled for.
      devices: of the slice; a v4 chip is two.
      written: folder of the kernels' own schedules (`bundles.folder`); None for kernels by their bytes.
      quick: whether the program was compiled at XLA's lowest effort.
    """
    chip, share = slice_.chip, slice_.chips / devices
    costs = {} if written is None else _costs(schedule, bundles.schedules(written))
    of_compute, of_kernels = 0.0, 0.0
    units: dict[Unit | Literal["chip"], float] = dict.fromkeys(get_args(Unit), 0.0)
    for part in schedule.work:
        products, moved = part.flops / (chip.peak * share), part.bytes / (chip.bandwidth * share)
        seconds = BEYOND * (products + moved) if quick else part.cycles / chip.clock
        units[waits_for(seconds, products, moved)] += part.runs * seconds
        of_compute += part.runs * seconds
    for kernel in schedule.kernels:
        cost = costs.get(kernel.kind, bundles.UNKNOWN)
        moved = kernel.bytes / (chip.bandwidth * share)
        seconds = max(cost.cycles / chip.clock, moved)
        units[waits_for(seconds, cost.multiplying / chip.clock, moved)] += kernel.runs * seconds
        of_kernels += kernel.runs * seconds
    sent = sum(schedule.sent.values())
    between = 2 * (slice_.count - 1) / slice_.count * schedule.handed_over  # as a ring of slices adds up
    return Estimate(
        compute=of_compute,
        kernels=of_kernels,
        beside=(sent - schedule.sent_alone) / (chip.wire * share),
        alone=schedule.sent_alone / (chip.wire * share),
        sent=sent + between,
        by_schedule=all(kernel.kind in costs for kernel in schedule.kernels),
        units={"chip": of_compute + of_kernels} if quick else units,
        between=between / (chip.network * share),
        kinds=schedule.sent | ({BETWEEN_SLICES: between} if between else {}),
        quick=quick,
    )


def _costs(schedule: Schedule, files: Mapping[str, Path]) -> dict[str, bundles.Cost]:
    """Costs of kernels by their kind, of which one at least has a schedule; the costliest, should several differ."""
    found: dict[str, bundles.Cost] = {}
    for kernel in schedule.kernels:
        if kernel.name in files:
            cost = bundles.cost(files[kernel.name].read_text())
            found[kernel.kind] = max(cost, found.get(kernel.kind, cost), key=lambda each: each.cycles)
    return found
