"""Resources of the projection kernels for Hopper by ptxas, and bytes that they and XLA's reference move.

    python scripts/hopper_projections.py                      # needs no GPU, but the compilers (see below)
    python scripts/hopper_projections.py --json docs/benchmarks/projections-hopper.json

No times: nothing is run. Kernels are compiled for an H100, forward with the mask and, in bfloat16, codes; ptxas tells
registers, spills and shared memory, and with them how many blocks a multiprocessor holds at once. Bytes are those that
XLA's optimised program reads and writes for value and gradient, by the kernels and by the reference, which runs where
kernels do not; the least is rows, cotangents and both results once.

The compilers are PyPI's: jax-cuda13-plugin and jax-cuda13-pjrt of jax's version, nvidia-cuda-nvcc, nvidia-nvvm,
nvidia-nvjitlink and nvidia-cuda-nvdisasm, as seen on Python 3.12 with jax 0.11.2.
"""

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # there may be a plugin without a GPU, which jax would ask for one

import jax
import jax.numpy as jnp
from capscale.kernels import costs, ptxas
from capscale.kernels.aot import WHEELS, Unavailable, hopper_devices
from capscale.kernels.dispatch import Backend
from capscale.kernels.project import Spec, Unsupported, op
from jax import Array

from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.formats.catalog import find
from capscale.formats.pattern import NM
from capscale.fused import spec_of
from capscale.sweep import hlo
from capscale.sweep.work import work

RUNS_OF_16 = "4:16"
"""Beside the catalog's names: 4 of 16 stay, the longest run that the kernel takes."""
ROTATED, BACK = "+h128", "+h128+back"
FORMATS = (
    *("int4", "int4+h128", "int4+h128+back", "int4-g32", "mxfp4", "nvfp4", "e2m1"),
    *("2:4", "2:4+int4", "2:4+int4+h128", RUNS_OF_16, "higgs-d2-n16"),
)
MOVED = ("int4", "int4+h128+back", "2:4+int4+h128+back", "mxfp4+h128+back")
BACKENDS: tuple[Backend, ...] = ("gpu", "reference")
NOTHING = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
"""Instructions that move nothing."""


def spec_named(name: str) -> Spec:
    """The projection of a format, rotated by 128 where the name ends so, and back."""
    rotated, back = ROTATED in name, name.endswith(BACK)
    plain = name.removesuffix(BACK).removesuffix(ROTATED)
    format = NM(4, 16) if plain == RUNS_OF_16 else find(plain)
    spec = spec_of(format, default_estimator(format, rotated), 128 if rotated else None, back)
    assert not isinstance(spec, Unsupported), spec
    return spec


def moved(spec: Spec, shape: tuple[int, int], backend: Backend) -> dict[str, Any]:
    """Bytes of value and gradient in bfloat16, how many kernels are launched for them, and times the least."""

    def both(x: Array, g: Array) -> tuple[Array, Array]:
        value, pull = jax.vjp(lambda x: op.project(spec, x, None, op.BackendChoice(backend)), x)
        return value, pull(g)[0]

    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    text = hlo.parse(ptxas.compiled(both, x, x).program.as_text())
    lines = text.lines[text.entry]
    sizes = {line.name: line.result for line in lines}
    launched = [line for line in lines if line.op not in NOTHING]
    total, least = sum(work(line, 0, 1, sizes, text).bytes for line in launched), 4 * x.size * x.dtype.itemsize
    return {"launches": len(launched), "bytes": int(total), "least_bytes": least, "times": round(total / least, 2)}


def main() -> None:
    """Prints a row for every kernel of each format and dtype, and for each reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--shape", type=int, nargs=2, default=(4096, 4096))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--bytes", nargs="*", default=list(MOVED), choices=MOVED, help="formats whose bytes are told")
    arguments = parser.parse_args()
    shape = tuple(arguments.shape)
    try:
        hopper_devices()
    except Unavailable as reason:
        raise UserError(f"kernels cannot be compiled for Hopper here: {reason}") from reason
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in ("jax", *WHEELS)}},
        "command": " ".join(["python", *sys.argv]),
        "shape": shape,
    }
    print(f"{shape[0]} x {shape[1]}, by ptxas {version('nvidia-cuda-nvcc')} for sm_90a; nothing was run")
    print(
        "format            dtype     op       kernel      registers  spilled bytes  shared  blocks  serialised    PTX"
    )
    kernels, found = [], []
    for name in arguments.formats:
        for dtype in arguments.dtypes:
            for row in rows(name, shape, dtype):
                kernels.append(row)
                print(
                    f"{name:17s} {dtype:9s} {row['op']:8s} {row['kernel']:10s} {row['registers']:10d} "
                    f"{row['stored']:7d}{row['loaded']:7d} {row['shared']:8d} {row['blocks']:6d} "
                    f"{row['serialised']:10d} {row['instructions']:8d}",
                    flush=True,
                )
    for name in arguments.bytes:
        for backend in BACKENDS:
            row = {"format": name, "dtype": "bfloat16", "by": backend, **moved(spec_named(name), shape, backend)}
            found.append(row)
            print(f"{name} by {backend}: {row['launches']} launches, {row['times']} times the least bytes", flush=True)
    if arguments.json:
        text = json.dumps({**about, "kernels": kernels, "moved": found}, indent=1)
        Path(arguments.json).write_text(text + "\n")


def rows(name: str, shape: tuple[int, int], dtype: str) -> list[dict[str, Any]]:
    """Resources of every kernel of a projection, and of its codes in bfloat16."""
    spec, found = spec_named(name), []
    ops: list[op.Op] = ["project", "encode"] if spec.grid is not None and spec.pattern is None else ["project"]
    for of in ops if dtype == "bfloat16" else ops[:1]:
        for kernel, resources in costs.on_hopper(spec, shape, jnp.dtype(dtype), of).items():
            counted = {**resources._asdict(), "blocks": resources.blocks}
            row = {"format": name, "dtype": dtype, "op": of, "kernel": kernel.removeprefix("capscale_"), **counted}
            found.append(row)
    return found


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
