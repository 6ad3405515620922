"""Scale rules from one function of the largest magnitude: the example of docs/own_format.md, and jumps."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import costs, testing
from jax import lax
from support.pages import defined

from capscale.estimators import TRUST
from capscale.formats import OfLargest, Scalar, catalog
from capscale.formats.distributions import NORMAL
from capscale.formats.floats import E2M1
from capscale.formats.grids import Int
from capscale.formats.scale import Absmax, PowerOfTwo
from capscale.fused import spec_of
from capscale.gaussian_mse import gmse, measured
from capscale.kernel_checks import check_kernels
from capscale.testing import CHECKS, Subject

FORMAT = defined("own_format", "class Shrunk")["shrunk"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_example_keeps_the_contracts(check):
    check(Subject(FORMAT, TRUST))


def test_its_error_is_exact():
    found, plain = gmse(FORMAT), measured(FORMAT, NORMAL, 1024)
    assert found.method == "quadrature, maximum of 32"
    assert abs(found.value - plain.value) < 5 * plain.standard_error


KIT = {
    "interpret-float32": partial(testing.check_interpreted, shapes=((5, 256),)),
    "interpret-codes": partial(testing.check_codes, shape=(5, 256)),
    "gradient": partial(testing.check_gradient, shape=(4, 256)),
    "cuda": testing.check_cuda,
    "tpu-v5e": partial(testing.check_tpu, shapes=((64, 256),)),
}


@pytest.mark.ci
def test_its_kernels_are_the_formats(monkeypatch):
    """On both: interpreted, compiled for a TPU where libtpu is there, lowered for Hopper."""
    monkeypatch.setattr(testing, "checks", lambda: KIT)
    monkeypatch.setattr(costs, "costs", dict)
    found = check_kernels(FORMAT, TRUST, rotation=64)
    assert {found[name] for name in ("format", "interpret-float32", "interpret-codes", "gradient")} == {"passed"}


@dataclass(frozen=True)
class Even(OfLargest):
    """MXFP4's scale by the exponent of the rounded maximum, said as one function."""

    def scale(self, largest, grid):
        bits = lax.bitcast_convert_type(largest, jnp.int32) + jnp.int32(1 << 21)
        return lax.bitcast_convert_type(bits & jnp.int32(0x7F800000), jnp.float32) / 4


def test_jumps_are_found():
    """A rule of powers of two: as exact as the one that states its jumps."""
    expected = gmse(Scalar(E2M1, PowerOfTwo("even"), 32))
    found = gmse(Scalar(E2M1, Even(), 32))
    assert found.method == expected.method == "quadrature, maximum of 32"
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)
    np.testing.assert_allclose(Even().jumps(0.5, 8.0, E2M1), [0.875, 1.75, 3.5, 7.0], rtol=1e-6)
    assert not Absmax().jumps(0.5, 8.0, E2M1).size


def test_four_over_six_is_measured_and_searched():
    """arXiv 2512.02010: the better of the largest magnitude at 6 and at 4."""
    format = catalog.find("nvfp4-four-over-six")
    found = gmse(format)
    assert found.method.startswith("Monte Carlo")
    assert abs(found.value - 0.00756) < 5e-6 + 5 * found.standard_error
    assert format.scale.top == 256
    assert "a search over scales is left to XLA" in str(spec_of(format, TRUST))


@pytest.mark.parametrize("number", ["bfloat16", "float16"])
def test_scales_are_rounded_as_numpy_rounds(number):
    """Over all exponents, at ties, below the smallest numbers and beyond the largest of float16."""
    x = np.concatenate(
        [np.random.default_rng(0).integers(1 << 23, 0x7D000000, 4000), np.arange(0x3F800000, 0x3F880000, 64)]
    )
    x = x.astype(np.int32).view(np.float32)
    top = np.float32(Int(4).levels[-1])
    (found,) = jax.jit(lambda m: (Absmax(number).kernel_rule(Int(4))(m, None),))(jnp.asarray(x * top))
    (plain,) = jax.jit(lambda m: (Absmax().kernel_rule(Int(4))(m, None),))(jnp.asarray(x * top))
    finite = np.isfinite(np.asarray(x * top))
    expected = np.asarray(plain)[finite]
    with np.errstate(over="ignore"):
        expected = expected.astype(jnp.dtype(number)).astype(np.float32)
    expected = np.where(np.isinf(expected), np.float32(65504), expected) if number == "float16" else expected
    np.testing.assert_array_equal(np.asarray(found)[finite], expected)


@pytest.mark.parametrize(
    ("name", "value", "bits"),
    [
        ("absmax-int4-g32-bf16", 0.008197, 4.5),
        ("absmax-int4-g128-bf16", 0.011979, 4.125),
        ("absmax-int4-g32-fp16", 0.008197, 4.5),
        ("mxfp4-even", 0.01251, 4.25),
        ("mxint8", 0.0000681, 8.25),
        ("absmax-e4m3-g128", 0.000661, 8.25),
        ("nf4", 0.00846, 4.5),
        ("ternary-mean", 0.2634, np.log2(3)),
        ("ternary-median", 0.3180, np.log2(3)),
    ],
)
def test_deployed_formats_have_their_errors_and_bits(name, value, bits):
    """To the digits that independent measurements of 10^7 samples gave."""
    format = catalog.find(name)
    found = gmse(format)
    assert found.standard_error == 0
    digits = len(f"{value:.10f}".rstrip("0").split(".")[1])
    assert abs(found.value - value) <= 0.51 * 10.0**-digits
    assert format.bits == bits
