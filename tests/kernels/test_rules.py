"""Mask rules as kernels take them: what they read, and what Mosaic does not lower of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import aot
from capscale.kernels.project import LargestOver, Pattern, Projection, Spec
from capscale.kernels.project.gpu import project as gpu
from capscale.kernels.project.rules import evaluate, operations, reads
from capscale.kernels.project.tpu import project as tpu
from capscale.kernels.testing import check_cuda, check_interpreted, check_tpu

from capscale.formats.grids import Int


def inside(x, measures):
    """A choice between booleans, and a negation."""
    large = jnp.abs(x) > measures.rms
    return jnp.where(measures.keep, large, ~large)


@jax.jit
def inside_a_function(x, measures):
    return inside(x, measures)


def by_rms(x, measures):
    return jnp.abs(x) > measures.rms


def by_step(x, measures):
    return jnp.abs(x) > measures.step


def nothing(x, measures):
    return None


MEASURES = Spec(Int(4), LargestOver(7.5), pattern=Pattern(2, 4)).measures


@pytest.mark.parametrize(
    ("rule", "wanted"), [(by_rms, True), (inside, True), (inside_a_function, True), (by_step, False), (nothing, False)]
)
def test_what_a_rule_reads_is_seen(rule, wanted):
    assert reads(rule, MEASURES, "rms") == wanted
    assert Spec(Int(4), LargestOver(7.5), pattern=Pattern(2, 4), mask=rule).reads_rms == wanted


def test_what_is_measured_follows_from_the_projection():
    def names(spec):
        return {name for name, measure in spec.measures._asdict().items() if measure is not None}

    assert names(Spec(pattern=Pattern(2, 4))) == {"value", "keep", "threshold", "rms"}
    assert names(Spec(Int(4), LargestOver(7.5))) == {
        "value",
        "step",
        "error_in_steps",
        "relative_magnitude",
        "dvalue_dscale",
    }
    assert not Spec(Int(4), LargestOver(7.5), mask=nothing).reads_rms


def test_operations_of_functions_inside_are_seen():
    traced = jax.make_jaxpr(lambda x: jax.jit(jax.scipy.special.ndtr)(x) + 1)(jnp.ones((1, 2)))
    assert {"erfc", "add"} <= operations(traced.jaxpr)
    assert "log" not in operations(traced.jaxpr)


@pytest.mark.parametrize("rule", [inside, inside_a_function])
def test_booleans_by_way_of_numbers_are_the_same(rule):
    x = jax.random.normal(jax.random.key(0), (8, 128))
    keep = jax.random.bernoulli(jax.random.key(1), 0.5, x.shape)
    measures = Projection(x, keep=keep, rms=jnp.ones_like(x))
    found = evaluate(rule, x, measures)
    np.testing.assert_array_equal(found, (np.abs(x) > 1) == np.asarray(keep))
    text = str(jax.make_jaxpr(lambda x, measures: evaluate(rule, x, measures))(x, measures))
    assert "not " not in text
    assert "bool[8,128] = select_n" not in text


def test_a_rule_that_chooses_no_booleans_is_left_as_it_is():
    x, measures = jnp.ones((8, 128)), Projection(jnp.ones((8, 128)), rms=jnp.ones((8, 128)))
    texts = [str(jax.make_jaxpr(run)(x, measures)) for run in (by_rms, lambda x, m: evaluate(by_rms, x, m))]
    assert texts[0] == texts[1]
    assert evaluate(nothing, x, measures) is None


SPEC = Spec(pattern=Pattern(2, 4), mask=inside)


def test_a_rule_with_choices_between_booleans_is_the_references():
    check_interpreted(SPEC, shapes=((5, 256),))


@pytest.mark.parametrize("chip", [pytest.param(c, marks=[] if c == "v4" else pytest.mark.slow) for c in aot.CHIPS])
def test_a_rule_with_choices_between_booleans_compiles(chip):
    try:
        check_tpu(SPEC, chip, shapes=((64, 256),))
    except aot.Unavailable as reason:
        pytest.skip(str(reason))


def test_a_rule_with_choices_between_booleans_lowers():
    check_cuda(SPEC, (64, 256))


@pytest.mark.parametrize(("kernel", "where", "name"), [(tpu, tpu, "row_rms"), (gpu, gpu.Measure, "take")])
@pytest.mark.parametrize(("rule", "measured"), [(by_rms, True), (lambda x, m: m.keep, False)])
def test_nothing_is_measured_that_no_mask_reads(*, kernel, where, name, rule, measured, monkeypatch):
    calls, measure = [], getattr(where, name)

    def counted(*operands, **options):
        calls.append(name)
        return measure(*operands, **options)

    monkeypatch.setattr(where, name, counted)
    spec = Spec(pattern=Pattern(2, 4), mask=rule)
    jax.make_jaxpr(lambda x: kernel.project(spec, x))(jax.ShapeDtypeStruct((64, 256), jnp.float32))
    assert bool(calls) == measured
