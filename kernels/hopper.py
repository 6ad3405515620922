"""What the GPU kernels share: Mosaic GPU's settings, and its interpreter.

The lowering that is asked for, "Warpgroup", infers how values lie in registers.
"""

from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

COMPILER_PARAMS = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup)

SMALLEST_SWIZZLE = 32  # bytes


def interpreter(interpret: bool) -> Any:
    """What `plgpu.kernel(interpret=...)` takes to run on the host, simulating shared memory, threads and barriers."""
    if not interpret:
        return None
    if jax.__version_info__ >= (0, 12):
        return plgpu.InterpretGPUParams()  # pyright: ignore[reportAttributeAccessIssue]
    # Before 0.12 jax had the same class without a public name.
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()


def swizzled(columns: int, itemsize: int) -> tuple[plgpu.TilingTransform, plgpu.SwizzleTransform] | tuple[()]:
    """How rows of `columns` values lie in shared memory, as wgmma reads them without bank conflicts.

    Rows below 32 bytes lie as they come.
    """
    if columns * itemsize < SMALLEST_SWIZZLE:
        return ()
    swizzle = plgpu.find_swizzle(columns * itemsize * 8)
    return plgpu.TilingTransform((8, swizzle // itemsize)), plgpu.SwizzleTransform(swizzle)
