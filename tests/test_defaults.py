"""Default estimators: those of their authors, held to the authors' numbers."""

import json
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capscale.defaults import RBBM, default_estimator
from capscale.estimators import BRms, Clip, ForwardMask, Hypersphere, Lsq, StraightThrough, ThroughScale, Trust
from capscale.estimators_rotated import BothRotated
from capscale.formats.base import Context
from capscale.formats.catalog import find
from capscale.formats.grids import Int
from capscale.formats.optimum import optimal_clip
from capscale.representation import DENSE, Operand, Representation, operand

RUNS = Path(__file__).resolve().parents[1].parent / "shared" / "rundata" / "quest" / "runs_for_scaling.json"


def test_one_for_every_kind():
    expected = {
        "dense": StraightThrough(),
        "int4": Trust(),
        "int4-g32": Trust(),
        "ternary": Trust(),
        "nvfp4": Trust(),
        "lsq4": Lsq(),
        "int4-outliers1": Trust(),
        "top50": RBBM,
        "2:4": RBBM,
        "4:8-pairs": RBBM,
        "gmp50": ForwardMask(),
        "rigl50": ForwardMask(),
        "nearest-lowrank0.25": StraightThrough(),
        "int2~lowrank0.05": StraightThrough(),
        "2:4+int4": Trust(),
        "top50+nvfp4": Trust(),
        "top50+rotated-int4": BothRotated(RBBM, Trust()),
        "higgs-d2-n16": Hypersphere(1.6),
        "noise2": ThroughScale("row"),
        "noise2-matrix": ThroughScale("matrix"),
    }
    for name, estimator in expected.items():
        assert default_estimator(find(name)) == default_estimator(find(name), rotated=True) == estimator, name
    assert isinstance(RBBM, BRms)


def test_one_bit_depends_on_the_rotation_and_a_representation_knows_it():
    assert default_estimator(find("int1"), rotated=True) == Clip(1.3)
    assert default_estimator(find("int1"), rotated=False) == Clip(1.25)
    assert Representation(operand("int1"), hadamard=128).weights.estimator == Clip(1.3)
    assert Representation(operand("int1")).weights.estimator == Clip(1.25)
    assert Representation(operand("int1 [clip]"), hadamard=128).weights.estimator == Clip(1.0)
    assert Representation(operand("2:4+int1")).weights.estimator == Clip(1.25)


def test_what_is_left_open_equals_the_default_written_out():
    assert Representation(operand("top50")) == Representation(operand("top50", RBBM))
    assert hash(Representation(operand("top50"))) == hash(Representation(operand("top50", RBBM)))
    assert Representation(Operand()) == DENSE


def test_clip_scales_are_those_of_quests_runs():
    if not RUNS.is_file():
        pytest.skip(f"{RUNS} is not there: QuEST's published runs")
    one_bit = [r for r in json.loads(RUNS.read_text()) if r["w_bits"] == 1]
    scales = Counter(("Hadamard" in r["w_quant"], r["clip_scale"]) for r in one_bit)
    assert scales == {(True, 1.3): 10, (False, 1.25): 5}
    for rotated, scale in scales:
        assert default_estimator(find("int1"), rotated) == Clip(scale)


def gaussian_rows(seed=0, shape=(8, 512)):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("scale", [1.25, 1.3])
def test_one_bit_mask_is_quests(scale):
    """`|x| <= clip_scale * c_1 * RMS`, in float64."""
    x = gaussian_rows()
    bound = scale * optimal_clip(Int(1)) * np.sqrt(np.mean(x**2, -1, keepdims=True))
    mask = Clip(scale)(jnp.asarray(x, jnp.float32), find("int1").project(jnp.asarray(x, jnp.float32), Context()))
    np.testing.assert_array_equal(mask, np.abs(x) <= bound)


def test_mask_and_values_of_sparse_then_quantized_are_quests():
    """`FourEightTrustQuantizer` by its equations, in float64: scales of the dense row, trust on pruned entries too."""
    x = gaussian_rows(seed=1)
    std = np.sqrt(np.mean(x**2, -1, keepdims=True))
    scale = optimal_clip(Int(4)) * std
    step = 2 * scale / 15
    value = np.round(np.clip(x, -scale, scale) / step + 0.5) * step - step / 2
    norms = np.linalg.norm(x.reshape(8, -1, 4, 2), axis=-1)
    pruned = np.argsort(norms, axis=-1)[..., :2]
    keep = np.ones(norms.shape, bool)
    np.put_along_axis(keep, pruned, False, axis=-1)
    value = value * np.repeat(keep, 2, axis=-1).reshape(x.shape)
    expected = np.abs(value - x) <= std * optimal_clip(Int(4)) / 15

    format, rows = find("4:8-pairs+int4-dense-scales"), jnp.asarray(x, jnp.float32)
    projection = format.project(rows, Context())
    np.testing.assert_allclose(projection.value, value, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(default_estimator(format)(rows, projection), expected)
    assert 0.55 < expected.mean() < 0.63  # 58.8 % of QuEST's; the mask of survivors alone passes 99.6 %


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lsqs_gain_and_step_are_the_authors(bits):
    """One step a tensor, its gradient times `1 / sqrt(numel (2^(b-1) - 1))` (arXiv 1902.08153, LSQQuantizer)."""
    format = find(f"lsq{bits}")
    assert format.learned_shape((32, 64)) == ()
    assert format.learned_gain((32, 64)) == pytest.approx((32 * 64 * (2 ** (bits - 1) - 1)) ** -0.5)
    rms = float(np.sqrt(np.mean(gaussian_rows(2) ** 2)))
    start = float(format.initial_learned(jnp.asarray(gaussian_rows(2), jnp.float32)))
    assert start == pytest.approx(2 * optimal_clip(Int(bits)) * rms / (2**bits - 1), rel=1e-5)


def test_noise_has_the_authors_deviation_a_row():
    """`std(row) * 2^-bits * randn`: rows of unequal size get noise in proportion, each its own."""
    x = jnp.asarray(gaussian_rows(3, (4, 4096)) * np.array([[1], [2], [4], [8]]), jnp.float32)

    error = np.asarray(find("noise2").project(x, Context(key=jax.random.key(0))).value - x, np.float64)
    np.testing.assert_allclose(error.std(-1) / np.asarray(x).std(-1), 2.0**-2, rtol=0.05)
