"""Activations times packed weights on Hopper (Mosaic GPU): bytes through shared memory, decoded in registers.

               columns of bytes, 16 to 64 a step, four steps in flight
             +-------------------------+
    64 out   | uint8 codes, by TMA     |  --> registers: levels (64, K of the step), bfloat16 --+
             +-------------------------+                                                        | wgmma
    B rows   | x, split by place in a  |  --> shared memory, transposed -----------------------+
             | byte, by TMA            |
             +-------------------------+      total (64, B) float32 in registers, written once a share of K

One warpgroup a block computes `OUTPUTS` outputs for a block of rows of x, over a share of K, so that the decoded
weights never leave the registers. Shares of K, the scale of every output and the transposition are left to the one XLA
operation that follows.
"""

from functools import partial

import jax
import jax.numpy as jnp
from capscale.kernels.hopper import COMPILER_PARAMS, interpreter, swizzled
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from .layout import Layout, Weights, decode, split_inputs

OUTPUTS = 64  # rows of a wgmma
COLUMNS = (64, 32, 16)  # of bytes in a step: 128, 64 or 32 bytes of x, the widths of a swizzle
ROWS = 128  # of x in a block; half where eight planes of x share a column
ROW_UNIT = 8  # columns of a wgmma
BLOCKS = 128  # to be in flight: about the multiprocessors of a Hopper chip
STAGES = 4  # steps in flight, as far as shared memory goes
SHARED = 192 * 1024  # bytes of shared memory for them, of the 227 KiB of a Hopper block


def column_step(layout: Layout) -> int | None:
    """Columns of one step, in whole groups or inside one; None where nothing fits."""
    per_group = _columns_per_group(layout)
    fits = (n for n in COLUMNS if layout.columns % n == 0 and (per_group % n == 0 or n % per_group == 0))
    return next(fits, None)


def unsupported(x: Array, weights: Weights) -> str | None:
    """Why this kernel cannot run, or None."""
    outputs, layout = weights.shape[0], weights.layout
    if x.dtype != jnp.bfloat16:
        return f"x is {x.dtype}; the kernel multiplies bfloat16"
    if outputs % OUTPUTS:
        return f"{OUTPUTS} does not divide the {outputs} outputs"
    if column_step(layout) is None:
        return f"{COLUMNS[-1]} columns of {layout.values} values do not divide the width {layout.width}, or its groups"
    return None


def matmul(x: Array, weights: Weights, dtype: jnp.dtype | None = None, interpret: bool = False) -> Array:
    """As `reference.matmul`, for bfloat16 x."""
    codes, pattern, scale, layout = weights.codes, weights.pattern, weights.scale, weights.layout
    rows, outputs = x.shape[0], codes.shape[1]
    width = column_step(layout)
    assert width is not None
    row_block = min(pl.cdiv(rows, ROW_UNIT) * ROW_UNIT, ROWS if layout.values < 8 else ROWS // 2)
    padded = pl.cdiv(rows, row_block) * row_block
    x = split_inputs(jnp.pad(x, ((0, padded - rows), (0, 0))), layout.values)
    blocks = (padded // row_block, outputs // OUTPUTS)
    steps = layout.columns // width
    shares = _shares(steps, blocks[0] * blocks[1])
    operands = [x, codes] if pattern is None else [x, codes, pattern]
    grouped = layout.group is not None
    totals = plgpu.kernel(
        partial(_kernel, layout=layout, interpret=interpret, row_block=row_block, width=width, steps=steps // shares),
        out_type=jax.ShapeDtypeStruct((shares, outputs, padded), jnp.float32),
        grid=(*blocks, shares),
        grid_names=("rows", "outputs", "share"),
        scratch_types=[
            plgpu.SMEM((OUTPUTS, row_block), jnp.float32),
            *([plgpu.SMEM((OUTPUTS, width), x.dtype)] if interpret else []),
        ],
        compiler_params=COMPILER_PARAMS,
        interpret=interpreter(interpret),
    )(*operands, *([scale.T] if grouped else []))
    y = jnp.sum(totals, axis=0)[:, :rows].T
    return (y if grouped else y * scale.T).astype(dtype or x.dtype)


def _columns_per_group(layout: Layout) -> int:
    return layout.columns if layout.group is None else layout.group // layout.values


def _spread(scale_smem, layout: Layout, width: int) -> Array:
    """Scale of every output and column of a step, out of the scales (groups, OUTPUTS) of the step."""
    shape = (OUTPUTS, width)
    column = lax.broadcasted_iota(jnp.int32, shape, 1)
    spread = lax.broadcast_in_dim(scale_smem[0], shape, (0,))
    for group in range(1, scale_smem.shape[0]):
        here = lax.broadcast_in_dim(scale_smem[group], shape, (0,))
        spread = jnp.where(column >= group * _columns_per_group(layout), here, spread)
    return spread


def _shares(steps: int, blocks: int) -> int:
    """Blocks that share K: the least divisor of the steps that fills the chip, or all steps."""
    return next((n for n in range(1, steps + 1) if steps % n == 0 and n * blocks >= BLOCKS), steps)


def _kernel(*refs, layout: Layout, interpret: bool, row_block: int, width: int, steps: int) -> None:
    grouped, sparse = layout.group is not None, layout.sparse
    *refs, w_smem = refs if interpret else (*refs, None)
    x_ref, codes_ref, *rest, y_ref, y_smem = refs
    pattern_ref = rest[0] if sparse else None
    scale_ref = rest[-1] if grouped else None
    at_rows, at_outputs, share = lax.axis_index("rows"), lax.axis_index("outputs"), lax.axis_index("share")
    row_slice = pl.ds(at_rows * row_block, row_block)
    output_slice = pl.ds(at_outputs * OUTPUTS, OUTPUTS)

    def column(step):
        return share * steps + step

    specs = [
        plgpu.BlockSpec(
            (layout.values, row_block, width), lambda k: (0, at_rows, column(k)), transforms=swizzled(width, 2)
        ),
        plgpu.BlockSpec(
            (layout.byte_planes, OUTPUTS, width), lambda k: (0, at_outputs, column(k)), transforms=swizzled(width, 1)
        ),
    ]
    inputs = [x_ref, codes_ref]
    if pattern_ref is not None:
        specs.append(
            plgpu.BlockSpec((OUTPUTS, width), lambda k: (at_outputs, column(k)), transforms=swizzled(width, 1))
        )
        inputs.append(pattern_ref)
    if scale_ref is not None:
        per_group = _columns_per_group(layout)
        groups, steps_per_group = max(1, width // per_group), max(1, per_group // width)
        specs.append(plgpu.BlockSpec((groups, OUTPUTS), lambda k: (column(k) // steps_per_group, at_outputs)))
        inputs.append(scale_ref)

    def accumulate(total_ref):
        def step(_, x_smem, codes_smem, *more):
            tiles = [codes_smem[plane].astype(jnp.int32) for plane in range(layout.byte_planes)]
            pattern = more[0][...].astype(jnp.int32) if sparse else None
            factor = _spread(more[-1], layout, width) if grouped else None
            for plane, level in enumerate(decode(layout, tiles, pattern)):
                weights = (level if factor is None else level * factor).astype(jnp.bfloat16)
                if w_smem is not None:  # jax's interpreter knows wgmma of shared memory alone
                    w_smem[...] = weights
                    weights = w_smem
                plgpu.wgmma(total_ref, weights, x_smem.at[plane].T)
                plgpu.wgmma_wait(0)

        stage = width * (2 * layout.values * row_block + (layout.byte_planes + sparse) * OUTPUTS)
        stages = min(STAGES, steps, SHARED // stage)
        plgpu.emit_pipeline(step, grid=(steps,), in_specs=specs, max_concurrent_steps=stages)(*inputs)
        return total_ref[...]

    y_smem[...] = pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef((OUTPUTS, row_block), jnp.float32))
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(y_smem, y_ref.at[share, output_slice, row_slice])
    plgpu.wait_smem_to_gmem(0)
