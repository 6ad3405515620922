"""Value and gradient of projections in a loop on the device: the kernel, XLA's reference, and the least bytes.

What one pass gives is what the next one takes, values and gradients, so that nothing waits for the host and no other
operation stands between. The copy whose speed the least bytes are held to runs in the same process, on an array that no
cache holds; at 4096 x 4096 a bfloat16 matrix is 32 MiB, of which a Hopper's L2 holds part.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from capscale.kernels.project import project
from capscale.kernels.project.mask import mask_bytes
from capscale.kernels.project.op import BackendChoice
from device_kernels import differences, given_numbers, kernel_of, normal, spec_named
from device_plan import REHEARSE
from device_where import copy_speed, seconds
from jax import Array

SIZE = 256 if REHEARSE else 4096
ROWS = 8 if REHEARSE else SIZE
PASSES = 2 if REHEARSE else 32


def prepare(case: str, row: dict[str, Any]) -> Callable[[], None]:
    """Both loops of a case, compiled; what is given measures them."""
    name, dtype = case.rsplit(" ", 1)
    spec = spec_named(name)
    x = jax.ShapeDtypeStruct((ROWS, SIZE), jnp.dtype(dtype))

    def compiled(how: BackendChoice) -> Any:
        def once(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            given = given_numbers(spec, ROWS)
            y, pull = jax.vjp(lambda x: project(spec, x, given, how), carry[0])
            return y, pull(carry[1])[0]

        return jax.jit(lambda x, g: jax.lax.fori_loop(0, PASSES, once, (x, g), unroll=2)).lower(x, x).compile()

    least = 4 * ROWS * SIZE * x.dtype.itemsize + (2 * ROWS * mask_bytes(SIZE) if spec.mask is not None else 0)
    return partial(_measure, compiled(kernel_of(spec, x)), compiled(BackendChoice("reference")), least, x, row)


def _measure(kernel: Any, plain: Any, least: int, like: Any, row: dict[str, Any]) -> None:
    operands = [normal(like.shape, like.dtype, seed) for seed in (2, 3)]
    reference = seconds(plain, *operands) / PASSES  # first: a kernel that fails leaves it
    row["reference_us"] = 1e6 * reference
    taken, copied = seconds(kernel, *operands) / PASSES, copy_speed()
    row |= {
        "us": 1e6 * taken,
        "least_us": 1e6 * least / copied,
        "of_copy": least / taken / copied,
        "over_reference": reference / taken,
        "value": differences(kernel(*operands)[0], plain(*operands)[0]),
        "copy_bytes_per_s": copied,
    }
