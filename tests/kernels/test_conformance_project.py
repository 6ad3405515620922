"""Every format that the projection kernel takes through every check of the kit; and a grid from outside."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import aot, compare, testing
from capscale.kernels.project import RmsTimes, Spec, Unsupported
from capscale.kernels.project.projection import with_level
from capscale.kernels.project.reference import Projected
from capscale.kernels.project.tpu import project as tpu
from capscale.kernels.project.tpu.tiles import SPILLED, VMEM, Tile, candidates, default_tile, vmem_bytes
from support.cases import parametrize

from capscale.defaults import default_estimator
from capscale.estimators import Both, BRms, RmsThreshold, Trust
from capscale.formats import catalog
from capscale.formats.compose import SparseQuantized
from capscale.formats.grids import Int
from capscale.formats.pattern import NM
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax
from capscale.fused import spec_of
from capscale.models.ladder import LADDERS

CHECKS = testing.checks()
BFLOAT16 = ("interpret-bfloat16", "interpret-gradient-bfloat16")
ROTATED = {name: (f, default_estimator(f)) for name, f in catalog.FORMATS.items()}
ROTATED = {name: of for name, of in ROTATED.items() if not isinstance(spec_of(*of), Unsupported)}
# Masks that read the root mean square of the row, whatever the scales are measured on.
ROTATED |= {
    "2:4 [rms]": (catalog.find("2:4"), RmsThreshold(0.1)),
    "2:4 [b-rms]": (catalog.find("2:4"), BRms(0.1)),
    "4:8-pairs [b-rms]": (catalog.find("4:8-pairs"), BRms(0.1)),
    "2:4+int4 [b-rms+trust]": (catalog.find("2:4+int4"), Both(BRms(0.1))),
    "2:4+mxfp4 [b-rms+trust]": (catalog.find("2:4+mxfp4"), Both(BRms(0.1))),
    "2:4+int4-g128 [b-rms+trust]": (SparseQuantized(NM(2, 4), Scalar(Int(4), Absmax(), 128)), Both(BRms(0.1))),
}
# Several checks of one format by default; with -m ci all checks of it, and one format of every mechanism; all with
# -m slow.
DEFAULT = {("int4", check) for check in ("interpret-float32", "cuda-sm90")}
AT_EVERY_CHANGE = {("int4", check) for check in CHECKS if check not in (*BFLOAT16, "interpret-gpu")}
AT_EVERY_CHANGE |= {(name, "interpret-bfloat16") for name in ("higgs-d2-n16",)}
AT_EVERY_CHANGE |= {
    (name, f"tpu-{chip}") for name, chip in (("nvfp4", "v5e"), ("2:4+int4", "v4"), ("higgs-d4-n256", "v6e"))
}
AT_EVERY_CHANGE |= {("mxfp4", "cuda-sm90"), ("mxfp4", "interpret-gpu")}
AT_EVERY_CHANGE |= {("2:4+int4 [b-rms+trust]", check) for check in ("interpret-float32", "tpu-v4", "cuda-sm90")}
AT_EVERY_CHANGE |= {("2:4 [b-rms]", check) for check in ("interpret-bfloat16", "tpu-v5e")}


def marks_of(name, check):
    if (name, check) in DEFAULT:
        return []
    return pytest.mark.ci if (name, check) in AT_EVERY_CHANGE else pytest.mark.slow


def run(check, spec, record_property):
    record_property("kernel", f"project {check}")
    try:
        CHECKS[check](spec)
    except aot.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("name", "check"),
    [pytest.param(name, check, marks=marks_of(name, check)) for name in ROTATED for check in CHECKS],
)
def test_project(name, check, record_property):
    """Rotated forth and back, which is what lone weights need."""
    spec = spec_of(*ROTATED[name], 128, True)
    assert not isinstance(spec, Unsupported)
    run(check, spec, record_property)


def test_default_checks_exist():
    assert DEFAULT < AT_EVERY_CHANGE
    assert {check for _, check in AT_EVERY_CHANGE} == set(CHECKS) - {"interpret-gradient-bfloat16"}
    assert {name for name, _ in AT_EVERY_CHANGE} <= set(ROTATED)


@dataclass(frozen=True)
class Squares:
    """0, ±1, ±4, ±9: a grid from outside, in a few lines."""

    codes = 7

    @property
    def levels(self):
        return np.array([-9.0, -4.0, -1.0, 0.0, 1.0, 4.0, 9.0])

    def nearest(self, u):
        size = jnp.abs(u)
        level = jnp.where(size > 6.5, 9.0, jnp.where(size > 2.5, 4.0, jnp.where(size > 0.5, 1.0, 0.0)))
        gap = jnp.where(size > 4.0, 5.0, jnp.where(size > 1.0, 3.0, 1.0))
        return jnp.where(jnp.isnan(u), u, jnp.where(u < 0, -level, level)), gap

    def encode(self, u):
        level, _ = self.nearest(u)
        return sum((level > lower).astype(jnp.int32) for lower in self.levels[:-1].tolist())

    def decode(self, codes):
        root = codes.astype(jnp.float32) - 3
        return root * jnp.abs(root)


QUICK = ("interpret-float32", "interpret-codes", "tpu-v5p", "tpu-v4-codes", "cuda-sm90")
"""Without -m slow; by default the second of them alone."""


@parametrize(
    "check",
    [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CHECKS],
    default=["interpret-codes"],
)
def test_a_grid_from_outside(check, record_property):
    spec = spec_of(Scalar(Squares(), Absmax(), 32), Trust(), 64)
    assert not isinstance(spec, Unsupported)
    run(check, spec, record_property)


def off_by_a_step(grid, x, scale, keep, **how):
    found, level = with_level(grid, x, scale, keep, **how)
    return found._replace(value=jnp.where(x > 1, found.value + scale, found.value)), level


def without_infinity(grid, x, scale, keep, **how):
    found, level = with_level(grid, x, scale, keep, **how)
    return found._replace(value=jnp.where(jnp.isnan(found.value), 0.0, found.value)), level


def narrow_trust(grid, x, scale, keep, **how):
    found, level = with_level(grid, x, scale, keep, **how)
    return found._replace(error_in_steps=found.error_in_steps * 1.01), level


@pytest.mark.parametrize(
    ("bad", "message"), [(off_by_a_step, "value: "), (without_infinity, "value: "), (narrow_trust, "mask: ")]
)
def test_the_kit_catches_bad_kernels(monkeypatch, bad, message):
    spec = spec_of(Scalar(catalog.find("int4").grid), Trust())
    monkeypatch.setattr(tpu, "with_level", bad)
    with pytest.raises(AssertionError, match=message):
        testing.check_interpreted(spec, shapes=((5, 128),))


def test_the_kit_catches_a_wrong_root_mean_square(monkeypatch):
    spec = spec_of(*ROTATED["2:4 [b-rms]"])
    measured = tpu.row_rms
    monkeypatch.setattr(tpu, "row_rms", lambda *of: 1.1 * measured(*of))
    with pytest.raises(AssertionError, match="mask: "):
        testing.check_interpreted(spec, shapes=((5, 128),))


@pytest.mark.parametrize(("bad", "message"), [(jnp.nan, "values: NaN or infinity"), (3.0, "2 of 1024 values differ")])
def test_the_kit_catches_what_is_not_close(bad, message):
    """NaNs where there are numbers, and numbers beside an infinity."""
    good = Projected(jnp.ones((4, 256)).at[0, 0].set(jnp.nan).at[0, 1].set(jnp.inf), None)
    allowed = compare.tolerance(jnp.float32, exact_rotation=False)
    compare.close(good, good, 256, allowed)
    with pytest.raises(AssertionError, match=message):
        compare.close(Projected(good.value_RK.at[1, 1:3].set(bad), None), good, 256, allowed)


def test_the_kit_catches_codes_of_another_grid():
    spec, other = (Spec(catalog.find(name).grid, RmsTimes(0.3), 32) for name in ("int4", "int3"))
    x, allowed = testing.rows((4, 256), jnp.float32), compare.tolerance(jnp.float32, exact_rotation=False)
    expected = testing.reference.encode(spec, x)
    for wrong in (testing.reference.encode(other, x), expected._replace(scales=expected.scales.at[0, 0].set(jnp.nan))):
        with pytest.raises(AssertionError, match=r"(codes|scales) differ|scales: NaN"):
            compare.close_codes(spec, wrong, expected, 256, allowed)


def test_the_kit_catches_kernels_that_outgrow_vmem(monkeypatch):
    try:
        aot.tpu_devices("v5e:2x2")
    except aot.Unavailable as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(tpu, "vmem_bytes", lambda *_: 0)
    monkeypatch.setattr(tpu, "fitting_tile", lambda *_: Tile(512, 64))
    spec = spec_of(catalog.find("int4"), Trust())
    with pytest.raises(Exception, match=r"(?i)vmem"):
        testing.check_tpu(spec, shapes=((1024, 5632),))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rows", [1, 8, 1000, 32768])
def test_the_tiles_of_every_ladder_width_fit(rows, dtype):
    spec = spec_of(catalog.find("int4"), Trust(), 128, True)
    assert not isinstance(spec, Unsupported)
    for width in testing.WIDTHS:
        assert tpu.unsupported(spec, (rows, width), dtype) is None
        default, fitting = default_tile((rows, width), dtype), candidates((rows, width), dtype)
        assert default in fitting
        for tile in fitting:
            assert vmem_bytes(tile, width, dtype) + SPILLED <= VMEM


def test_a_measured_tile_is_taken_on_its_chip(monkeypatch, tmp_path):
    import json

    import jax

    path = tmp_path / "tiles.json"
    monkeypatch.setenv("CAPSCALE_TILES", str(path))
    path.write_text(json.dumps({"chip": jax.devices()[0].device_kind, "tiles": {"bfloat16-640": [96, 32]}}))
    assert default_tile((32768, 640), jnp.bfloat16) == Tile(96, 32)
    assert default_tile((1, 640), jnp.bfloat16) == Tile(32, 32), "no larger than the rows"
    assert default_tile((32768, 640), jnp.float32) != Tile(96, 32)
    other = tmp_path / "other.json"
    monkeypatch.setenv("CAPSCALE_TILES", str(other))
    other.write_text(json.dumps({"chip": "another chip", "tiles": {"bfloat16-640": [96, 32]}}))
    assert default_tile((32768, 640), jnp.bfloat16) != Tile(96, 32)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"tiles": {}}', '{"chip": "cpu", "tiles": {"a": [1]}}', '{"chip": "cpu", "tiles": {"a": [64, 48]}}'],
)
def test_a_bad_table_is_refused(monkeypatch, tmp_path, text):
    path = tmp_path / "tiles.json"
    path.write_text(text)
    monkeypatch.setenv("CAPSCALE_TILES", str(path))
    with pytest.raises(ValueError, match="CAPSCALE_TILES="):
        default_tile((8, 640), jnp.bfloat16)


def test_the_widths_are_those_of_the_ladders():
    models = [model for ladder in LADDERS.values() for model in ladder.sizes.values()]
    widths = {width for model in models for width in (model.width, model.hidden)}
    assert set(testing.WIDTHS) == {width for width in widths if width % 128 == 0}


@pytest.mark.slow
@pytest.mark.parametrize("width", testing.WIDTHS)
@pytest.mark.parametrize("chip", aot.CHIPS)
def test_every_ladder_width_compiles(chip, width, record_property):
    record_property("kernel", f"project tpu-{chip}")
    spec = spec_of(catalog.find("int4"), Trust(), 128, True)
    try:
        testing.check_tpu(spec, chip, shapes=((32768, width),))
    except aot.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("shape", "dtype", "parts", "reason"),
    [
        ((8, 100), jnp.float32, {}, "not whole multiples of 128 lanes"),
        ((8, 0), jnp.float32, {}, "not whole multiples of 128 lanes"),
        ((8, 640), jnp.float16, {}, "takes float32 and bfloat16, not float16"),
        ((8, 640), jnp.float32, {"rotation": 256}, "rotation=256 does not divide"),
        ((8, 1024), jnp.float32, {"rotation": 256}, "rotation=256 is not a power of two up to 128"),
        ((8, 2**18), jnp.float32, {}, "do not fit into 16 MiB"),
    ],
)
def test_what_the_tpu_kernel_cannot_do_is_said(shape, dtype, parts, reason):
    spec = spec_of(catalog.find("int4"), Trust(), **parts)
    assert reason in str(tpu.unsupported(spec, shape, dtype))
