"""Activations times packed weights on a TPU: bytes are read once, decoded in VMEM, multiplied on the MXU.

               K inputs                            K
             +----------+                    +-----------+
    R rows   | 64 to 256|  x      F outputs  | 128 to 512|   uint8 codes: `values` inputs a byte, see `layout`
             |  x 2048  |                    |  x 2048   |   a block in VMEM, decoded 128 or 256 columns at a time
             +----------+                    +-----------+
                              -->  (rows, outputs) float32 in VMEM, written once the last block of K is added

The grid walks (rows of x, outputs, K); K is innermost and accumulates. Decoding chunks of columns bounds the float32
temporaries.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..vmem import SPILLED, VMEM
from .layout import Layout, Weights, decode

LANES = 128
ROWS = (256, 128, 64)  # of x in a block: the most that fit
OUTPUTS = (512, 256, 128)  # in a block, likewise
MOST_GROUPS = 32  # that a chunk of columns may touch: their scales are spread by a select each
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


def vmem_bytes(layout: Layout, row_block: int, output_block: int) -> int:
    """VMEM of the kernel: inputs, codes, patterns, scales and outputs twice, sums, and decoded weights of a chunk."""
    width = column_block(layout)
    assert width is not None

    def tile(rows: int, columns: int, itemsize: int) -> int:
        """Bytes of a block as it lies in registers of 4 KiB."""
        return pl.cdiv(rows, 32 // itemsize) * (32 // itemsize) * pl.cdiv(columns, LANES) * LANES * itemsize

    moved = layout.values * tile(row_block, width, 2) + (layout.byte_planes + layout.sparse) * tile(
        output_block, width, 1
    )
    groups = None if layout.group is None else width * layout.values // layout.group
    moved += tile(1 if groups is None else groups, output_block, 4)
    total = tile(row_block, output_block, 4)
    decoded = (layout.values if layout.sparse else 2) * tile(output_block, chunk_of(layout), 4)
    turned = 0 if groups is None else tile(output_block, groups, 4)
    return 2 * (moved + total) + total + decoded + turned


def blocks(layout: Layout, rows: int, outputs: int) -> tuple[int, int] | None:
    """Rows of x and outputs of a block: the most that fit into VMEM; None where none do."""
    choices = ((min(rows, r), min(outputs, o)) for o in OUTPUTS for r in ROWS)
    return next((choice for choice in choices if vmem_bytes(layout, *choice) + SPILLED <= VMEM), None)


def chunk_of(layout: Layout) -> int:
    """Columns that are decoded at a time."""
    return LANES if layout.group is not None else 2 * LANES


def unsupported(x: Array, weights: Weights) -> str | None:
    """Why this kernel cannot run, or None."""
    layout = weights.layout
    if x.dtype != jnp.bfloat16:
        return f"x is {x.dtype}; the kernel multiplies bfloat16"
    if column_block(layout) is None:
        return f"no multiple of {LANES} columns of {layout.values} values divides the width {layout.width} in groups"
    if layout.group is not None and chunk_of(layout) * layout.values > MOST_GROUPS * layout.group:
        return f"{chunk_of(layout)} columns of {layout.values} values have over {MOST_GROUPS} groups of {layout.group}"
    if blocks(layout, x.shape[0], weights.shape[0]) is None:
        return f"a block of {column_block(layout)} columns of {layout.values} values does not fit into {VMEM >> 20} MiB"
    return None


def matmul(x: Array, weights: Weights, dtype: jnp.dtype | None = None, interpret: bool = False) -> Array:
    """As `reference.matmul`, for bfloat16 x."""
    codes, pattern, scale, layout = weights.codes, weights.pattern, weights.scale, weights.layout
    rows, outputs = x.shape[0], codes.shape[1]
    width = column_block(layout)
    assert width is not None
    steps = layout.columns // width
    chosen = blocks(layout, rows, outputs)
    assert chosen is not None
    row_block, output_block = chosen
    # Inputs apart, one operand for each value of a byte: stacked, XLA would write and read them once more.
    operands = [*(x[:, place :: layout.values] for place in range(layout.values)), codes]
    specs = [
        *[pl.BlockSpec((row_block, width), lambda i, j, k: (i, k))] * layout.values,
        pl.BlockSpec((layout.byte_planes, output_block, width), lambda i, j, k: (0, j, k)),
    ]
    if pattern is not None:
        operands.append(pattern)
        specs.append(pl.BlockSpec((output_block, width), lambda i, j, k: (j, k)))
    if layout.group is None:
        operands.append(scale.reshape(1, outputs))
        specs.append(pl.BlockSpec((1, output_block), lambda i, j, k: (0, j)))
    else:  # a block of scales for every block of columns; outputs last, as rows of few groups would be read padded
        groups = scale.shape[1] // steps
        operands.append(scale.T.reshape(steps, groups, outputs))
        specs.append(pl.BlockSpec((1, groups, output_block), lambda i, j, k: (k, 0, j)))
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


def _kernel(*refs, layout: Layout, sparse: bool, steps: int) -> None:
    x_refs, (codes_ref, *rest) = refs[: layout.values], refs[layout.values :]
    pattern_ref = rest[0] if sparse else None
    scale_ref, y_ref, total_ref = rest[sparse:]

    @pl.when(pl.program_id(2) == 0)
    def _start() -> None:
        total_ref[...] = jnp.zeros_like(total_ref)

    width = codes_ref.shape[-1]
    chunk = chunk_of(layout)
    scale = None if layout.group is None else scale_ref[0].T
    for start in range(0, width, chunk):
        here = pl.ds(start, min(chunk, width - start))
        tiles = [codes_ref[plane, :, here].astype(jnp.int32) for plane in range(layout.byte_planes)]
        pattern = None if pattern_ref is None else pattern_ref[:, here].astype(jnp.int32)
        factor = None if scale is None else _spread(scale, layout, start, tiles[0].shape)
        for plane, level in enumerate(decode(layout, tiles, pattern)):
            weights = level if factor is None else level * factor
            total_ref[...] += lax.dot_general(
                x_refs[plane][:, here],
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
