"""Values and gradients of every catalog format, as digests, so that no change of code moves a bit unawares.

`bash scripts/test.sh tests/formats/test_golden.py -m "slow or not slow" -k NAME --regenerate` adds a format that is new
to `golden_projections.json`, and replaces one that is meant to have other numbers.
"""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.golden import hold

from capscale.formats import catalog
from capscale.formats.capabilities import any_order, initial_context
from capscale.representation import Operand, project
from capscale.testing import block_rows

GOLDEN = Path(__file__).parent / "golden_projections.json"
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT = ("int1", "int4-g64", "e2m1", "mxfp4", "nvfp4", "lsq4", "2:4", "4:8-pairs+int4", "int4-outliers1")


def rows(dtype: str, seed: int = 0, count: int = 8) -> jax.Array:
    """Normal rows of unequal scale; of them one of zeros, one full of ties, one with few values that are not zero."""
    x = np.random.default_rng(seed).standard_normal((count, 256)) * 2.0 ** np.linspace(-2, 2, count)[:, None]
    x[1] = 0.0
    x[2] = np.round(4 * x[2]) / 4
    x[3, 7:] = 0.0
    return jnp.asarray(x, dtype)


def digests(name: str) -> dict[str, str]:
    """Of the value, the gradient and that of learnable parameters, by dtype; the sign of zeros counts."""
    format = catalog.find(name)
    count = max(block_rows(format), 8)
    found = {}
    for dtype in DTYPES:
        x, cotangent = rows(dtype, 0, count), rows(dtype, 1, count)
        ctx = initial_context(format, x)

        @jax.jit
        def pulled(x, learned, cotangent, ctx=ctx):
            run = lambda x, learned: project(Operand(format), x, ctx._replace(learned=learned))  # noqa: E731
            value, pull = jax.vjp(run, x, learned)
            return value, pull(cotangent)

        leaves = jax.tree.leaves(pulled(x, ctx.learned, cotangent))
        found[dtype] = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()[:16]
    return found


SUMMED = {name for name, format in catalog.FORMATS.items() if any_order(format)}
"""Names whose last bits are the device's; they are held to float64 (test_nearest.py)."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in DEFAULT else pytest.mark.slow) for n in catalog.FORMATS if n not in SUMMED],
)
def test_values_and_gradients_are_those_of_before(name, regenerate):
    hold(digests(name), GOLDEN, name, regenerate=regenerate)
