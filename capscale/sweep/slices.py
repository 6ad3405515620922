"""TPU slices by name, and what their chips offer: for compiling without one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.kernels.chips import TPUS, Speed

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
      hbm: bytes of memory.
      peak: bfloat16 FLOP/s.
      products: multiply-adds of bfloat16 a cycle, of all matrix units: 4 a core of 128 x 128, of 256 x 256 on v6e.
      bandwidth: bytes of memory read or written a second.
      wire: bytes a second that a chip sends along a ring over one axis of the slice, both ways together.
      network: bytes a second that a chip sends to other slices, its share of what its host can.
      slices: topologies that are sold, smallest first.
    """

    hbm: int
    peak: float
    products: int
    bandwidth: float
    wire: float
    network: float
    slices: tuple[str, ...]

    @property
    def clock(self) -> float:
        """Cycles a second: what the peak and the matrix units make of it."""
        return Speed(self.peak, self.products, self.bandwidth).clock


_PLANAR = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")

CHIPS = {
    "v4": Chip(32 * GIB, *TPUS["v4"], 9e10, 6.25e9, _CUBIC),
    "v5e": Chip(16 * GIB, *TPUS["v5e"], 9e10, 3.125e9, _PLANAR),
    "v5p": Chip(95 * GIB, *TPUS["v5p"], 1.8e11, 6.25e9, _CUBIC),
    "v6e": Chip(32 * GIB, *TPUS["v6e"], 1.8e11, 12.5e9, _PLANAR),
}
"""Memory and topologies as stated at cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; links of "How to Scale Your
Model" (jax-ml.github.io/scaling-book/tpus): 45 GB/s each way a link of v4 and v5e, twice as much of v5p and v6e; and
6.25 GB/s out of a slice for each chip, half of that on v5e and twice as much on v6e."""


class Place(Protocol):
    """Devices that a step is compiled for: those of a slice that is not here, or those that are."""

    @property
    def name(self) -> str:
        """Words for it, such as `v5e:4x4`."""
        ...

    @property
    def flags(self) -> str:
        """Options of the command line that mean it; empty for what is here."""
        ...

    @property
    def count(self) -> int:
        """Number of slices, in each of which alone devices share parameters."""
        ...

    @property
    def peak(self) -> float | None:
        """bfloat16 FLOP/s of all devices, None where that is not known."""
        ...

    @property
    def larger(self) -> Sequence["Place"]:
        """Places with more devices, smallest first."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether steps can be run on it."""
        ...

    def devices(self) -> list[Any]:
        """Its devices, as XLA's compiler sees them."""
        ...

    def memory(self) -> int:
        """Bytes of memory of a device."""
        ...


@dataclass(frozen=True)
class Slice:
    """A TPU slice, such as v5e:4x4, or several of them that a data centre's network connects."""

    generation: str
    shape: str
    count: int = 1

    def __post_init__(self):
        check_whole(self, "count", least=1)

    @property
    def flags(self) -> str:
        """Options of `capscale preflight` that mean it."""
        return f"--topology {self.name}" + (f" --slices {self.count}" if self.count > 1 else "")

    @property
    def is_here(self) -> bool:
        """False: nothing can be run on devices that are only compiled for."""
        return False

    @property
    def name(self) -> str:
        """Name of the slice, such as `v5e:4x4`."""
        return f"{self.generation}:{self.shape}"

    @property
    def chip(self) -> Chip:
        """Generation of its chips."""
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        """Number of its chips, of all slices."""
        return self.count * prod(int(side) for side in self.shape.split("x"))

    @property
    def peak(self) -> float:
        """bfloat16 FLOP/s of the slice."""
        return self.chips * self.chip.peak

    @property
    def larger(self) -> list["Slice"]:
        """Slices of more chips, as many of them, smallest first."""
        alike = [replace(found, count=self.count) for found in slices(self.generation)]
        return [found for found in alike if found.chips > self.chips]

    def devices(self) -> list[Any]:
        """Its devices as XLA's compiler sees them; v4 has two to a chip. Nothing can be run on them.

        Raises `UserError` where libtpu is not installed.
        """
        from capscale.kernels.aot import tpu_devices

        try:
            return tpu_devices(self.name, self.count)
        except Exception as error:  # jax raises its own types for a missing plugin and an unknown layout
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.flags.removeprefix('--')} cannot be compiled for ({reason}); install libtpu: pip install "
                "'capscale[tpu]'"
            ) from error

    def memory(self) -> int:
        """Bytes of memory of a device: a chip's, or half of it on v4."""
        return self.chip.hbm * self.chips // len(self.devices())


def slices(generation: str) -> list[Slice]:
    """The slices of a generation, smallest first."""
    return [Slice(generation, shape) for shape in CHIPS[generation].slices]


def find_slice(name: str, count: int = 1) -> Slice:
    """The slice called `name`, or so many of them; `UserError` with the known ones otherwise."""
    generation, _, shape = name.partition(":")
    if generation not in CHIPS:
        raise UserError(f"topology {name!r} is not of a known TPU ({', '.join(CHIPS)}); use such as v5e:4x4")
    if shape not in CHIPS[generation].slices:
        known = ", ".join(f"{generation}:{known}" for known in CHIPS[generation].slices)
        raise UserError(f"topology {name!r} is no slice of {generation}; known: {known}")
    if count < 1:
        raise UserError(f"--slices {count} must be at least 1")
    return Slice(generation, shape, count)
