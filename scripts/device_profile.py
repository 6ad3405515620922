"""Hardware counters of three kernels by Nsight Compute, whose clock control is off: the card's settings are left alone.

ncu ... python scripts/device_profile.py        # as `command` says; without ncu it runs the kernels once
"""

import csv
import ctypes
import sys
from pathlib import Path
from typing import Any

from device_plan import PROFILED, REHEARSE

METRICS = {
    "us": "gpu__time_duration.sum",
    "dram_bytes": "dram__bytes.sum",
    "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm_percent": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "warps_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
    "shared_bytes": "launch__shared_mem_per_block",
    "blocks": "launch__grid_size",
    "threads": "launch__block_size",
}
TO_MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}
TO_BYTES = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "byte/block": 1.0, "Kbyte/block": 1e3}


def command(log: Path) -> list[str]:
    """The profiler's command line; it writes `log`."""
    options = [
        "--clock-control",
        "none",
        "--profile-from-start",
        "off",
        "--csv",
        "--page",
        "raw",
        "--log-file",
        str(log),
    ]
    return ["ncu", *options, "-f", "--metrics", ",".join(METRICS.values()), sys.executable, __file__]


def kernels(text: str) -> list[dict[str, Any]]:
    """One row for every kernel in what the profiler wrote, names by which the metrics are known here."""
    table = list(csv.DictReader(line for line in text.splitlines() if line.startswith('"')))
    if len(table) < 2:
        return []
    units, *rows = table
    found = []
    for row in rows:
        values: dict[str, Any] = {"case": (row.get("Kernel Name") or "")[:80]}
        for name, metric in METRICS.items():
            factor = {**TO_MICROSECONDS, **TO_BYTES}.get(units.get(metric) or "", 1.0)
            try:
                values[name] = float((row.get(metric) or "").replace(",", "")) * factor
            except ValueError:
                values[name] = None
        found.append(values)
    return found


def main() -> None:
    """Runs each of the kernels once between the profiler's marks; compiled and warmed up before."""
    import jax
    import jax.numpy as jnp
    from capscale.kernels import dispatch
    from capscale.kernels.matmul import matmul
    from capscale.kernels.project import project
    from device_kernels import given_numbers, int4_weights, kernel_of, normal, spec_named
    from device_worker import context

    size = 128 if REHEARSE else 4096
    with context():
        calls = []
        for name in PROFILED:
            if name.startswith("matmul"):
                x = normal((int(name.split()[1]), size), jnp.bfloat16, 1)
                with dispatch.force("require"):
                    calls.append((jax.jit(matmul).lower(x, int4_weights(size)).compile(), (x, int4_weights(size))))
                continue
            spec, x = spec_named(name), normal((size, size), jnp.bfloat16, 1)
            given, how = given_numbers(spec, size), kernel_of(spec, x)
            calls.append((jax.jit(lambda x, s=spec, n=given, h=how: project(s, x, n, h)).lower(x).compile(), (x,)))
        for run, operands in calls:
            jax.block_until_ready(run(*operands))
        driver = None if REHEARSE else ctypes.CDLL("libcuda.so.1")
        if driver is not None and (status := driver.cuProfilerStart()):
            sys.exit(f"cuProfilerStart: error {status}")
        for run, operands in calls:
            jax.block_until_ready(run(*operands))
        if driver is not None:
            driver.cuProfilerStop()


if __name__ == "__main__":
    main()
