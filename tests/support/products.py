"""Packed weights of every kind, their values in float64, and inputs for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.matmul import Layout, Weights

RNG = np.random.default_rng(0)
UNEVEN = {4: tuple(np.sort(RNG.standard_normal(16)).tolist())}
PATTERNS = np.array([first | second << 2 for first in range(4) for second in range(first + 1, 4)])


def layout(bits: int, width: int, group: int | None = None, sparse: bool = False, even: bool = True) -> Layout:
    levels = tuple((np.arange(2**bits) - 2 ** (bits - 1) + 0.5).tolist()) if even else UNEVEN[bits]
    return Layout(bits, levels, width, group, sparse)


def weights(of: Layout, outputs: int, powers: bool = False) -> Weights:
    """Random codes; scales between 1/2 and 2, or powers of two."""
    codes = RNG.integers(0, 256, (of.byte_planes, outputs, of.columns))
    runs = PATTERNS[RNG.integers(0, 6, (outputs, of.width // 4))] if of.sparse else None
    pattern = None if runs is None else jnp.asarray(runs[:, 0::2] | runs[:, 1::2] << 4, jnp.uint8)
    exponent = RNG.uniform(-1, 1, (outputs, of.width // of.group if of.group else 1))
    scale = np.exp2(np.round(exponent) if powers else exponent)
    return Weights(jnp.asarray(codes, jnp.uint8), pattern, jnp.asarray(scale, jnp.float32), of)


def oracle(w: Weights) -> np.ndarray:
    """The weights in float64, code by code from the bytes."""
    of, (outputs, width) = w.layout, w.shape
    codes, dense = np.asarray(w.codes), np.zeros((outputs, width))
    for f in range(outputs):
        for column in range(of.columns):
            word = sum(int(codes[plane, f, column]) << 8 * plane for plane in range(of.byte_planes))
            for i in range(8 * of.byte_planes // of.bits):
                level = of.levels[word >> of.bits * i & 2**of.bits - 1]
                if w.pattern is None:
                    k = column * of.values + i
                else:
                    nibble = int(w.pattern[f, column]) >> 4 * (i // 2)
                    k = column * 8 + 4 * (i // 2) + (nibble >> 2 * (i % 2) & 3)
                dense[f, k] = level
    return dense * np.repeat(np.asarray(w.scale, np.float64), width // w.scale.shape[1], axis=1)


def inputs(rows: int, width: int, whole: bool = False) -> jax.Array:
    x = RNG.integers(-4, 5, (rows, width)) if whole else RNG.standard_normal((rows, width))
    return jnp.asarray(x, jnp.bfloat16)


def named(of: Layout, *marks):
    name = f"{of.bits}bit-{of.width}-g{of.group}{'-2:4' * of.sparse}{'' if of.even else '-codebook'}"
    return pytest.param(of, id=name, marks=marks)


LAYOUTS = [
    *(
        named(of)
        for of in (
            layout(1, 128),
            layout(2, 256, 64),
            layout(4, 640),
            layout(4, 64, 32),
            layout(8, 128),
            layout(4, 128, even=False),
            layout(2, 128, sparse=True),
            layout(4, 256, 128, sparse=True, even=False),
            layout(8, 128, 32, sparse=True),
        )
    ),
    *(
        named(of, pytest.mark.slow)
        for of in (
            layout(1, 640, 32),
            layout(2, 640),
            layout(4, 1792, 128),
            layout(4, 1280, 32),
            layout(8, 640, 32),
            layout(2, 1792, 64),
            layout(4, 640, 16, even=False),
            layout(4, 1792, sparse=True),
            layout(8, 5632),
            layout(4, 1024, 128, sparse=True),
        )
    ),
]
