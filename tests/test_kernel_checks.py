"""Kernels held to formats: the specification of each format of the catalog is the format; the kit finds what is not."""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import pytest
from capscale.kernels import costs, testing
from capscale.kernels.aot import Unavailable
from capscale.kernels.project import LargestOver, Spec, Unsupported
from support.cases import parametrize

from capscale.defaults import default_estimator
from capscale.estimators import STRAIGHT_THROUGH, TRUST, Both, BRms, RmsThreshold
from capscale.formats import catalog
from capscale.formats.base import Projection, to_float32
from capscale.formats.grids import Int
from capscale.formats.levels import Levels
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax
from capscale.fused import spec_of
from capscale.kernel_checks import check_format, check_kernels

DEFAULT = ("int1", "int4-g64", "nvfp4", "2:4+int4", "lsq4", "higgs-d2-n16")
COVERED = [name for name, f in catalog.FORMATS.items() if not isinstance(spec_of(f, default_estimator(f)), Unsupported)]


@parametrize(
    "name",
    [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in COVERED],
    default=["int4-g64", "2:4+int4"],
)
def test_the_specification_is_the_format(name):
    """Two separate codes: value and mask of the kernel's reference are those of the format, bit for bit."""
    format = catalog.find(name)
    spec = spec_of(format, default_estimator(format))
    assert isinstance(spec, Spec)
    check_format(format, default_estimator(format), spec)


@parametrize(
    ("name", "estimator"),
    [
        ("2:4", RmsThreshold(0.1)),
        ("2:4", BRms(0.1)),
        ("4:8-pairs", BRms(0.1)),
        ("2:4+int4", Both(BRms(0.3))),
        ("2:4+mxfp4", Both(BRms(0.1))),
    ],
    default=2,
)
def test_a_mask_by_the_rows_root_mean_square_is_the_estimators(name, estimator):
    """That of the dense row, also where scales are those of survivors or of groups."""
    spec = spec_of(catalog.find(name), estimator)
    assert isinstance(spec, Spec)
    assert spec.reads_rms
    check_format(catalog.find(name), estimator, spec)


@dataclass(frozen=True)
class Thirds:
    """-1, 0 and 1 times the largest magnitude of the row: a format with a kernel of its own."""

    off_by: float = 1.0
    bits = 1.6
    granularity = "row"

    def project(self, x, ctx):
        full = to_float32(x, "Thirds")
        scale = jnp.broadcast_to(jnp.max(jnp.abs(full), axis=-1, keepdims=True), x.shape)
        share = full / jnp.where(scale > 0, scale, 1.0)
        level = jnp.where(jnp.abs(share) > 0.5, jnp.sign(share), 0.0)
        return Projection(jnp.where(jnp.isnan(share), share, level * scale).astype(x.dtype))

    def kernel_spec(self):
        return Spec(Levels((-1.0, 0.0, 1.0)), LargestOver(self.off_by))


QUICK = {
    "interpret-float32": partial(testing.check_interpreted, shapes=((5, 256),)),
    "interpret-codes": partial(testing.check_codes, shape=(5, 256)),
}


@pytest.mark.ci
def test_the_kit_takes_a_format(monkeypatch):
    """And tells its costs, of the specification that is checked."""
    monkeypatch.setattr(testing, "checks", lambda: QUICK)
    monkeypatch.setattr(costs, "costs", lambda: {"cost-v5e": lambda spec: f"rotated by {spec.rotation}"})
    told = {}
    found = check_kernels(Thirds(), STRAIGHT_THROUGH, rotation=64, tell=told.__setitem__)
    assert found == told == {**dict.fromkeys(("format", *QUICK), "passed"), "cost-v5e": "rotated by 64"}


def test_a_kernel_that_is_not_the_formats_is_found():
    place = r"first at \[3, \d+\]: -?[\d.e+]+, not -?[\d.e+]+ of x = -?[\d.e+]+ \(float32\)"
    with pytest.raises(AssertionError, match=rf"format: value: \d+ of 2048 differ, {place}"):
        check_kernels(Thirds(off_by=2.0), STRAIGHT_THROUGH)


def test_a_mask_that_is_not_the_estimators_is_found():
    format = Scalar(Int(4), Absmax())
    with pytest.raises(AssertionError, match="one has a mask, the other none"):
        check_format(format, TRUST, spec_of(format, STRAIGHT_THROUGH))


def test_what_cannot_be_told_here_is_said(monkeypatch):
    def absent(spec):
        raise Unavailable("libtpu is not installed")

    monkeypatch.setattr(testing, "checks", lambda: {"tpu-v4": absent})
    monkeypatch.setattr(costs, "costs", dict)
    assert check_kernels(Thirds(), STRAIGHT_THROUGH)["tpu-v4"] == "libtpu is not installed"


def test_formats_without_a_kernel_say_why():
    with pytest.raises(ValueError, match=r"TopK.* has no kernel: TopK formats are left to XLA"):
        check_kernels(catalog.find("top50"))

    class Derived(Thirds):
        """Inherits a kernel that knows nothing of it."""

        def project(self, x, ctx):
            return super().project(-x, ctx)

    with pytest.raises(ValueError, match="Derived overrides project of Thirds and states no kernel_spec of its own"):
        check_kernels(Derived(), STRAIGHT_THROUGH)


@pytest.mark.parametrize("value", ["TopK formats are left to XLA", Scalar(Int(4))])
def test_the_kit_of_specifications_refuses_others(value):
    with pytest.raises(TypeError, match=r"is no Spec; hold .* by capscale\.kernel_checks"):
        testing.checks()["interpret-float32"](value)
