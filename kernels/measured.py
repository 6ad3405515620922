"""Where XLA was measured to be faster than a kernel: "auto" leaves such an operation to XLA, "require" does not.

NVIDIA H200, jax 0.11.2, 2026-11-27, `bash scripts/device_check.sh`: docs/benchmarks/device-h200.json. Matrices of
4096 x 4096 in bfloat16; other shapes are taken to be as they are.
"""

from typing import Any, NamedTuple


class Times(NamedTuple):
    """Microseconds of value and gradient, by the kernel and by XLA."""

    kernel: float
    xla: float


HOPPER_PROJECTIONS = {
    "rows of one scale": Times(206, 114),
    "N:M patterns": Times(407, 97),
    "groups": Times(70, 147),
    "codebooks": Times(688, 1641),
    "rotated rows": Times(410, 1365),
}
"""By kind: int4, 2:4, int4-g32, higgs-d2-n16, int4 rotated by 128."""

HOPPER_PRODUCT_ROWS = 512
"""Rows of x from which unpacking weights for cuBLAS is faster: 40.5 us against 61.7 at 256 rows, 506 against 264 at
4096; both times are linear in the rows, and meet at 560."""


def kind_of(spec: Any) -> str:
    """The kind of a projection (`project.Spec`) in the table."""
    if spec.rotation is not None:
        return "rotated rows"
    if spec.codebook is not None:
        return "codebooks"
    if spec.pattern is not None:
        return "N:M patterns"
    return "rows of one scale" if spec.group is None else "groups"


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
