"""Identity of the device, and the speed of a copy and of a bfloat16 product on it, which judge the rest."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
from device_plan import REHEARSE

QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,power.limit"
ROUNDS = 5


def run(case: str, row: dict[str, Any]) -> None:
    """Name and versions, or the two ceilings."""
    if case == "limits":
        row["copy_bytes_per_s"] = copy_speed()
        row["bf16_flop_per_s"] = product_speed()
        row["clocks"] = clocks()  # as they are just after work
        return
    device = jax.devices()[0]
    row |= {
        "device": device.device_kind,
        "platform": device.platform,
        "capability": str(getattr(device, "compute_capability", None)),
        "versions": {"jax": jax.__version__, "jaxlib": version("jaxlib"), "python": sys.version.split()[0]},
        "clocks": clocks(),
    }


def clocks() -> str | None:
    """Driver's facts of the card as it is; its settings are left alone."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except subprocess.TimeoutExpired as error:
        return str(error)


def seconds(run: Callable[..., Any], *operands: Any) -> float:
    """Median time of a compiled program, after a call that warms up."""
    jax.block_until_ready(run(*operands))
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        jax.block_until_ready(run(*operands))
        times.append(perf_counter() - start)
    return median(times)


def copy_speed() -> float:
    """Bytes read and written per second, adding to an array that no cache holds, in a loop on the device."""
    x = jax.random.normal(jax.random.key(0), (2**16 if REHEARSE else 2**28,), jnp.float32)
    times = 20
    add = jax.jit(lambda x: jax.lax.fori_loop(0, times, lambda i, y: y * 1.0001 + 1.0, x))
    return times * 2 * x.nbytes / seconds(add, x)


def product_speed() -> float:
    """FLOP per second of a bfloat16 product of random matrices, in a loop on the device."""
    n, times = (128 if REHEARSE else 8192), 10
    a = jax.random.normal(jax.random.key(1), (n, n), jnp.bfloat16)
    scale = jnp.bfloat16(n**-0.5)  # keeps the size of the values
    multiply = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda i, b: (b @ a) * scale, a))
    return times * 2 * n**3 / seconds(multiply, a)
