"""Memory of a TPU that compiled kernels take: every kernel, for four generations, on shapes of the ladders.

    python scripts/tpu_memory.py                       # needs libtpu (pip install 'jax[tpu]'), no TPU
    python scripts/tpu_memory.py --json memory.json

`temporary` is what XLA sets aside in HBM beside operands and results; the compiler itself refuses a kernel that
does not fit into VMEM.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from about import about
from capscale.kernels import dispatch
from capscale.kernels.aot import CHIPS, compile_for_tpu
from capscale.kernels.matmul import Layout, Weights, matmul
from capscale.kernels.project import Unsupported, encode, project
from capscale.kernels.select import largest

from capscale.defaults import default_estimator
from capscale.formats.catalog import find
from capscale.fused import spec_of

Case = tuple[str, Callable[..., Any], tuple[Any, ...]]


def cases() -> Iterator[Case]:
    """A kernel, its name and its operands' shapes."""
    spec = spec_of(find("int4"), default_estimator(find("int4"), rotated=True), rotation=128)
    assert not isinstance(spec, Unsupported), spec
    for width in (640, 1792, 5632):
        x = jax.ShapeDtypeStruct((8192, width), jnp.bfloat16)
        yield f"project int4+hadamard128, 8192 x {width}", lambda x: jax.vjp(lambda x: project(spec, x), x)[0], (x,)
        yield f"encode int4+hadamard128, 8192 x {width}", lambda x: encode(spec, x), (x,)
    for rows, size in ((8, 4096), (4096, 2048)):
        for sparse in (False, True):
            of = Layout(4, tuple((np.arange(16) - 7.5).tolist()), size, 128, sparse)
            codes = jax.ShapeDtypeStruct((of.byte_planes, size, of.columns), jnp.uint8)
            pattern = jax.ShapeDtypeStruct((size, of.columns), jnp.uint8) if sparse else None
            weights = Weights(codes, pattern, jax.ShapeDtypeStruct((size, size // 128), jnp.float32), of)  # pyright: ignore
            x = jax.ShapeDtypeStruct((rows, size), jnp.bfloat16)
            yield f"matmul int4-g128{' 2:4' * sparse}, {rows} x {size} x {size}", matmul, (x, weights)
    x = jax.ShapeDtypeStruct((640, 1792), jnp.float32)
    yield "select top50 of the matrix, 640 x 1792", lambda x: largest(x, 640 * 896, (-2, -1)), (x,)
    x = jax.ShapeDtypeStruct((4096, 4096), jnp.float32)
    yield "select top50 per row, 4096 x 4096", lambda x: largest(x, 2048), (x,)


def main() -> None:
    """Prints a row per kernel and generation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write")
    arguments = parser.parse_args()
    made = about("jax", "libtpu")
    print(f"compiled by libtpu {made['versions']['libtpu']}, jax {jax.__version__}, {made['date']}; MiB")
    print("chip  kernel                                         operands  results  temporary")
    table = []
    for chip in CHIPS:
        for name, run, operands in cases():
            with dispatch.force("require"), dispatch.target("tpu"):
                memory = compile_for_tpu(chip, run, *operands).memory_analysis()
            assert memory is not None
            sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
            table.append(
                {"chip": chip, "kernel": name, **dict(zip(("operands", "results", "temporary"), sizes, strict=True))}
            )
            print(
                f"{chip:5s} {name:45s} {sizes[0] / 2**20:9.2f} {sizes[1] / 2**20:8.2f} {sizes[2] / 2**20:10.2f}",
                flush=True,
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({**made, "results": table}, file, indent=1)


if __name__ == "__main__":
    main()
