"""The square root that Mosaic GPU does not have."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import hopper

RNG = np.random.default_rng(0)
NEAR = [
    np.float32(x).view(np.int32) + np.arange(-64, 65) for x in (1.0, 2.0, 4.0, 2.0**-126 * (1 + 2.0**-16), 2.0**127)
]
BITS = np.concatenate([RNG.integers(0x00800000, 0x7F800000, 100_000), *NEAR]).astype(np.int32)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("error", [0.0, 3e-7, -4e-7])
def test_the_square_root_is_correctly_rounded(error, compiled, monkeypatch):
    """Whatever the reciprocal one gives within its few units in the last place."""
    rsqrt, x = jax.lax.rsqrt, BITS.view(np.float32)
    monkeypatch.setattr(jax.lax, "rsqrt", lambda z: rsqrt(z) * jnp.float32(1 + error))
    found = (jax.jit(partial(hopper.sqrt)) if compiled else hopper.sqrt)(jnp.asarray(x))
    np.testing.assert_array_equal(found, np.sqrt(x.astype(np.float64)).astype(np.float32))


def test_what_is_no_normal_number_stays():
    np.testing.assert_array_equal(hopper.sqrt(jnp.array([0.0, jnp.inf, jnp.nan])), [0.0, np.inf, np.nan])
