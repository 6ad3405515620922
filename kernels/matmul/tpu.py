"""The same on a TPU: bytes of weights are read once, decoded in VMEM, and multiplied on the MXU.

The grid walks (rows of x, outputs, K); K is innermost and accumulates in float32. Inside a tile, chunks of columns are
decoded one at a time, which bounds the float32 temporaries.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from .layout import Layout, Weights, decode, split_inputs

LANES = 128
ROWS = 256  # of x in a block
OUTPUTS = 512  # in a block
INPUTS = 2048  # in a block, where a multiple of 128 columns divides the width
LARGEST_WIDTH = 8192  # in one block, where none does


def column_block(layout: Layout) -> int | None:
    """Columns of a block: the most that tile the row in whole lanes and groups; None where nothing fits."""
    per_group = 1 if layout.group is None else layout.group // layout.values
    most = INPUTS // layout.values
    if layout.columns <= most:
        return layout.columns
    fitting = [n for n in range(LANES, most + 1, LANES) if layout.columns % n == 0 and n % per_group == 0]
    if fitting:
        return fitting[-1]
    return layout.columns if layout.width <= LARGEST_WIDTH else None


def unsupported(x: Array, weights: Weights) -> str | None:
    """Why this kernel cannot run, or None."""
    layout = weights.layout
    if x.dtype != jnp.bfloat16:
        return f"x is {x.dtype}; the kernel multiplies bfloat16"
    if column_block(layout) is None:
        return f"no multiple of {LANES} columns of {layout.values} values divides the width {layout.width} in groups"
    return None


def matmul(x: Array, weights: Weights, dtype: jnp.dtype | None = None, interpret: bool = False) -> Array:
    """As `reference.matmul`, for bfloat16 x."""
    codes, pattern, scale, layout = weights.codes, weights.pattern, weights.scale, weights.layout
    rows, outputs = x.shape[0], codes.shape[1]
    width = column_block(layout)
    assert width is not None
    steps = layout.columns // width
    row_block, output_block = min(rows, ROWS), min(outputs, OUTPUTS)
    operands = [split_inputs(x, layout.values), codes]
    specs = [
        pl.BlockSpec((layout.values, row_block, width), lambda i, j, k: (0, i, k)),
        pl.BlockSpec((layout.byte_planes, output_block, width), lambda i, j, k: (0, j, k)),
    ]
    if pattern is not None:
        operands.append(pattern)
        specs.append(pl.BlockSpec((output_block, width), lambda i, j, k: (j, k)))
    if layout.group is None:
        operands.append(scale.reshape(1, outputs))
        specs.append(pl.BlockSpec((1, output_block), lambda i, j, k: (0, j)))
    else:  # a block of scales for every block of columns
        groups = scale.shape[1] // steps
        operands.append(jnp.transpose(scale.reshape(outputs, steps, groups), (1, 0, 2)))
        specs.append(pl.BlockSpec((1, output_block, groups), lambda i, j, k: (k, j, 0)))
    return pl.pallas_call(
        partial(_kernel, layout=layout, sparse=pattern is not None, steps=steps),
        out_shape=jax.ShapeDtypeStruct((rows, outputs), dtype or x.dtype),
        grid=(pl.cdiv(rows, row_block), pl.cdiv(outputs, output_block), steps),
        in_specs=specs,
        out_specs=pl.BlockSpec((row_block, output_block), lambda i, j, k: (i, j)),
        scratch_shapes=[pltpu.VMEM((row_block, output_block), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(
            flops=2 * rows * outputs * layout.width,
            bytes_accessed=x.nbytes + outputs * layout.nbytes_per_row + scale.nbytes + rows * outputs * 4,
            transcendentals=0,
        ),
        interpret=interpret,
        name="packed_matmul",
    )(*operands)


def _kernel(x_ref, codes_ref, *rest, layout: Layout, sparse: bool, steps: int) -> None:
    pattern_ref = rest[0] if sparse else None
    scale_ref, y_ref, total_ref = rest[sparse:]

    @pl.when(pl.program_id(2) == 0)
    def _start() -> None:
        total_ref[...] = jnp.zeros_like(total_ref)

    width = codes_ref.shape[-1]
    chunk = LANES if layout.group is not None else 2 * LANES
    for start in range(0, width, chunk):
        here = pl.ds(start, min(chunk, width - start))
        tiles = [codes_ref[plane, :, here].astype(jnp.int32) for plane in range(layout.byte_planes)]
        pattern = None if pattern_ref is None else pattern_ref[:, here].astype(jnp.int32)
        factor = None if layout.group is None else _spread(scale_ref[0], layout, start, tiles[0].shape)
        for plane, level in enumerate(decode(layout, tiles, pattern)):
            weights = level if factor is None else level * factor
            total_ref[...] += lax.dot_general(
                x_ref[plane, :, here],
                weights.astype(jnp.bfloat16),
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.float32,
            )

    @pl.when(pl.program_id(2) == steps - 1)
    def _finish() -> None:
        total = total_ref[...]
        y_ref[...] = (total if layout.group is not None else total * scale_ref[...]).astype(y_ref.dtype)


def _spread(scale: Array, layout: Layout, start: int, shape: tuple[int, ...]) -> Array:
    """Scale of each of the columns from `start`, out of the scales (outputs, groups) of a block."""
    assert layout.group is not None
    per_group = layout.group // layout.values
    first, last = start // per_group, (start + shape[1] - 1) // per_group
    column = start + lax.broadcasted_iota(jnp.int32, shape, 1)
    spread = jnp.broadcast_to(scale[:, first : first + 1], shape)
    for group in range(first + 1, last + 1):
        spread = jnp.where(column >= group * per_group, scale[:, group : group + 1], spread)
    return spread
