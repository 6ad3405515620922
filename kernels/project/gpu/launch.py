"""Kernels on Hopper (Mosaic GPU) that hold whole rows in shared memory, a block after the other.

    memory --TMA--> rows of a block --in registers, strip by strip, and back--> --TMA--> memory
                     ^ those of the next block arrive in a second buffer meanwhile

Blocks of the grid stay, and take one block of rows after the other; matrices are loaded once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ...hopper import COMPILER_PARAMS, ROWS, interpreter, swizzled
from ...ptxas import RESERVED, SHARED
from .cut import TILE, Interleave
from .rows import Operand, Rows, copies, held, move, output, size_of
from .tiles import Tiles, matrix

BLOCK_SHARED = 227 * 1024  # bytes of shared memory that a block may have
MULTIPROCESSORS = 132  # of an H100 or H200; on a chip with more, some have no block
BLOCKS = 4  # that a multiprocessor works on at once, where shared memory holds as many


class Memory(NamedTuple):
    """Shared memory of a kernel.

    Attributes:
      held: by name: "in0" and so on, of every buffer; "out0" and so on; what was asked for; barriers.
      stages: buffers of what is read.
      blocks: that a multiprocessor has room for, `BLOCKS` at most.
    """

    held: dict[str, Any]
    stages: int
    blocks: int

    @classmethod
    def of(cls, once: dict[str, Any], read: dict[str, Operand], rows: Rows, interleave: Interleave) -> "Memory":
        """A second buffer of what is read, unless a multiprocessor then has room for one block in place of two."""
        alone = sum(size_of(of) for of in once.values())
        buffer = sum(size_of(held(of.shape(rows.block), of, interleave)) for of in read.values())
        stages = 2 if _resident(alone + 2 * buffer) >= min(2, _resident(alone + buffer)) else 1
        buffers = {name: held((stages, *of.shape(rows.block)), of, interleave) for name, of in read.items()}
        arrivals = sum(copies(of, rows.block) for of in read.values())
        loaded = plgpu.Barrier(num_arrivals=arrivals, num_barriers=stages)
        blocks = min(BLOCKS, max(1, _resident(alone + stages * buffer)))
        return cls(once | buffers | {"loaded": loaded, "ready": plgpu.Barrier()}, stages, blocks)


def _resident(shared: int) -> int:
    """Blocks of so many bytes that a multiprocessor holds."""
    return SHARED // (shared + RESERVED)


def call(
    body: partial[None],
    operands: list[Operand],
    outputs: list[Operand],
    *,
    rows: Rows,
    interleave: Interleave,
    rotation: int | None,
    gathers: bool,
    scratch: dict[str, Any],
    interpret: bool,
) -> Any:
    """`body(tiles, operands, outputs)` on every block of rows: references of shared memory, or of memory.

    The first output is written in place of the first operand where it is of its kind and dtype. `scratch`: what the
    body asks for by name, `plgpu.SMEM`. `gathers`: whether it brings interleaved columns of rotated tiles back.
    """
    dtype, count = operands[0].array.dtype, len(operands)
    matrices = {"matrix": matrix(rotation, interleave.factor)} if rotation or interleave.interleaved else {}
    if rotation and interleave.interleaved and gathers:
        matrices["order"] = matrix(None, interleave.factor)
    in_place = outputs[0].kind == "tiles" and outputs[0].array == dtype
    own = outputs[1:] if in_place else outputs
    once = scratch | {name: plgpu.SMEM((TILE, TILE), jnp.bfloat16, transforms=swizzled(TILE, 2)) for name in matrices}
    once |= {f"out{i}": held(of.shape(rows.block), of, interleave) for i, of in enumerate(own)}
    if interpret:
        once |= {f"piece{n}": plgpu.SMEM((ROWS, n), jnp.bfloat16) for n in (ROWS, TILE)}
    read = {f"in{i}": of for i, of in enumerate(operands) if of.kind != "memory"}
    memory = Memory.of(once, read, rows, interleave)
    grid = min(rows.blocks, MULTIPROCESSORS * memory.blocks)

    def kernel(*refs: Any, loaded: Any, ready: Any, **smem: Any) -> None:
        first, ends = lax.axis_index("block"), refs[count + len(matrices) :]
        for ref, name in zip(refs[count:], matrices, strict=False):
            plgpu.copy_gmem_to_smem(ref, smem[name], ready)
            plgpu.barrier_wait(ready)
        pieces = {n: smem[f"piece{n}"] for n in (ROWS, TILE)} if interpret else {}
        tiles = Tiles(interleave, rows.block, rotation, dtype, smem, pieces)
        inputs = dict(zip((f"in{i}" for i in range(count)), refs, strict=False))

        def load(at: Any, stage: Any) -> None:
            for name, of in read.items():
                there, here = inputs[name], smem[name].at[stage]
                move(of, rows, at, memory=there, smem=here, barrier=loaded.at[stage])

        def one(trip: Any, carry: Any) -> Any:
            at, stage = first + trip * grid, lax.rem(trip, memory.stages)
            plgpu.barrier_wait(loaded.at[stage])
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # what was written before has left
            if memory.stages > 1:
                pl.when(at + grid < rows.blocks)(lambda: load(at + grid, lax.rem(trip + 1, memory.stages)))
            given = [smem[name].at[stage] if name in read else ref for name, ref in inputs.items()]
            results = [*([given[0]] if in_place else []), *(smem[f"out{i}"] for i in range(len(own)))]
            body(tiles, given, results)
            plgpu.commit_smem()
            for ref, end, of in zip(results, ends, outputs, strict=True):
                move(of, rows, at, memory=end, smem=ref)
            if memory.stages == 1:
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                pl.when(at + grid < rows.blocks)(lambda: load(at + grid, 0))
            return carry

        load(first, 0)
        lax.fori_loop(0, lax.div(rows.blocks - first + grid - 1, grid), one, jnp.int32(0))
        plgpu.wait_smem_to_gmem(0)

    kernel.__name__ = f"capscale{body.func.__name__}"  # by which compilers and profilers name it
    return plgpu.kernel(
        kernel,
        out_type=tuple(output(of, rows) for of in outputs),
        grid=(grid,),
        grid_names=("block",),
        scratch_types=memory.held,
        compiler_params=COMPILER_PARAMS,
        interpret=interpreter(interpret),
    )(*(of.array for of in operands), *matrices.values())
