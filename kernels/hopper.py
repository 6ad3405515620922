"""Settings of Mosaic GPU that the kernels share, its interpreter, and the square root that it does not have.

The lowering that is asked for, "Warpgroup", infers how values lie in registers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu

COMPILER_PARAMS = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup)

ROWS = 64  # of a wgmma
SMALLEST_SWIZZLE = 32  # bytes


def interpreter(interpret: bool) -> Any:
    """Argument of `plgpu.kernel(interpret=...)` to run on the host, simulating shared memory, threads and barriers."""
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


def sqrt(x: Array) -> Array:
    """Square root of float32 `x` >= 0, correctly rounded, as XLA's is; zero, subnormals, inf and NaN stay.

    Mosaic GPU has only rsqrt, accurate to a few units in the last place. A Newton step on the exact remainder
    leaves less than one, and comparing the remainder with the neighbours' decides (Tuckerman's test:
    r rounds sqrt(z) where r pred(r) < z <= r succ(r)).
    """
    pattern = lax.bitcast_convert_type(x, jnp.int32)
    half = lax.shift_right_arithmetic(lax.shift_right_logical(pattern, jnp.int32(23)) - 127, jnp.int32(1))
    z = lax.bitcast_convert_type(pattern - lax.shift_left(half, jnp.int32(24)), jnp.float32)  # 1 to 4
    z = jnp.where((x > 0) & (x < jnp.inf), z, 1.0)
    inverse = lax.rsqrt(z)
    root = z * inverse
    root = root + 0.5 * _remainder(z, root) * inverse
    rest, bits = _remainder(z, root), lax.bitcast_convert_type(root, jnp.int32)
    above, below = (lax.bitcast_convert_type(bits + step, jnp.float32) for step in (1, -1))
    bits = bits + (rest > root * (above - root)).astype(jnp.int32) - (rest <= root * (below - root)).astype(jnp.int32)
    found = lax.bitcast_convert_type(bits + lax.shift_left(half, jnp.int32(23)), jnp.float32)
    normal = (x >= jnp.finfo(jnp.float32).tiny) & (x < jnp.inf)
    return jnp.where(normal, found, x)


def _remainder(z: Array, root: Array) -> Array:
    """`z - root^2`, exact for a root that is a few units in the last place off: halves of 12 bits multiply exactly."""
    high = lax.bitcast_convert_type(lax.bitcast_convert_type(root, jnp.int32) & jnp.int32(-(1 << 12)), jnp.float32)
    low = root - high
    return ((z - high * high) - 2.0 * high * low) - low * low
