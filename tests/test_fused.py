"""The kernel behind `linear`: the same numbers as the formats' own code, wherever the kernel takes the format."""

import logging
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from capscale.kernels.project import Unsupported, reference
from capscale.kernels.project.mask import unpack_mask
from support.cases import parametrize

from capscale.defaults import default_estimator
from capscale.estimators import ABRms, Both, BRms, Clip, ForwardMask, RmsThreshold, StraightThrough, Trust
from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.compose import SparseQuantized
from capscale.formats.grids import Int
from capscale.formats.pattern import NM
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax
from capscale.fused import spec_of
from capscale.representation import Operand, Representation, linear, operand

RNG = np.random.default_rng(0)
COVERED = [name for name, f in catalog.FORMATS.items() if not isinstance(spec_of(f, default_estimator(f)), Unsupported)]


def test_every_scalar_format_and_pattern_is_covered():
    scalars = {name for name, f in catalog.FORMATS.items() if isinstance(f, Scalar)}
    searched, blocks, shared = {"nvfp4-four-over-six"}, {"absmax-e4m3-g128x128", "nvfp4-g16x16"}, {"q4_k", "q5_k"}
    shared |= {"hif4", "nf4-double-quantized"}
    chance = {"int4-stochastic", "mxfp4-ceil-stochastic", "nvfp4-stochastic"}
    measured_twice = {"int4-unbiased", *(f"lloyd{bits}-unbiased" for bits in (1, 2, 4))}
    # scales that are searched, of blocks of rows, of several groups; what is drawn; scales that read what was rounded
    assert scalars - set(COVERED) == searched | blocks | shared | chance | measured_twice
    assert {"2:4", "4:8-pairs", "2:4+int4", "2:4+mxfp4", "higgs-d2-n256", "higgs-d4-n16"} <= set(COVERED)
    assert len(COVERED) > 70


@pytest.mark.parametrize(
    ("name", "estimator", "reason"),
    [
        ("top50", StraightThrough(), "TopK formats are left to XLA"),
        ("noise2", StraightThrough(), "Noise formats"),
        ("2:4", ABRms(0.5), "takes error functions of what is measured"),
        ("2:4+int4", Both(ABRms(0.5)), "takes error functions of what is measured"),
        ("int4", BRms(0.1), "reads what the kernel does not measure"),
        ("2:4", Clip(), "reads what the kernel does not measure"),
    ],
)
def test_what_is_left_to_xla_says_why(name, estimator, reason):
    assert reason in str(spec_of(catalog.find(name), estimator))


@pytest.mark.parametrize(
    ("name", "estimator", "reads"),
    [
        ("2:4", RmsThreshold(0.1), True),
        ("2:4", BRms(0.1), True),
        ("2:4", ForwardMask(), False),
        ("2:4", StraightThrough(), False),
        ("2:4+int4", Both(BRms(0.1)), True),
        ("2:4+int4", Both(ForwardMask()), False),
        ("int4", Trust(), False),
    ],
)
def test_the_rows_root_mean_square_is_measured_where_the_mask_reads_it(name, estimator, reads):
    spec = spec_of(catalog.find(name), estimator)
    assert not isinstance(spec, Unsupported)
    assert spec.reads_rms == reads


@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ("int4", "dense"),
        pytest.param(Operand(NM(2, 4), BRms(0.1)), "dense", marks=pytest.mark.ci),
        pytest.param("nvfp4", "dense", marks=pytest.mark.slow),
        pytest.param("2:4+int4", "int4", marks=pytest.mark.slow),
        pytest.param("dense", "mxfp4", marks=pytest.mark.slow),
    ],
)
def test_linear_runs_the_kernel(weights, activations, caplog):
    """Interpreted, the product and its gradients are those of the formats' own code."""
    weights = weights if isinstance(weights, Operand) else operand(weights)
    representation = Representation(weights, operand(activations, per_token=True), 128)
    x = jnp.asarray(RNG.standard_normal((2, 3, 128)), jnp.float32)
    w = jnp.asarray(RNG.standard_normal((128, 8)), jnp.float32)

    def run(x, w):
        # Of numbers about 1, and a sum that nothing cancels in: it shows rounding as large as it is.
        return jax.value_and_grad(lambda x, w: jnp.sum(1 - jnp.cos(linear(x, w, representation) / 11)), (0, 1))(x, w)

    value, gradients = jax.jit(run)(x, w)
    with dispatch.target("tpu", interpret=True), dispatch.force("require"):
        text = str(jax.make_jaxpr(run)(x, w))
        fused_value, fused_gradients = jax.jit(run)(x, w)
    assert "capscale_project" in text
    np.testing.assert_allclose(fused_value, value, rtol=1e-6)
    for fused, plain in zip(fused_gradients, gradients, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-6)


def test_what_no_kernel_takes_falls_back_with_one_line(caplog, monkeypatch):
    monkeypatch.setattr(dispatch, "_decided", {})
    representation = Representation(operand("top50"), operand("int4"))
    x, w = jnp.ones((3, 48)), jnp.ones((48, 8))
    with dispatch.target("tpu"), caplog.at_level(logging.WARNING, "capscale.kernels"):
        text = str(jax.make_jaxpr(lambda x, w: linear(x, w, representation))(x, w))
    assert "capscale_project" not in text
    lines = [line for record in caplog.records if (line := record.getMessage()).startswith("project ")]
    assert len(lines) == 2
    assert "TopK formats are left to XLA" in lines[0]
    assert "rows of 48 values are not whole multiples of 128 lanes" in lines[1]
    with dispatch.target("tpu"), dispatch.force("require"), pytest.raises(ValueError, match="TopK formats are left"):
        linear(x, w, representation)


def test_a_learned_step_keeps_its_gradient():
    """The kernel has no slope, so that LSQ in training is XLA's."""
    lsq = operand("lsq4")
    x = jnp.ones((3, 128))
    ctx = Context(learned=jnp.full((3, 1), 0.5))
    representation = Representation(activations=Operand(lsq.format, lsq.estimator))
    with dispatch.target("tpu", interpret=True):
        gradient = jax.grad(
            lambda step: jnp.sum(linear(x, jnp.ones((128, 4)), representation, NO_CONTEXT, Context(learned=step)))
        )(ctx.learned)
    assert bool((gradient != 0).all())


@pytest.mark.ci
@pytest.mark.parametrize("weights", ["int4", "dense"])
@pytest.mark.parametrize(("block", "signs"), [(128, 7), (256, None), (640, 7)])
def test_signs_and_large_blocks_stand_around_the_kernel(weights, block, signs, monkeypatch, caplog):
    """XLA rotates ahead of it by what is more than a register, and says so; values and gradients are those of XLA."""
    monkeypatch.setattr(dispatch, "_decided", {})
    representation = Representation(operand(weights), operand("int4", per_token=True), block, signs)
    x, w = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((6, 1280), (1280, 8)))

    def run(x, w):
        return jax.value_and_grad(lambda x, w: jnp.sum(1 - jnp.cos(linear(x, w, representation) / 40)), (0, 1))(x, w)

    value, gradients = jax.jit(run)(x, w)
    with dispatch.target("tpu", interpret=True), caplog.at_level(logging.INFO, "capscale.kernels"):
        text = str(jax.make_jaxpr(run)(x, w))
        fused_value, fused_gradients = jax.jit(run)(x, w)
    assert "capscale_project" in text
    told = [record.getMessage() for record in caplog.records if "rotated by" in record.getMessage()]
    assert any(f"rotated by {block} ahead of it, as kernels" in line for line in told) == (block > 128)
    np.testing.assert_allclose(fused_value, value, rtol=1e-5)
    for fused, plain in zip(fused_gradients, gradients, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-4, atol=1e-5)


@parametrize("blocks", [(256, 128), (128, 256)], default=1)
def test_a_rotation_that_no_kernel_does_is_not_taken_for_one_that_it_does(blocks, monkeypatch):
    """Whichever comes first: what was decided for the same format and shape, rotated otherwise, says nothing."""
    monkeypatch.setattr(dispatch, "_decided", {})
    x = jnp.asarray(RNG.standard_normal((3, 256)), jnp.float32)
    w = jnp.asarray(RNG.standard_normal((256, 8)), jnp.float32)
    for block in blocks:
        representation = Representation(operand("int4"), operand("int4", per_token=True), block)
        with dispatch.target("tpu", interpret=True):
            text = str(jax.make_jaxpr(lambda x, r=representation: linear(x, w, r))(x))
            found = linear(x, w, representation)
        assert "capscale_project" in text
        assert ("platform_index" in text) == (block > 128), "XLA rotates"
        np.testing.assert_allclose(found, linear(x, w, representation), rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class Halved(Absmax):
    def measure(self, group, grid, ctx):
        return tuple(part / 2 for part in super().measure(group, grid, ctx))


@dataclass(frozen=True)
class Doubled(Scalar):
    def project(self, x, ctx):
        projection = super().project(x, ctx)
        return projection._replace(value=projection.value * 2)


@pytest.mark.parametrize(
    ("format", "reason"),
    [
        (Scalar(Int(4), Halved()), "Halved overrides measure of Absmax and states no kernel_rule of its own"),
        (Doubled(Int(4)), "Doubled overrides project of Scalar and states no kernel_spec of its own"),
        (SparseQuantized(NM(2, 4), Doubled(Int(4))), "Doubled overrides project of Scalar"),
    ],
)
def test_derived_classes_are_not_taken_for_what_they_are_derived_from(format, reason):
    assert reason in str(spec_of(format, StraightThrough()))


def test_pruned_entries_are_trusted_by_their_own_size():
    """Their error is |x|, in steps of the grid: the mask of the kernel is that of the format."""
    format, x = SparseQuantized(NM(2, 4), Scalar(Int(2))), jnp.asarray(RNG.standard_normal((16, 128)), jnp.float32)
    spec, found = spec_of(format, Trust()), format.project(x, NO_CONTEXT)
    assert not isinstance(spec, Unsupported)
    assert found.keep is not None
    mask = reference.project(spec, x).mask_RW
    assert mask is not None
    passes = np.asarray(unpack_mask(mask, x.shape[1]))
    np.testing.assert_array_equal(passes, Trust()(x, found))
    pruned = ~np.asarray(found.keep)
    assert 0.1 < passes[pruned].mean() < 0.9


def test_an_estimator_that_passes_everything_has_no_mask():
    spec = spec_of(catalog.find("2:4+int4"), Both(grid=StraightThrough()))
    assert not isinstance(spec, Unsupported)
    assert spec.mask is None
