"""Our projections beside qwix's and ml_dtypes', where they define the same format: values, and training time.

    pip install qwix && python scripts/compare_fake_quant.py

Values must be equal bit for bit, but for int formats. qwix scales those so that the largest magnitude falls half
a step beyond the largest level, so both are given one RMS-based scale: the RMS is summed in another order and differs
in the last bits, which moves values that lie on a boundary. Their values count as equal within 1e-5.

Times are of a jitted forward and backward through the straight-through fake quantization of a float32 weight, ours
with its custom gradient rule, qwix's as `x + stop_gradient(q - x)`; the least of `--repeats`, the two taken in turn.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import qwix  # pyright: ignore[reportMissingImports]
from jax import Array

from capscale.estimators import StraightThrough
from capscale.formats.base import NO_CONTEXT, Format
from capscale.formats.floats import E2M1, E2M3, E3M2, E4M3, E5M2, Float
from capscale.formats.grids import Int
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, PowerOfTwo, Rms
from capscale.representation import Operand, project

CLIP = 3.0  # multiples of the RMS at which both put the bound of their int grids
GROUP = 32
Named = dict[str, tuple[Format, Callable[[Array], Array]]]


def theirs(qtype: object, method: str = "absmax", tile: int | None = None) -> Callable[[Array], Array]:
    """qwix's quantize and dequantize, one scale per row or per tile."""
    axes = {"channelwise_axes": (0,), "tiled_axes": {1: tile} if tile else None}

    def fake(x: Array) -> Array:
        return qwix.dequantize(qwix.quantize(x, qtype, calibration_method=method, **axes))

    return fake


def int_pair(bits: int) -> tuple[Format, Callable[[Array], Array]]:
    """Two's complement with qwix's bound, half a step beyond the largest level, at CLIP times the RMS."""
    top = 2 ** (bits - 1) - 1
    grid = Int(bits, "twos-complement")
    return Scalar(grid, Rms(CLIP * top / (top + 0.5))), theirs(f"int{bits}" if bits != 8 else jnp.int8, f"rms,{CLIP}")


PAIRS: Named = {
    "e2m1, absmax, row": (Scalar(E2M1, Absmax()), theirs(jnp.float4_e2m1fn)),
    "e4m3, absmax, row": (Scalar(E4M3, Absmax()), theirs(jnp.float8_e4m3fn)),
    "e5m2, absmax, row": (Scalar(E5M2, Absmax()), theirs(jnp.float8_e5m2)),
    "e2m1, absmax, group 32": (Scalar(E2M1, Absmax(), GROUP), theirs(jnp.float4_e2m1fn, tile=GROUP)),
    "mxfp4, ceil": (Scalar(E2M1, PowerOfTwo("ceil"), GROUP), theirs("mxfp4", tile=GROUP)),
    "mxfp8-e4m3, ceil": (Scalar(E4M3, PowerOfTwo("ceil"), GROUP), theirs("mxfp8", tile=GROUP)),
    "int3, RMS, row": int_pair(3),
    "int6, RMS, row": int_pair(6),
    "int8, RMS, row": int_pair(8),
}

ELEMENTS = {
    "e2m1": (E2M1, ml_dtypes.float4_e2m1fn),
    "e2m3": (E2M3, ml_dtypes.float6_e2m3fn),
    "e3m2": (E3M2, ml_dtypes.float6_e3m2fn),
    "e4m3": (E4M3, ml_dtypes.float8_e4m3fn),
    "e5m2": (E5M2, ml_dtypes.float8_e5m2),
    "e3m4": (Float(3, 4, "ieee"), ml_dtypes.float8_e3m4),
}


def training(fake: Callable[[Array], Array]) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Value of the fake-quantized weight and the gradient of its product with a cotangent."""

    def run(x: Array, g: Array) -> tuple[Array, Array]:
        value, pull = jax.vjp(fake, x)
        return value, pull(g)[0]

    return jax.jit(run)


def milliseconds(function: Callable[[Array, Array], tuple[Array, Array]], x: Array, g: Array) -> float:
    """Milliseconds of one timed call."""
    start = time.perf_counter()
    jax.block_until_ready(function(x, g))
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Prints both tables; fails where values differ that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1792)
    parser.add_argument("--columns", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.standard_normal((arguments.rows, arguments.columns)), jnp.float32) for _ in range(2))

    print("element rounding against ml_dtypes, 1e6 values inside the range:")
    for name, (grid, dtype) in ELEMENTS.items():
        top = grid.levels[-1]
        u = np.concatenate([rng.uniform(-top, top, 500_000), rng.standard_normal(500_000) * top / 64])
        u = u.astype(np.float32)
        same = np.asarray(grid.nearest(jnp.asarray(u))[0]) == u.astype(dtype).astype(np.float32)
        print(f"  {name}: {'equal' if same.all() else f'{same.mean():.6%} equal'}")
        assert same.all()

    print(f"\nqwix, {arguments.rows} x {arguments.columns} on {jax.devices()[0].device_kind}, jax {jax.__version__}:")
    print(f"  {'format':24s} {'equal values':>13s} {'ours, ms':>9s} {'qwix, ms':>9s} {'ratio':>6s}")
    for name, (format, fake) in PAIRS.items():
        operand = Operand(format, StraightThrough())
        ours = training(lambda x, operand=operand: project(operand, x, NO_CONTEXT))
        other = training(lambda x, fake=fake: x + jax.lax.stop_gradient(fake(x) - x))
        tolerance = 1e-5 if "RMS" in name else 0.0
        same = jnp.isclose(ours(x, g)[0], jax.jit(fake)(x), rtol=tolerance, atol=0.0).mean()
        other(x, g)
        times = [(milliseconds(ours, x, g), milliseconds(other, x, g)) for _ in range(arguments.repeats)]
        mine, qwixs = (min(column) for column in zip(*times, strict=True))
        print(f"  {name:24s} {float(same):13.6%} {mine:9.2f} {qwixs:9.2f} {mine / qwixs:6.2f}")
        assert float(same) == 1.0 or (tolerance and float(same) > 0.9999)


if __name__ == "__main__":
    main()
