"""Times the tiles of the TPU projection kernel on the chip at hand and writes the best of each width as a table.

python scripts/autotune_project.py --out tiles.json
CAPSCALE_TILES=tiles.json capscale run ...
"""

import argparse
import json
import time
from dataclasses import astuple
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from capscale.kernels.project import Unsupported
from capscale.kernels.project.tpu import project as tpu
from capscale.kernels.project.tpu.tiles import Tile, candidates, key
from capscale.kernels.testing import WIDTHS

from capscale.defaults import default_estimator
from capscale.formats.catalog import find
from capscale.fused import spec_of


def seconds(tile: Tile, x: jax.Array, repeats: int, interpret: bool) -> float:
    """Time of one projection with int4's grid, mask and rotation forth and back: the least of `repeats`."""
    format = find("int4")
    spec = spec_of(format, default_estimator(format, rotated=True), 128, True)
    assert not isinstance(spec, Unsupported)
    run = jax.jit(partial(tpu.project, spec, tile=tile, interpret=interpret))
    jax.block_until_ready(run(x))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run(x))
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Measures every candidate, prints its time and bytes per second, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the table, JSON")
    parser.add_argument("--rows", type=int, default=32768)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--interpret", action="store_true", help="try this script where there is no TPU; slow")
    arguments = parser.parse_args()
    if jax.default_backend() != "tpu" and not arguments.interpret:
        parser.error(f"the default backend is {jax.default_backend()}: tiles are measured on a TPU")
    if not arguments.out.parent.is_dir():
        parser.error(f"--out {arguments.out}: there is no directory {arguments.out.parent}")
    best: dict[str, tuple[int, ...]] = {}
    for dtype in arguments.dtypes:
        for width in arguments.widths:
            x = jax.random.normal(jax.random.key(0), (arguments.rows, width), jnp.dtype(dtype))
            times = {
                tile: seconds(tile, x, arguments.repeats, arguments.interpret) for tile in candidates(x.shape, dtype)
            }
            for tile, took in times.items():
                rate = 2 * x.nbytes / took / 1e9
                print(f"{dtype} {width} {tile.rows}x{tile.inner}: {took * 1e6:.0f} us, {rate:.0f} GB/s")
            best[key(width, dtype)] = astuple(min(times, key=times.__getitem__))
    table = {"chip": jax.devices()[0].device_kind, "rows": arguments.rows, "jax": jax.__version__, "tiles": best}
    arguments.out.write_text(json.dumps(table, indent=1) + "\n")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
