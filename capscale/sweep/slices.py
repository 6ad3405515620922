"""TPU slices by name, and what their chips offer: for compiling without one."""

from dataclasses import dataclass
from math import prod
from typing import Any

from capscale.errors import UserError
from capscale.train.flops import PEAK

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
      slices: topologies that are sold, smallest first.
    """

    hbm: int
    peak: float
    products: int
    bandwidth: float
    wire: float
    slices: tuple[str, ...]

    @property
    def clock(self) -> float:
        """Cycles a second: what the peak and the matrix units make of it."""
        return self.peak / (2 * self.products)


_PLANAR = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")

CHIPS = {
    "v4": Chip(32 * GIB, PEAK["TPU v4"], 8 * 128**2, 1.23e12, 9e10, _CUBIC),
    "v5e": Chip(16 * GIB, PEAK["TPU v5e"], 4 * 128**2, 8.19e11, 9e10, _PLANAR),
    "v5p": Chip(95 * GIB, PEAK["TPU v5p"], 8 * 128**2, 2.765e12, 1.8e11, _CUBIC),
    "v6e": Chip(32 * GIB, PEAK["TPU v6e"], 4 * 256**2, 1.64e12, 1.8e11, _PLANAR),
}
"""Memory, its bandwidth and topologies as stated at cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; matrix units and
links of "How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus): 45 GB/s each way a link of v4 and v5e, twice as
much of v5p and v6e."""


@dataclass(frozen=True)
class Slice:
    """A TPU slice, such as v5e:4x4."""

    generation: str
    shape: str

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
        """Number of its chips."""
        return prod(int(side) for side in self.shape.split("x"))

    @property
    def peak(self) -> float:
        """bfloat16 FLOP/s of the slice."""
        return self.chips * self.chip.peak

    @property
    def larger(self) -> list["Slice"]:
        """Slices of more chips, smallest first."""
        return [found for found in slices(self.generation) if found.chips > self.chips]

    def devices(self) -> list[Any]:
        """Its devices as XLA's compiler sees them; v4 has two to a chip. Nothing can be run on them.

        Raises `UserError` where libtpu is not installed.
        """
        from capscale.kernels.aot import tpu_devices

        try:
            return tpu_devices(self.name)
        except Exception as error:  # jax raises its own types for a missing plugin and an unknown layout
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"topology {self.name} cannot be compiled for ({reason}); install libtpu: pip install 'capscale[tpu]'"
            ) from error


def slices(generation: str) -> list[Slice]:
    """The slices of a generation, smallest first."""
    return [Slice(generation, shape) for shape in CHIPS[generation].slices]


def find_slice(name: str) -> Slice:
    """The slice called `name`; `UserError` with the known ones otherwise."""
    generation, _, shape = name.partition(":")
    if generation not in CHIPS:
        raise UserError(f"topology {name!r} is not of a known TPU ({', '.join(CHIPS)}); use such as v5e:4x4")
    if shape not in CHIPS[generation].slices:
        known = ", ".join(f"{generation}:{known}" for known in CHIPS[generation].slices)
        raise UserError(f"topology {name!r} is no slice of {generation}; known: {known}")
    return Slice(generation, shape)
