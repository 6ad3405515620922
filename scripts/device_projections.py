"""Value and gradient of projections in a loop on the device: the kernel, XLA's reference, and the least bytes.

What one pass gives is what the next one takes, values and gradients, so that nothing waits for the host and no other
operation stands between. The copy whose speed the least bytes are held to runs in the same process, on an array that no
cache holds; at 4096 x 4096 a bfloat16 matrix is 32 MiB, of which a Hopper's L2 holds part.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from capscale.kernels.project import project
from capscale.kernels.project.mask import mask_bytes
from capscale.kernels.project.op import How
from device_kernels import differences, given_numbers, kernel_of, normal, spec_named
from device_plan import REHEARSE
from device_where import copy_speed, seconds
from jax import Array

SIZE = 256 if REHEARSE else 4096
ROWS = 8 if REHEARSE else SIZE
PASSES = 2 if REHEARSE else 32


def loops(case: str) -> tuple[dict[str, Any], tuple[Array, Array], int]:
    """Both loops, not compiled; what they start from; and the least bytes of a pass."""
    name, dtype = case.rsplit(" ", 1)
    spec = spec_named(name)
    x, g = (normal((ROWS, SIZE), jnp.dtype(dtype), seed) for seed in (2, 3))
    given = given_numbers(spec, ROWS)

    def loop(how: How) -> Any:
        def once(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            y, pull = jax.vjp(lambda x: project(spec, x, given, how), carry[0])
            return y, pull(carry[1])[0]

        return jax.jit(lambda x, g: jax.lax.fori_loop(0, PASSES, once, (x, g), unroll=2))

    least = 4 * x.nbytes + (2 * ROWS * mask_bytes(SIZE) if spec.mask is not None else 0)
    return {"kernel": loop(kernel_of(spec, x)), "reference": loop(How("reference"))}, (x, g), least


def ahead(case: str, row: dict[str, Any]) -> None:
    """Compiles the case."""
    found, operands, _ = loops(case)
    for loop in found.values():
        loop.lower(*operands).compile()


@cache
def copied() -> float:
    """Speed of a copy, once a process."""
    return copy_speed()


def run(case: str, row: dict[str, Any]) -> None:
    """One case measured; the reference first, so that a kernel that fails leaves its time."""
    found, operands, least = loops(case)
    times, results = {}, {}
    for what in ("reference", "kernel"):
        loop = found[what].lower(*operands).compile()
        times[what] = seconds(loop, *operands) / PASSES
        results[what] = loop(*operands)
        row["reference_us" if what == "reference" else "us"] = 1e6 * times[what]
    row |= {
        "least_us": 1e6 * least / copied(),
        "of_copy": least / times["kernel"] / copied(),
        "over_reference": times["reference"] / times["kernel"],
        "value": differences(results["kernel"][0], results["reference"][0]),
        "copy_bytes_per_s": copied(),
    }
