"""Times every kernel on this machine's first device, against XLA's reference and against what the device can do.

    python scripts/bench_kernels.py                               # a table
    python scripts/bench_kernels.py --json benchmarks.json        # and JSON with date, chip, versions and command

Bytes per second stand beside a measured device copy, FLOP per second beside a measured bfloat16 product; the floor is
the least bytes that must move, over that bandwidth. Every result is compared with the reference's first. `backend` says
what ran: where a device has no kernel, that is XLA's reference, and the ratio to it is about 1.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from capscale.kernels import dispatch
from capscale.kernels.matmul import Layout, Weights, matmul
from capscale.kernels.project import Unsupported, encode, project
from capscale.kernels.project.bitplanes import plane_bytes
from capscale.kernels.project.mask import mask_bytes
from capscale.kernels.select import largest
from jax import Array

from capscale.defaults import default_estimator
from capscale.formats.catalog import find
from capscale.fused import spec_of

ROTATION = 128
HEADER = "kernel   format                     shape                      us     floor  of copy  of bf16  / XLA  / rival"
INT4 = tuple((np.arange(16) - 7.5).tolist())


class Case(NamedTuple):
    """One timing: what to run, and the least that it must move and compute."""

    kernel: str
    format: str
    shape: str
    run: Callable[..., Any]
    operands: tuple[Any, ...]
    bytes: int
    flops: int
    rival: str = ""
    rival_run: Callable[..., Any] | None = None
    rival_operands: tuple[Any, ...] = ()


def cases(large: bool) -> Iterator[Case]:
    """Projections of weights and activations, decode and prefill products, selections; smaller ones for a CPU."""
    key = jax.random.key(0)
    for width in (640, 1280, 4096) if large else (640,):
        rows = 32768 if large else 2048
        x = jax.random.normal(key, (rows, width), jnp.bfloat16)
        moved = 2 * x.nbytes + rows * mask_bytes(width)
        for name, rotation in (("int4", ROTATION), ("int4", None), ("int4-g128", None), ("e2m1", ROTATION)):
            format = find(name)
            if isinstance(
                spec := spec_of(format, default_estimator(format, rotation is not None), rotation=rotation), Unsupported
            ):
                raise ValueError(spec.reason)

            def forward(x: Array, spec: Any = spec) -> Any:
                return jax.vjp(lambda x: project(spec, x), x)

            label = name + (f"+hadamard{rotation}" if rotation else "")
            yield Case("project", label, f"{rows} x {width}", forward, (x,), moved, 0)
        yield _encoding(x)
    for rows, size in (
        ((1, 4096), (8, 4096), (64, 4096), (8, 8192), (4096, 4096)) if large else ((8, 1024), (256, 1024))
    ):
        x = jax.random.normal(key, (rows, size), jnp.bfloat16)
        dense = jax.random.normal(key, (size, size), jnp.bfloat16)
        for group, sparse in ((None, False), (128, False), (None, True)):
            of = Layout(4, INT4, size, group, sparse)
            codes = jax.random.bits(key, (of.byte_planes, size, of.columns), jnp.uint8)
            pattern = jnp.full((size, of.columns), 0x48, jnp.uint8) if sparse else None
            weights = Weights(codes, pattern, jnp.ones((size, size // group if group else 1), jnp.float32), of)
            moved = sum(a.nbytes for a in jax.tree.leaves(weights)) + 2 * x.nbytes
            label = f"int4{f'-g{group}' if group else ''}{' 2:4' * sparse}"
            flops = 2 * rows * size * size
            product = lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(x.dtype)  # noqa: E731
            yield Case(
                "matmul",
                label,
                f"{rows} x {size} x {size}",
                matmul,
                (x, weights),
                moved,
                flops,
                "bf16",
                product,
                (x, dense),
            )
    size = 4096 if large else 1024
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jax.random.normal(key, (size, size), dtype)
        for axes, scope in (((-2, -1), "matrix"), ((-1,), "row")):
            k = size * size // 2 if scope == "matrix" else size // 2

            def select(x: Array, k: int = k, axes: tuple[int, ...] = axes) -> Any:
                return largest(x, k, axes)

            def by_sort(x: Array, axes: tuple[int, ...] = axes) -> Array:
                return jnp.sort(jnp.abs(x).reshape(1, -1) if axes != (-1,) else jnp.abs(x))

            moved = x.nbytes + x.size
            label = f"top50 per {scope}, {jnp.dtype(dtype).name}"
            yield Case("select", label, f"{size} x {size}", select, (x,), moved, 0, "sort", by_sort, (x,))


def _encoding(x: Array) -> Case:
    """Codes of weights; not rotated, as the matrix unit would move values, and a byte differs where one code does."""
    rows, width = x.shape
    format = find("int4-g128")
    if isinstance(spec := spec_of(format, default_estimator(format)), Unsupported):
        raise ValueError(spec.reason)
    moved = x.nbytes + rows * (plane_bytes(width, 4) + 4 * (width // 128))
    return Case("encode", "int4-g128", f"{rows} x {width}", lambda x: encode(spec, x), (x,), moved, 0)


def seconds(run: Callable[..., Any], operands: tuple[Any, ...], budget: float) -> float:
    """Time of a call, the least of several batches of calls that queue up; compiled before."""
    jax.block_until_ready(run(*operands))
    start = time.perf_counter()
    jax.block_until_ready(run(*operands))
    once = time.perf_counter() - start
    calls = max(1, min(100, int(budget / 5 / max(once, 1e-5))))
    times = []
    for _ in range(5):
        last = None
        start = time.perf_counter()
        for _ in range(calls):
            last = run(*operands)  # those before are freed as soon as they are done: a hundred would fill a device
        jax.block_until_ready(last)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def compiled(run: Callable[..., Any], operands: tuple[Any, ...], mode: dispatch.Mode) -> tuple[Callable[..., Any], str]:
    """`run` compiled under a mode of `dispatch`, and what the log says of the choice."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage().rpartition(": ")[2])

    logger, listener = logging.getLogger("capscale.kernels"), Listener()
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        with dispatch.force(mode):
            return jax.jit(run).lower(*operands).compile(), said[-1] if said else "as before"
    finally:
        logger.removeHandler(listener)


def apart(found: Any, expected: Any) -> float:
    """Largest share, over arrays of a result, of entries that differ by more than the rounding of bfloat16."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if a.dtype in (jnp.float32, jnp.bfloat16):
            wide = b.astype(jnp.float32)
            differ = jnp.abs(a.astype(jnp.float32) - wide) > 2**-7 * jnp.max(jnp.abs(wide))
        else:
            differ = a != b
        worst = max(worst, float(jnp.mean(differ, dtype=jnp.float32)))
    return worst


def device_limits(large: bool) -> dict[str, float]:
    """Bytes per second of a copy of an array, and FLOP per second of a bfloat16 product, as XLA does them."""
    x = jnp.ones((2**28 if large else 2**24,), jnp.float32)
    copy = 2 * x.nbytes / seconds(jax.jit(lambda x: x + 1), (x,), 1.0)
    n = 8192 if large else 1024
    a = jnp.ones((n, n), jnp.bfloat16)
    return {"copy_bytes_per_s": copy, "bf16_flop_per_s": 2 * n**3 / seconds(jax.jit(lambda a: a @ a), (a,), 1.0)}


def measure(case: Case, limits: dict[str, float], budget: float) -> dict[str, Any]:
    """One row of the table."""
    run, backend = compiled(case.run, case.operands, "auto")
    plain, _ = compiled(case.run, case.operands, "reference")
    differ = apart(run(*case.operands), plain(*case.operands))
    taken = seconds(run, case.operands, budget)
    by_xla = backend.startswith("XLA")  # the same program: nothing to compare
    reference = None if by_xla else seconds(plain, case.operands, budget)
    rival = None
    if case.rival_run is not None:
        rival = seconds(jax.jit(case.rival_run), case.rival_operands, budget)
    return {
        "kernel": case.kernel,
        "format": case.format,
        "shape": case.shape,
        "backend": backend,
        "us": 1e6 * taken,
        "floor_us": 1e6 * case.bytes / limits["copy_bytes_per_s"],
        "bytes_per_s": case.bytes / taken,
        "of_copy": case.bytes / taken / limits["copy_bytes_per_s"],
        "flop_per_s": case.flops / taken,
        "of_product": case.flops / taken / limits["bf16_flop_per_s"],
        "over_reference": None if reference is None else reference / taken,
        "rival": case.rival,
        "over_rival": None if rival is None else rival / taken,
        "share_that_differs": differ,
    }


def write(path: str | None, found: dict[str, Any]) -> None:
    """Writes the rows measured so far, where a file is asked for: a run that is cut off leaves them."""
    if path is not None:
        with open(path, "w") as file:
            json.dump(found, file, indent=1)


def main() -> None:
    """Prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--budget", type=float, default=0.5, help="seconds for one timing")
    parser.add_argument("--seconds", type=float, default=200, help="start no further case after so long")
    arguments = parser.parse_args()
    start = time.perf_counter()
    device = jax.devices()[0]
    large = jax.default_backend() != "cpu"
    one = jax.make_mesh((1,), ("chip",), axis_types=(jax.sharding.AxisType.Auto,), devices=[device])
    with jax.set_mesh(one):
        limits = device_limits(large)
        about = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": device.device_kind,
            "platform": jax.default_backend(),
            "load_average": os.getloadavg()[0],
            "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
            "command": " ".join(["python", *sys.argv]),
            **limits,
        }
        print(f"{about['device']} ({about['platform']}), jax {jax.__version__}, {about['date']}")
        print(f"copy {limits['copy_bytes_per_s'] / 1e9:.0f} GB/s, bf16 {limits['bf16_flop_per_s'] / 1e12:.2f} TFLOP/s")
        print(HEADER)
        table, failed, left = [], [], 0
        for case in cases(large):
            if time.perf_counter() - start > arguments.seconds:
                left += 1
                continue
            try:
                row = measure(case, limits, arguments.budget)
            except Exception as error:  # a kernel that does not compile on this chip costs its own row, not the others
                said = " ".join(str(error).split())[:300]
                failed.append({"kernel": case.kernel, "format": case.format, "shape": case.shape, "error": said})
                print(f"{case.kernel:8s} {case.format:26s} {case.shape:20s} failed: {said[:100]}", flush=True)
                continue
            table.append(row)
            write(arguments.json, {**about, "left_out": left, "failed": failed, "results": table})
            over = "    -" if row["over_reference"] is None else f"{row['over_reference']:4.2f}x"
            rival = "" if row["over_rival"] is None else f"{row['over_rival']:.2f}x {row['rival']}"
            print(
                f"{row['kernel']:8s} {row['format']:26s} {row['shape']:20s} {row['us']:9.1f} {row['floor_us']:9.1f} "
                f"{row['of_copy']:7.0%} {row['of_product']:8.0%} {over}  {rival:12s} "
                f"{row['backend']}",
                flush=True,
            )
    if left:
        print(f"{left} cases left out: {arguments.seconds:.0f} s were over")
    write(arguments.json, {**about, "left_out": left, "failed": failed, "results": table})
    wrong = [row for row in table if row["share_that_differs"] > 1e-2]
    for row in wrong:
        where = f"{row['kernel']} {row['format']} {row['shape']}"
        print(f"differs from the reference: {where}: {row['share_that_differs']:.1%}")
    sys.exit(1 if wrong or failed else 0)


if __name__ == "__main__":
    main()
