"""What the tests of kernels share."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def device() -> Iterator[str]:
    """Platform of the accelerator that the test runs on, one chip of it. Skips the test where there is none."""
    platform = jax.default_backend()
    if platform not in ("tpu", "gpu"):
        pytest.skip(f"no accelerator: JAX runs on {jax.devices()[0].device_kind}")
    one = jax.make_mesh((1,), ("chip",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    with jax.set_mesh(one):
        yield platform
