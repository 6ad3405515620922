"""Projection on Hopper: interpreted against the reference, and lowered; on the device where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.project import gpu, reference
from capscale.kernels.testing import check_cuda, close, rows, tolerance

from capscale.formats.catalog import find
from capscale.fused import spec_of
from capscale.representation import default_estimator


def spec(name: str, rotation: int | None = None, back: bool = False):
    format = find(name)
    found = spec_of(format, default_estimator(format), rotation=rotation, back=back)
    assert not isinstance(found, str), found
    return found


CASES = [("int4", 128, True), ("e2m1", None, False), ("int4-g32", None, False), ("mxfp4", None, False)]
SLOW = [("lloyd4", 64, False), ("nvfp4", None, False), ("int1", 128, False)]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]


def given(of, count: int) -> jax.Array | None:
    return jnp.linspace(0.25, 0.5, count).reshape(count, 1) if of.scale.given else None


def run(of, shape, dtype, interpret: bool):
    """A kernel and the reference, forward and backward, on finite rows."""
    x = rows((4, shape[1]), dtype)
    x = jnp.tile(x, (-(-shape[0] // 4), 1))[: shape[0]]
    g = rows(shape, dtype, seed=1) if shape[0] < 5 else jnp.ones(shape, dtype)
    options = {"interpret": True} if interpret else {}
    numbers = given(of, shape[0])
    found = gpu.project(of, x, numbers, **options)
    expected = reference.project(of, x, numbers)
    close(found, expected, shape[1], tolerance(dtype, exact_rotation=False))
    back = gpu.backward(of, expected.mask_RW, g, **options)
    wanted = reference.backward(of, expected.mask_RW, g)
    bound = 2 * float(jnp.finfo(dtype).eps) * float(jnp.max(jnp.abs(wanted.astype(jnp.float32))))
    np.testing.assert_allclose(back.astype(jnp.float32), wanted.astype(jnp.float32), atol=bound)
    return found


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("name", "rotation", "back"), CASES)
def test_interpreted(name, rotation, back, dtype):
    found = run(spec(name, rotation, back), (3, 256), dtype, interpret=True)
    assert found.value_RK.shape == (3, 256)


def test_another_grid_would_be_seen():
    of, other = spec("int4", 128), spec("int3", 128)
    x = rows((4, 256), jnp.float32)
    with pytest.raises(AssertionError, match="differ"):
        close(gpu.project(of, x, interpret=True), reference.project(other, x), 256, tolerance(x.dtype, False))


@pytest.mark.parametrize(("name", "rotation", "back"), CASES)
def test_cuda_lowering(name, rotation, back):
    check_cuda(spec(name, rotation, back), (100, 640))


def test_no_rows():
    x = jnp.zeros((0, 256), jnp.bfloat16)
    found = gpu.project(spec("int4"), x)
    assert found.value_RK.shape == (0, 256)
    assert found.mask_RW is not None
    assert found.mask_RW.shape == (0, 128)


@pytest.mark.parametrize(
    ("name", "rotation", "width", "dtype", "reason"),
    [
        ("int4", None, 256, jnp.float16, "not float16"),
        ("2:4", None, 256, jnp.bfloat16, "exchange neighbours"),
        ("int4-g32", 128, 256, jnp.bfloat16, "does not meet groups of 32"),
        ("int4-g4", None, 256, jnp.bfloat16, "groups of 4 values"),
        ("int4", None, 200, jnp.bfloat16, "groups of 200 values"),
        ("int4", 128, 200, jnp.bfloat16, "does not divide"),
    ],
)
def test_what_the_kernel_cannot_do_is_said(name, rotation, width, dtype, reason):
    assert reason in (gpu.unsupported(spec(name, rotation), (8, width), jnp.dtype(dtype)) or "")


@pytest.mark.device
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("name", "rotation", "back"), CASES)
@pytest.mark.parametrize("shape", [(3, 256), (300, 640), (128, 1792)])
def test_on_the_device(*, name, rotation, back, shape, dtype, device):
    if device != "gpu":
        pytest.skip("the kernel of this file is for GPUs")
    run(spec(name, rotation, back), shape, dtype, interpret=False)
