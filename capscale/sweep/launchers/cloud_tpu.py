"""Names that Cloud TPU and GKE have for slices, and how many hosts these have."""

from capscale.sweep.slices import Slice

_TYPES = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}
"""Cloud TPU's names: a prefix, and how many units it counts to a chip (v4 and v5p count cores)."""

RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""Software versions for JAX: cloud.google.com/tpu/docs/runtimes."""

UNITS = dict(_TYPES.values())
"""Of a chip, by the prefix."""

CHIPS_A_HOST = 4
"""Of every slice with more than one host."""


def accelerator_type(slice_: Slice) -> str:
    """Cloud TPU's name of a slice: v5e:4x4 is v5litepod-16, v4:2x2x1 is v4-8."""
    prefix, units = _TYPES[slice_.generation]
    return f"{prefix}-{slice_.chips * units}"


def hosts_of(slice_: Slice) -> int:
    """Hosts of a slice: four chips each, but for v5e and v6e of up to eight, which one host has."""
    alone = 8 if len(slice_.shape.split("x")) == 2 else CHIPS_A_HOST
    return 1 if slice_.chips <= alone else slice_.chips // CHIPS_A_HOST
