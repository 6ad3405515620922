"""Settings of the calls of a TPU's kernels on rows: their blocks, their memory, and what XLA is told of their cost."""

from typing import Any

from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..rules import length
from ..spec import Spec
from .rotation import Rotation
from .tiles import SPILLED, Memory

MOST_AT_ONCE = 16
OPERATIONS_AT_ONCE = 400
"""Of grids, in a trip of a loop; what is longer takes long to compile, and has enough to do."""


def at_once(spec: Spec, interpret: bool) -> int:
    """Tiles in a trip of a loop: enough to be read, multiplied and turned while others are in the vector unit.

    Fewer of what takes more of the registers.
    """
    if interpret:
        return 1
    most = MOST_AT_ONCE // 2 if spec.codebook or spec.pattern else MOST_AT_ONCE
    return most if spec.grid is None else max(1, min(most, OPERATIONS_AT_ONCE // length(spec.grid.nearest)))


OPERATIONS = 50
"""Of the vector unit for a value, about, by the schedules: a third less for int4, three times as many for codebooks."""


def cost(rotation: Rotation, times: int, *arrays: Any) -> pl.CostEstimate:
    """Estimate for XLA's schedule: of `arrays` read and written, the first of them rotated `times` times."""
    return pl.CostEstimate(
        flops=arrays[0].size * (OPERATIONS + times * rotation.operations),
        bytes_accessed=sum(array.size * array.dtype.itemsize for array in arrays),
        transcendentals=0,
    )


def compiler_params(vmem: int) -> Any:
    """Rows are independent; compilation fails where the kernel needs more memory than was reckoned."""
    return pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=vmem + SPILLED)


def block_of_rows(memory: Memory, width: int) -> pl.BlockSpec:
    """A block of whole rows of `width` values."""
    only = {"pipeline_mode": pl.Buffered(1)} if memory.buffers == 1 else {}
    return pl.BlockSpec((memory.rows, width), lambda i: (i, 0), **only)
