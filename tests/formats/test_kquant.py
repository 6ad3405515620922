"""K-quants against llama.cpp's search, written out group by group; codes in float32, as ties depend on it."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT
from capscale.formats.floats import E2M1
from capscale.formats.grids import Int
from capscale.formats.kquant import KQuant
from capscale.formats.packing import pack, unpack
from capscale.formats.scalar import Scalar
from capscale.fused import spec_of
from capscale.gaussian_mse import gmse

GROUP, GROUPS = 32, 8


def gaussian(shape: tuple[int, ...] = (4, 512), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value(name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(catalog.find(name).project(jnp.asarray(x), NO_CONTEXT).value)


def searched(x: np.ndarray, top: int, start: float, steps: int) -> tuple[float, float]:
    """Scale and minimum of one group of values."""
    low, high = np.minimum(x.min(), np.float32(0)), x.max()
    weight = np.sqrt(np.mean(np.square(x, dtype=np.float64))) + np.abs(x)
    scale, best = (high - low) / top, (high - low) / top
    code = np.clip(np.round(np.float32(top) / (high - low) * (x - low)), 0, top)
    least, best_low = np.sum(weight * (scale * code + low - x) ** 2), low
    for step in range(steps + 1):
        levels = np.float32(start) + np.float32(0.1) * np.float32(step) + np.float32(top)
        code = np.clip(np.round(levels / (high - low) * (x - low)), 0, top).astype(np.float64)
        total, first, second = weight.sum(), np.sum(weight * code), np.sum(weight * code * code)
        of_x, product = np.sum(weight * x), np.sum(weight * code * x)
        determinant = total * second - first * first
        if determinant <= 0:
            continue
        scale = (total * product - of_x * first) / determinant
        found = (second * of_x - first * product) / determinant
        if found > 0:
            scale, found = product / second, 0.0
        error = np.sum(weight * (scale * code + found - x) ** 2)
        if error < least:
            least, best, best_low = error, scale, found
    return best, -best_low


def k_quant(x: np.ndarray, top: int, start: float, steps: int) -> np.ndarray:
    """One super-block of eight groups, quantized and dequantized."""
    groups = x.reshape(GROUPS, GROUP)
    scales, lows = (np.array(part) for part in zip(*(searched(g, top, start, steps) for g in groups), strict=True))
    whole = [np.minimum(63, np.round(63 / part.max() * part)) for part in (scales, lows)]
    d, dmin = (float(np.float16(part.max() / 63)) for part in (scales, lows))
    step, low = (d * whole[0])[:, None], (dmin * whole[1])[:, None]
    return (step * np.clip(np.round((groups + low) / step), 0, top) - low).reshape(x.shape)


@pytest.mark.parametrize(("name", "top", "start", "steps"), [("q4_k", 15, -1.0, 20), ("q5_k", 31, -0.5, 15)])
def test_the_search_is_that_of_llama_cpp(name, top, start, steps):
    """All values of nearly all groups: in the others float32 sums take another line, as good."""
    x = gaussian((16, 512))
    found = value(name, x).reshape(-1, GROUPS * GROUP)
    expected = np.stack([k_quant(block, top, start, steps) for block in x.reshape(-1, GROUPS * GROUP)])
    equal = np.isclose(found, expected, rtol=1e-6, atol=1e-7).reshape(-1, GROUP).all(axis=1)
    assert equal.mean() > 0.95
    errors = [np.mean((of - x.reshape(of.shape)) ** 2) for of in (found, expected)]
    assert abs(errors[0] / errors[1] - 1) < 1e-3


def test_what_the_search_is_for():
    """At 4.5 bits it has less error than 16-bit scales of groups of 32: the numbers of the catalog, measured."""
    q4_k, q4_0 = gmse(catalog.find("q4_k")), gmse(catalog.find("q4_0"))
    assert catalog.find("q4_k").bits == catalog.find("q4_0").bits == 4.5
    assert catalog.find("q5_k").bits == 5.5
    assert q4_k.method.startswith("Monte Carlo")
    assert abs(q4_k.value - 0.00514) < 2e-5
    assert q4_k.value < q4_0.value


@parametrize("groups", [1, 5, 8, 11], default=[11])
def test_rows_end_with_fewer_groups(groups):
    """Those of a whole super-block do not notice."""
    x = gaussian((3, 32 * groups), 1)
    found = value("q4_k", x)
    packed = pack(catalog.find("q4_k"), jnp.asarray(x))
    np.testing.assert_array_equal(unpack(packed), found)
    assert len(packed.fields["scales2"]) == 2 * 3 * -(-groups // GROUPS)
    whole = 256 * (groups // GROUPS)
    np.testing.assert_array_equal(found[:, :whole], value("q4_k", x[:, :whole]) if whole else found[:, :0])


def test_groups_of_one_value_or_sign():
    x = np.concatenate([np.full((1, 32), v, np.float32) for v in (0.0, -2.0, 3.0)] + [gaussian((1, 160)) ** 2 + 1], 1)
    found = value("q4_k", x)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0, :32], 0.0)
    np.testing.assert_allclose(found[0, 32:64], -2.0, rtol=1e-3)
    np.testing.assert_allclose(found[0, 64:96], 3.0, rtol=2e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scalar(E2M1, KQuant(), 32), "levels of step 1"),
        (lambda: Scalar(Int(4, "unsigned"), KQuant()), "several groups of a row share a scale"),
        (lambda: Scalar(Int(4, "unsigned"), KQuant(), (16, 16)), "several groups of a row share a scale"),
        (lambda: KQuant(groups=1), "groups"),
        (lambda: KQuant(bits=9), "bits"),
        (lambda: KQuant(start=-2.0), "start"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_kernels_say_why_there_is_none():
    assert str(spec_of(catalog.find("q4_k"), lambda x, projection: None)) == "KQuant scales are left to XLA"
