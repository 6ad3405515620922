"""Fixtures that the tests of kernels share."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest

KERNELS = {
    "test_codes.py": "encode",
    "test_matmul.py": "matmul",
    "test_matmul_targets.py": "matmul",
    "test_project.py": "project",
    "test_project_gpu.py": "project",
    "test_select_kernels.py": "select",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tells of each test of a kernel which it is and on what backend, for the list at the end of a run."""
    for item in items:
        kernel, backend = KERNELS.get(item.path.name), backend_of(item)
        if kernel is not None and backend is not None:
            item.user_properties.append(("kernel", f"{kernel} {backend}"))


def backend_of(item: Any) -> str | None:
    """As the kit names them, by what a test takes and how it is called; None where it is not about one."""
    values, name = getattr(getattr(item, "callspec", None), "params", {}), item.originalname
    if "generation" in values:
        return f"tpu-{values['generation']}"
    if "device" in item.fixturenames:
        return "device"
    if "lowering" in name or "lower" in name.split("_"):
        return "cuda-sm90"
    if "platform" in values:
        return None if name.startswith("test_what") else f"interpret-{values['platform']}"
    return "interpret-gpu" if item.path.name == "test_project_gpu.py" and "interpreted" in name else None


@pytest.fixture
def device() -> Iterator[str]:
    """Platform of the accelerator that the test runs on, one chip of it. Skips the test where there is none."""
    platform = jax.default_backend()
    if platform not in ("tpu", "gpu"):
        pytest.skip(f"no accelerator: JAX runs on {jax.devices()[0].device_kind}")
    one = jax.make_mesh((1,), ("chip",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    with jax.set_mesh(one):
        yield platform
