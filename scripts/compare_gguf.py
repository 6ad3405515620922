"""Our projections beside those of the `gguf` package (llama.cpp), which quantizes and dequantizes Q4_0 to Q5_1.

    pip install gguf && python scripts/compare_gguf.py

Values are compared on float16 tensors, whose largest magnitudes are scales' to the bit, so that both divide by the same
scale. Two things may differ: ties, which gguf rounds up in the direction of its code and this package to even; and,
in Q4_0 and Q5_0, groups whose largest magnitude stands there with both signs, of which gguf takes the first. Where
neither is the case, values must be equal bit for bit; for Q4_1 and Q5_1, whose scale is that of a difference that
gguf rounds to float16 after it has quantized, the mean squared errors must agree to a thousandth instead.

The package quantizes no K-quants, but reads them: codes and scales of our Q4_K are laid out as llama.cpp does, and what
gguf makes of those bytes must be our values, bit for bit.
"""

import gguf  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp
import numpy as np

from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.formats.storage import Storable

SHAPE = (1024, 4096)
GROUP = 32
EXACT = ("q4_0", "q5_0")
CLOSE = ("q4_1", "q5_1")


def theirs(x: np.ndarray, name: str) -> np.ndarray:
    """Quantized and dequantized by gguf, float32."""
    kind = gguf.GGMLQuantizationType[name.upper()]
    return gguf.quants.dequantize(gguf.quants.quantize(x.astype(np.float32), kind), kind).reshape(x.shape)


def undecided(x: np.ndarray, name: str) -> np.ndarray:
    """Values on a tie between two levels, and those of groups whose largest magnitude has both signs."""
    groups = x.astype(np.float64).reshape(-1, GROUP)
    largest = np.abs(groups).max(axis=1, keepdims=True)
    both = (groups.max(axis=1, keepdims=True) == largest) & (groups.min(axis=1, keepdims=True) == -largest)
    steps = groups / (largest / 2 ** (int(name[1]) - 1))
    return (both | (steps % 1 == 0.5)).reshape(x.shape)


def q4_k_bytes(x: np.ndarray) -> np.ndarray:
    """Our Q4_K as blocks of 144 bytes: both floats, 12 bytes of scales and minima of 6 bits, 128 bytes of codes."""
    format = find("q4_k")
    assert isinstance(format, Storable)
    codes = format.store(jnp.asarray(x, jnp.float32), NO_CONTEXT)
    scale, low = (codes[name].reshape(-1, 8).astype(np.uint8) for name in ("scales0", "scales1"))
    floats = [codes[name].astype("<u2").reshape(-1, 1).view(np.uint8) for name in ("scales2", "scales3")]
    packed = [scale[:, :4] | (scale[:, 4:] >> 4 << 6), low[:, :4] | (low[:, 4:] >> 4 << 6)]
    packed.append((scale[:, 4:] & 15) | (low[:, 4:] << 4))
    code = codes["codes"].reshape(-1, 4, 2, GROUP).astype(np.uint8)
    return np.concatenate([*floats, *packed, (code[:, :, 0] | code[:, :, 1] << 4).reshape(-1, 128)], axis=1)


def main() -> None:
    """Prints a row for every format, and fails where one is not as it should be."""
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float16)
    print(f"{'format':8}{'differ':>10}{'of these undecided':>20}{'error, ours':>14}{'theirs':>14}")
    failed = []
    for name in EXACT + CLOSE:
        ours = np.asarray(find(name).project(jnp.asarray(x, jnp.float32), NO_CONTEXT).value)
        other = theirs(x, name)
        differ = ours != other
        excused = differ & undecided(x, name)
        errors = [float(np.mean(np.square(value - x.astype(np.float64)))) for value in (ours, other)]
        print(f"{name:8}{differ.sum():>10}{excused.sum():>20}{errors[0]:>14.6f}{errors[1]:>14.6f}")
        equal = np.array_equal(differ, excused) if name in EXACT else abs(errors[0] / errors[1] - 1) < 1e-3
        failed += [] if equal else [name]
    ours = np.asarray(find("q4_k").project(jnp.asarray(x, jnp.float32), NO_CONTEXT).value)
    read = gguf.quants.dequantize(q4_k_bytes(x), gguf.GGMLQuantizationType.Q4_K).reshape(x.shape)
    print(f"q4_k, read by gguf: {np.sum(ours != read)} of {x.size} values differ")
    failed += [] if np.array_equal(ours, read) else ["q4_k"]
    if failed:
        raise SystemExit(f"not as gguf has them: {', '.join(failed)}")


if __name__ == "__main__":
    main()
