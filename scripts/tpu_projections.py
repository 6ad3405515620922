"""Cycles of the projection kernels for TPUs by their schedules, against the least that their bytes take.

    python scripts/tpu_projections.py                      # needs libtpu (pip install 'jax[tpu]'), no TPU
    python scripts/tpu_projections.py --json projections-tpu.json

Estimates, not measurements: libtpu compiles forward kernels, masks included, and what is counted are the bundles of
their schedules, a lower bound of their time (`capscale.kernels.bundles`). The least is every value read and written
once at the chip's bandwidth.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from about import about
from capscale.kernels import costs
from capscale.kernels.chips import TPUS
from capscale.kernels.project import Spec, Unsupported

from capscale.defaults import default_estimator
from capscale.formats.catalog import find
from capscale.fused import spec_of

FORMATS = (
    ("int4", None, False),
    ("int4", 128, False),
    ("int4", 128, True),
    ("int4-g32", None, False),
    ("mxfp4", 128, False),
    ("2:4+int4", 128, True),
    ("higgs-d2-n16", 128, True),
)
"""A format, by how many values it is rotated, and whether back."""


def cases(only: list[str] | None) -> Iterator[tuple[str, Spec]]:
    """Name and specification of every projection."""
    for format, rotation, back in FORMATS:
        if only and format not in only:
            continue
        of = find(format)
        spec = spec_of(of, default_estimator(of, rotated=rotation is not None), rotation, back)
        assert not isinstance(spec, Unsupported), spec
        turned = f" + H{rotation}{', back' if back else ''}" if rotation else ""
        yield f"{format}{turned}", spec


def main() -> None:
    """Prints a row for each chip, format and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--shape", type=int, nargs=2, default=(4096, 4096))
    parser.add_argument("--chips", nargs="+", default=list(costs.CHIPS), choices=list(costs.CHIPS))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    parser.add_argument("--formats", nargs="+", choices=sorted({name for name, *_ in FORMATS}))
    arguments = parser.parse_args()
    shape = tuple(arguments.shape)
    made = {**about("jax", "libtpu"), "shape": shape}
    print(f"{shape[0]} x {shape[1]}, by schedules of libtpu {made['versions']['libtpu']}; estimates, nothing was run")
    print("chip  format                   dtype        cycles      us   least us   times the least")
    table: list[dict[str, Any]] = []
    for chip in arguments.chips:
        for name, spec in cases(arguments.formats):
            for dtype in arguments.dtypes:
                kernel, _, copy = costs.of_projection(spec, chip, shape, dtype)
                count, us, least = kernel.cycles, 1e6 * kernel.cycles / TPUS[chip].clock, 1e6 * copy
                print(
                    f"{chip:5s} {name:24s} {dtype:9s} {count:9d} {us:7.0f} {least:10.0f} {us / least:17.2f}", flush=True
                )
                row = {"chip": chip, "format": name, "dtype": dtype, "cycles": count}
                table.append({**row, "us": round(us, 1), "least_us": round(least, 1), "times": round(us / least, 2)})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**made, "results": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
