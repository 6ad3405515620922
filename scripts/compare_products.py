"""Float32 matrix products of a 30M step on a CPU: XLA's beside PyTorch's in one process, in GFLOP/s.

    pip install torch==2.13.0 && python scripts/compare_products.py

Of each product every layout of the operands is timed, `N` as in `x w` and `T` transposed, the fastest of three calls
behind the first; a head of 16,000 tokens, half of the model's, keeps that short.
"""

import argparse
import time
from collections.abc import Callable
from itertools import product
from typing import Any

TOKENS = 2048
SHAPES = {
    "up": (TOKENS, 640, 1792),
    "down": (TOKENS, 1792, 640),
    "query": (TOKENS, 640, 640),
    "gradient of up": (640, TOKENS, 1792),
    "logits": (TOKENS, 640, 16_000),
    "gradient of features": (TOKENS, 16_000, 640),
    "gradient of head": (640, TOKENS, 16_000),
}
"""Rows, inner and columns of the products of layers and of the head."""
CALLS = 4


def gflops(call: Callable[[], Any], shape: tuple[int, int, int]) -> float:
    """Speed of the fastest call but the first."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    rows, inner, columns = shape
    return 2e-9 * rows * inner * columns / min(times[1:])


def speeds(shape: tuple[int, int, int]) -> dict[str, tuple[float, float]]:
    """GFLOP/s of XLA and of PyTorch, by layout."""
    import jax
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]

    rows, inner, columns = shape
    rng, found = np.random.default_rng(0), {}
    for left, right in product("NT", repeat=2):
        a = rng.random((rows, inner) if left == "N" else (inner, rows), np.float32)
        b = rng.random((inner, columns) if right == "N" else (columns, inner), np.float32)
        sums = ((int(left == "N"),), (int(right == "T"),))
        multiply = jax.jit(lambda a, b, sums=sums: jax.lax.dot_general(a, b, (sums, ((), ()))))
        one, other = jax.device_put(a), jax.device_put(b)
        own = gflops(lambda multiply=multiply, a=one, b=other: multiply(a, b).block_until_ready(), shape)
        one, other = (torch.from_numpy(y).T if of == "T" else torch.from_numpy(y) for y, of in ((a, left), (b, right)))
        found[left + right] = own, gflops(lambda a=one, b=other: a @ b, shape)
    return found


def main() -> None:
    """Prints a row for every product."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from capscale.heap import keep_freed_memory

    keep_freed_memory()
    for name, shape in SHAPES.items():
        layouts = (f"{layout} {xla:.0f} / {torch:.0f}" for layout, (xla, torch) in speeds(shape).items())
        print(f"{name:<22}{' x '.join(map(str, shape)):<20}" + "   ".join(layouts), flush=True)


if __name__ == "__main__":
    main()
