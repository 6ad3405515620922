"""Time of a norm and the projection behind it on TPUs, by one kernel and apart, by the schedules of their compiler.

    python scripts/tpu_norms.py                          # needs libtpu (pip install 'jax[tpu]'), no TPU
    python scripts/tpu_norms.py --json docs/benchmarks/norms-tpu.json

Estimates, not measurements: XLA's own cycles, and for kernels the cycles of their schedules or the time of their bytes,
whichever is longer. Rows in bfloat16 are normalised, rotated by 128 and projected, with the mask of the gradient.
"arithmetic" are the kernels' cycles alone.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from capscale.kernels import bundles, dispatch
from capscale.kernels.aot import compile_for_tpu
from capscale.kernels.project import Unsupported
from capscale.kernels.project.norm import normalised
from capscale.kernels.project.tpu import project as tpu
from jax import Array

from capscale.defaults import default_estimator
from capscale.formats.catalog import find
from capscale.fused import spec_of
from capscale.sweep.estimate import estimate
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import CHIPS, Slice

EPSILON = 1e-5
SHAPES = ((16384, 640), (4096, 4096))
"""Of the queries' input at 30M, and of the square that other tables have."""


def times(chip: str, format: str, shape: tuple[int, int], folder: Path) -> dict[str, float]:
    """Estimated microseconds of both, apart and by one kernel."""
    of = find(format)
    spec = spec_of(of, default_estimator(of, rotated=True), 128)
    assert not isinstance(spec, Unsupported), spec
    x, gain = (jax.ShapeDtypeStruct(*args) for args in ((shape, jnp.bfloat16), (shape[1:], jnp.float32)))

    def apart(x: Array, gain: Array) -> Any:
        return tpu.project(spec, normalised(EPSILON, x, gain))

    def together(x: Array, gain: Array) -> Any:
        return tpu.project(spec, x, norm=(EPSILON, gain))

    found = {}
    for name, program in (("apart", apart), ("together", together)):
        for written in folder.iterdir():
            written.unlink()
        with dispatch.target("tpu", chip=chip):
            schedule = read_schedule(compile_for_tpu(chip, program, x, gain).as_text(), 1)
        found[f"{name}_us"] = round(1e6 * estimate(schedule, Slice(chip, "2x2"), 4, folder).step, 1)
        files = bundles.schedules(folder)
        cycles = sum(bundles.cycles(files[kernel.name].read_text()) for kernel in schedule.kernels)
        found[f"{name}_arithmetic_us"] = round(1e6 * cycles / CHIPS[chip].clock, 1)
    return found


def main() -> None:
    """Prints a row for each chip, format and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--chips", nargs="+", default=["v5e", "v6e"], choices=["v5e", "v6e"])
    parser.add_argument("--formats", nargs="+", default=["int4"])
    arguments = parser.parse_args()
    folder = bundles.folder()
    assert folder is not None, "libtpu was loaded before it could be told to write schedules"
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"jax": jax.__version__, "libtpu": version("libtpu"), "python": sys.version.split()[0]},
        "command": " ".join(["python", *sys.argv]),
    }
    print(f"by schedules of libtpu {about['versions']['libtpu']}; estimates, nothing was run")
    print("chip  format          rows  values   apart us  arithmetic   one kernel us  arithmetic")
    table: list[dict[str, Any]] = []
    for chip in arguments.chips:
        for format in arguments.formats:
            for shape in SHAPES:
                found = times(chip, format, shape, folder)
                table.append({"chip": chip, "format": format, "rows": shape[0], "width": shape[1], **found})
                apart, alone, together, kernel = found.values()
                told = f"{chip:5s} {format:12s} {shape[0]:7d} {shape[1]:7d}"
                print(f"{told} {apart:10.1f} {alone:11.1f} {together:15.1f} {kernel:11.1f}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**about, "results": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
