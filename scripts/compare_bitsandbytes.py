"""Our double-quantized NF4 beside that of bitsandbytes, which quantizes and dequantizes on a CPU.

    pip install bitsandbytes torch && python scripts/compare_bitsandbytes.py

bitsandbytes quantizes flat tensors, so that runs of 256 scales reach across rows; at 16,384 columns they do not, and
values must agree to the rounding of float32. Its search on a CPU (0.50) takes the second-nearest level of the dynamic
map for about a scale in a thousand, near the middle of two: of a scale that differs, ours has to be the nearer one.
"""

import bitsandbytes.functional as theirs  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.formats.double_quantized import dynamic_map
from capscale.formats.scalar import Scalar

SHAPE = (64, 16384)


def main() -> None:
    """Prints what differs, and fails where anything does by more than rounding."""
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32) * np.linspace(0.5, 2, 64)[:, None]
    x = x.astype(np.float32)
    packed, state = theirs.quantize_4bit(torch.tensor(x), blocksize=64, compress_statistics=True, quant_type="nf4")
    other = theirs.dequantize_4bit(packed, state).numpy()
    format = find("nf4-double-quantized")
    assert isinstance(format, Scalar)
    parts = format.measure(jnp.asarray(x), NO_CONTEXT)
    ours = np.asarray(format.project(jnp.asarray(x), NO_CONTEXT).value)
    levels = dynamic_map().levels.astype(np.float32)
    of_map = np.abs(levels - theirs.create_dynamic_map().numpy()).max()
    codes = [np.asarray(format.scale.encode(parts)[0]).ravel(), state.absmax.numpy().ravel()]
    differ = codes[0] != codes[1]
    apart = np.abs(x).reshape(-1, 64).max(axis=1).astype(np.float64) - float(state.offset)
    runs = apart.reshape(-1, 256)
    wanted = (runs / np.abs(runs).max(axis=1, keepdims=True)).ravel()
    away, theirs_away = (np.abs(wanted - levels[code.astype(int)]) for code in codes)
    farther = differ & (away > theirs_away)
    off = ~np.isclose(ours, other, rtol=2e-6, atol=0).reshape(-1, 64) & ~differ[:, None]
    print(f"dynamic map: off by at most {of_map:.1e}")
    print(f"scales: {differ.sum()} of {differ.size} differ, ours the farther in {farther.sum()} of them")
    print(f"values of the other scales: {off.sum()} of {x.size} differ beyond 2e-6")
    if of_map > 1.2e-7 or differ.mean() > 5e-3 or farther.any() or off.any():
        raise SystemExit("not as bitsandbytes has it")


if __name__ == "__main__":
    main()
