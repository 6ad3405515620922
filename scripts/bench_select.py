"""Times the exact k-th magnitude against `jnp.sort` and a plain bisection, on this machine's first device.

    python scripts/bench_select.py                      # 640 x 1792, the paper's 30M model
    python scripts/bench_select.py --rows 1024 --columns 2816 --json

Every time is the least of `--repeats`, compiled, with the result on the device. Results are checked to be equal.
"""

import argparse
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from about import about
from capscale.kernels.select import kth_magnitude, largest
from capscale.kernels.select.reference import kth_magnitude as bisected
from jax import Array

AXES = (-2, -1)


def by_sort(x: Array, k: int) -> Array:
    """The k-th largest magnitude the obvious way."""
    return jnp.sort(jnp.abs(x).ravel())[x.size - k].reshape(1, 1)


def least_time(function: Callable[..., Array], x: Array, k: int, repeats: int) -> tuple[float, Array]:
    """Milliseconds of the fastest of `repeats` calls, and the result."""
    compiled = jax.jit(function, static_argnums=1)
    result = jax.block_until_ready(compiled(x, k))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(x, k))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times), result


def least_partition(x: np.ndarray, k: int, repeats: int) -> float:
    """Milliseconds of numpy's selection, magnitudes included; the fastest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.partition(np.abs(x).ravel(), x.size - k)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    """Prints a row per data type and sparsity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--columns", type=int, default=1792)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments, begun = parser.parse_args(), about("jax", "numpy")
    values = np.random.default_rng(0).standard_normal((arguments.rows, arguments.columns))
    table = []
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(values, dtype)
        for sparsity in (0.1, 0.5, 0.9):
            k = round((1 - sparsity) * x.size)
            sort, expected = least_time(by_sort, x, k, max(arguments.repeats // 3, 1))
            bisection, plain = least_time(lambda x, k: bisected(x, k, AXES), x, k, arguments.repeats)
            ours, found = least_time(lambda x, k: kth_magnitude(x, k, AXES), x, k, arguments.repeats)
            mask, kept = least_time(lambda x, k: largest(x, k, AXES)[0], x, k, arguments.repeats)
            assert (found == expected).all()
            assert (plain == expected).all()
            assert int(kept.sum()) == k
            partition = least_partition(np.asarray(x, np.float32), k, arguments.repeats)
            row = {"dtype": jnp.dtype(dtype).name, "sparsity": sparsity, "sort_ms": sort, "bisection_ms": bisection}
            row |= {"kth_ms": ours, "mask_ms": mask, "numpy_partition_ms": partition}
            row |= {"speedup_over_sort": sort / ours, "mask_speedup_over_sort": sort / mask}
            table.append(row | {"speedup_over_partition": partition / ours})
    if arguments.json:
        where = {"device": jax.devices()[0].device_kind, "shape": [arguments.rows, arguments.columns]}
        print(json.dumps({**begun, **where, "results": table}, indent=1))
        return
    print(f"{arguments.rows} x {arguments.columns} on {jax.devices()[0].device_kind}, jax {jax.__version__}; ms")
    print("dtype     sparsity    sort  bisection  k-th  with mask  np.partition  sort / k-th  sort / mask  / k-th")
    for r in table:
        print(
            f"{r['dtype']:9s} {r['sparsity']:8.0%} {r['sort_ms']:7.1f} {r['bisection_ms']:10.1f} {r['kth_ms']:5.1f} "
            f"{r['mask_ms']:10.1f} {r['numpy_partition_ms']:13.1f} {r['speedup_over_sort']:11.0f}x "
            f"{r['mask_speedup_over_sort']:11.0f}x {r['speedup_over_partition']:16.1f}x"
        )


if __name__ == "__main__":
    main()
