"""Fixtures that the tests of kernels share."""

from collections.abc import Iterator

import jax
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tells of each test of a kernel which it is and on what backend, as its marker says, for the list at the end."""
    for item in items:
        if (marker := item.get_closest_marker("kernel")) is not None:
            name, backend = marker.args
            values = getattr(getattr(item, "callspec", None), "params", {})
            item.user_properties.append(("kernel", f"{name} {backend.format(**values)}"))


@pytest.fixture
def device() -> Iterator[str]:
    """Platform of the accelerator that the test runs on, one chip of it. Skips the test where there is none."""
    platform = jax.default_backend()
    if platform not in ("tpu", "gpu"):
        pytest.skip(f"no accelerator: JAX runs on {jax.devices()[0].device_kind}")
    one = jax.make_mesh((1,), ("chip",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    with jax.set_mesh(one):
        yield platform
