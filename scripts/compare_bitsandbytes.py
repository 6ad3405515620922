"""Our double-quantized NF4 beside that of bitsandbytes, which quantizes and dequantizes on a CPU.

    pip install bitsandbytes torch && python scripts/compare_bitsandbytes.py

bitsandbytes quantizes flat tensors, so that runs of 256 scales reach across rows; at 16,384 columns they do not, and
values must agree to the rounding of float32. Its mean of scales is a sum in another order, its dynamic map is made in
another precision, both to one unit in the last place.
"""

import bitsandbytes.functional as theirs  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.formats.double_quantized import dynamic_map

SHAPE = (64, 16384)


def main() -> None:
    """Prints what differs, and fails where anything does by more than rounding."""
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32) * np.linspace(0.5, 2, 64)[:, None]
    x = x.astype(np.float32)
    packed, state = theirs.quantize_4bit(torch.tensor(x), blocksize=64, compress_statistics=True, quant_type="nf4")
    other = theirs.dequantize_4bit(packed, state).numpy()
    ours = np.asarray(find("nf4-double-quantized").project(jnp.asarray(x), NO_CONTEXT).value)
    levels = np.float32(dynamic_map().levels)
    of_map = np.abs(levels - theirs.create_dynamic_map().numpy()).max()
    differ = ~np.isclose(ours, other, rtol=2e-6, atol=0)
    print(f"dynamic map: off by at most {of_map:.1e}; values: {differ.sum()} of {x.size} differ beyond 2e-6")
    if of_map > 1.2e-7 or differ.mean() > 1e-5:  # a scale or two on a boundary
        raise SystemExit("not as bitsandbytes has it")


if __name__ == "__main__":
    main()
