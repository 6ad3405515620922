"""Where XLA was measured to be faster than a kernel: "auto" leaves such an operation to XLA, "require" does not.

NVIDIA H200, jax 0.11.2, 2026-11-28, `bash scripts/device_check.sh`: docs/benchmarks/device-h200-tiles.json. Matrices of
4096 x 4096 in bfloat16; other shapes and dtypes are taken to be as these. The projections are those that read rows
three times: since then rows stay in a block (`project.gpu`), which has not been run on a GPU yet.
"""

from itertools import pairwise
from typing import Any, NamedTuple


class Times(NamedTuple):
    """Microseconds of value and gradient, by the kernel and by XLA."""

    kernel: float
    xla: float


HOPPER_PROJECTIONS = {
    "rows of one scale, levels of equal steps": Times(101, 111),
    "rows of one scale, levels of unequal steps": Times(120, 106),
    "N:M patterns": Times(180, 107),
    "N:M patterns, then levels": Times(254, 157),
    "groups": Times(65, 145),
    "codebooks": Times(273, 1633),
    "rotated rows": Times(174, 1393),
}
"""By kind: int4, e2m1, 2:4, 2:4+int4, int4-g32, higgs-d2-n16, int4 rotated by 128. The least gain of a kind that was
measured more than once: 1.4 times for groups (nvfp4), 3 for rotated rows (2:4+int4 in float32)."""

HOPPER_PRODUCT_ROWS = 568
"""Rows of x from which unpacking weights for cuBLAS is faster: 69.2 us by the kernel against 73.2 at 512 rows, 130.3
against 97.6 at 1024; straight lines between them meet here."""


def kind_of(spec: Any) -> str:
    """The kind of a projection (`project.Spec`) in the table."""
    if spec.rotation is not None:
        return "rotated rows"
    if spec.codebook is not None:
        return "codebooks"
    if spec.pattern is not None:
        return "N:M patterns" if spec.grid is None else "N:M patterns, then levels"
    if spec.group is not None:
        return "groups"
    return f"rows of one scale, levels of {'equal' if _equal_steps(spec.grid.levels) else 'unequal'} steps"


def _equal_steps(levels: Any) -> bool:
    """Whether they are, to the bit: those of integers are."""
    return len({float(upper - lower) for lower, upper in pairwise(levels)}) == 1


def slower_projection(spec: Any, backend: str) -> str | None:
    """Why XLA runs this projection, or None where the kernel of the backend was not measured to be slower."""
    kind = kind_of(spec)
    times = HOPPER_PROJECTIONS[kind]
    if backend != "gpu" or times.kernel <= times.xla:
        return None
    return f"it was measured faster on {kind}: {times.xla:g} us, {times.kernel:g} by the kernel"


def slower_product(rows: int, backend: str) -> str | None:
    """Why XLA unpacks weights for a product with so many rows, or None."""
    if backend != "gpu" or rows < HOPPER_PRODUCT_ROWS:
        return None
    return f"unpacking for cuBLAS was measured faster from {HOPPER_PRODUCT_ROWS} rows on"
