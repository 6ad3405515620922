"""Rounding and a low rank by rounds, beside outliers, and of a fixed rank, against float64 with its own matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_nearest import best, distance, gaussian

from capscale.errors import UserError
from capscale.formats import Compensated, Context, Int, Nearest, Outliers, Scalar
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.formats.distributions import NORMAL
from capscale.formats.packing import pack, unpack
from capscale.formats.scale import Absmax, Rms
from capscale.formats.storage import storage_bits
from capscale.gaussian_mse import gmse, gmse_of_shape, measured
from capscale.models.ladder import find_size
from capscale.models.mixture import mixture_of, of_format
from capscale.parametrizations import LowRank, low_rank
from capscale.policy_names import find_policy
from capscale.testing import CHECKS, Subject, exempt
from capscale.testing.contracts import check_gmse

INT2, TENTH = Scalar(Int(2)), Nearest(LowRank(share=0.1))
SIX = Compensated(INT2, TENTH, rounds=6)
TURN = jax.jit(lambda state, x: SIX.next_state(state, x, x, jnp.int32(1), jnp.float32(0)))


def rounded(x, format=INT2, apart=None):
    """Rows at the nearest level of their scale, in float64; `apart` is kept, and not counted in the scale."""
    others = np.ones(x.shape, bool) if apart is None else ~apart
    clip = format.scale.clip(format.grid) if isinstance(format.scale, Rms) else None
    largest = np.abs(np.where(others, x, 0)).max(-1, keepdims=True)
    rms = np.sqrt(np.square(np.where(others, x, 0)).sum(-1, keepdims=True) / others.sum(-1, keepdims=True))
    levels = format.grid.levels / format.grid.levels[-1]
    scale = largest if clip is None else clip * rms
    value = levels[np.abs(x[..., None] / scale[..., None] - levels).argmin(-1)] * scale
    return np.where(others, value, x)


def alternated(x, rank, rounds, format=INT2):
    """Errors after every round, as shares of the energy."""
    x = np.asarray(x, np.float64)
    low_rank, found = np.zeros_like(x), []
    for _ in range(rounds):
        value = rounded(x - low_rank, format)
        low_rank = best(x - value, rank)
        found.append(distance(x, value + low_rank) / np.square(x).sum())
    return found


def error(format, x, ctx=NO_CONTEXT):
    return distance(x, format.project(jnp.asarray(x), ctx).value) / np.square(np.asarray(x, np.float64)).sum()


def test_two_rounds_are_those_of_loftq():
    x, format = gaussian((24, 32)), Compensated(INT2, Nearest(LowRank(2)), 2)
    expected = alternated(x, 2, 2)
    assert expected[1] < 0.97 * expected[0]
    assert error(format, x) == pytest.approx(expected[1], rel=1e-4)


@pytest.mark.ci
def test_more_rounds_leave_less_and_the_best_is_kept():
    """Of six the last is the best where entries are Gaussian; of scales by the largest entry some make it worse."""
    x = gaussian((100, 100))
    expected = alternated(x, 5, 6)
    assert expected[5] == min(expected)
    assert expected[5] == pytest.approx(0.0778, rel=0.05), "the prototype's, of larger matrices"
    assert error(SIX, x) == pytest.approx(expected[5], rel=2e-3)
    assert error(Compensated(INT2, TENTH), x) == pytest.approx(expected[0], rel=1e-5)
    coarse, turned_back = Scalar(Int(2, "mid-tread"), Absmax()), 0
    for seed in range(4):
        heavy = gaussian((24, 32), seed) ** 3
        own = alternated(heavy, 1, 4, coarse)
        turned_back += own[3] > min(own)
        found = error(Compensated(coarse, Nearest(LowRank(1)), 4), heavy)
        assert found <= error(Compensated(coarse, Nearest(LowRank(1))), heavy) * (1 + 1e-6)
        assert found == pytest.approx(min(own), rel=1e-2)
    assert turned_back


@pytest.mark.ci
def test_each_matrix_keeps_its_own_round():
    """Two in one tensor, of which one is best in another round, are as each is alone."""
    coarse = Compensated(Scalar(Int(2, "mid-tread"), Absmax()), Nearest(LowRank(1)), 4)
    x = jnp.asarray(gaussian((4, 24, 32)) ** 3)
    together = coarse.project(x, NO_CONTEXT).value
    for value, matrix in zip(together, x, strict=True):
        np.testing.assert_allclose(value, coarse.project(matrix, NO_CONTEXT).value, atol=1e-5)


@pytest.mark.ci
def test_rounds_are_held_to_the_contracts_of_formats():
    """As formats of the catalog are; their state has a low rank of one sign. The error is measured elsewhere."""
    subject = Subject(find("int2~lowrank0.05-rounds3"), symmetric=False)
    for check in CHECKS:
        if exempt(check, subject) is None and check is not check_gmse:
            check(subject)


@pytest.mark.ci
def test_a_state_is_the_rounds_so_far_and_every_step_one_more():
    """Weights that walk by a hundredth a step stay near what rounds from the beginning find; a still state does not."""
    x = gaussian((60, 80))
    state = still = SIX.initial_state(jnp.asarray(x))
    anew = SIX.project(jnp.asarray(x), NO_CONTEXT).value
    np.testing.assert_allclose(SIX.project(jnp.asarray(x), Context(state=state)).value, anew, atol=1e-5)
    for step in range(20):
        x = x + 0.01 * gaussian(x.shape, seed=2 + step)
        state = TURN(state, jnp.asarray(x))
    followed = error(SIX, x, Context(state=state))
    assert followed < 1.02 * error(SIX, x)
    assert error(SIX, x, Context(state=still)) > 1.01 * followed, "the test can fail"
    with pytest.raises(UserError, match=r"a state of shape \(80, 3\) in Context.state, .* has one of \(220, "):
        SIX.project(jnp.asarray(x), Context(state=jnp.ones((80, 3))))


@pytest.mark.ci
def test_rounds_of_weights_that_walk_far_stay_below_one():
    """A tenth of the weights a step, 300 steps: each round alone would leave 1e7 times the energy by then."""
    three, walk = find("int2~lowrank0.125-rounds3"), np.random.default_rng(0)
    turn = jax.jit(lambda state, x: three.next_state(state, x, x, jnp.int32(1), jnp.float32(0)))
    x = gaussian((2, 16, 16))
    state = three.initial_state(jnp.asarray(x))
    for step in range(300):
        x = np.float32((x + 0.1 * walk.standard_normal(x.shape)) / np.sqrt(1.01))
        state = turn(state, jnp.asarray(x))
        if step % 50 == 49:
            one = error(find("int2~lowrank0.125"), x)
            assert error(three, x, Context(state=state)) < one < error(INT2, x)


@pytest.mark.ci
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounds_and_outliers_are_packed_and_read_back(dtype):
    x = jnp.asarray(gaussian((2, 40, 64)), dtype)
    for format in (SIX, Compensated(Outliers(INT2, 0.03), Nearest(LowRank(4)), rounds=2)):
        packed = pack(format, x, NO_CONTEXT)
        np.testing.assert_array_equal(unpack(packed), jax.jit(lambda x, f=format: f.project(x, NO_CONTEXT).value)(x))
        assert 8 * packed.nbytes / x.size == pytest.approx(storage_bits(format, x.shape, dtype), abs=0.02)


def test_outliers_are_kept_and_the_low_rank_is_of_what_is_left():
    format = Compensated(Outliers(INT2, 0.05), Nearest(LowRank(3)))
    x = gaussian((40, 60)) ** 3
    apart = np.zeros(x.shape, bool)
    np.put_along_axis(apart, np.argsort(-np.abs(x), -1)[:, :3], values=True, axis=-1)
    kept = np.where(apart, x.astype(jnp.bfloat16).astype(np.float64), 0)
    value = np.where(apart, kept, rounded(np.asarray(x, np.float64), apart=apart))
    expected = value + best(x - value, 3)
    np.testing.assert_allclose(format.project(jnp.asarray(x), NO_CONTEXT).value, expected, atol=1e-3)
    assert error(format, x) < 0.6 * error(Compensated(INT2, Nearest(LowRank(3))), x)
    assert format.bits == pytest.approx(2 + 0.05 * 30 + Nearest(LowRank(3)).bits)


@pytest.mark.slow
def test_errors_with_outliers_are_the_product_and_those_by_rounds_are_measured():
    format = find("int2-outliers1~lowrank0.1")
    assert gmse(format).value == pytest.approx(gmse(find("int2-outliers1")).value * gmse(TENTH).value, rel=1e-12)
    drawn = measured(format, NORMAL, 200)
    assert gmse_of_shape(format, (200, 200)).value == pytest.approx(drawn.value, rel=0.015)
    by_rounds = gmse_of_shape(SIX, (100, 100))
    assert by_rounds.value == pytest.approx(0.0778, rel=0.05)
    assert 0 < by_rounds.standard_error <= 2e-3 * by_rounds.value
    assert by_rounds.value < gmse_of_shape(Compensated(INT2, TENTH), (100, 100)).value


def test_a_fixed_rank_is_of_its_matrix():
    """Value, error and bits; refused above the width; one of a catalog's table is of squares of 1024, which it says."""
    format, x = Nearest(LowRank(16)), gaussian((60, 160))
    assert find("nearest-lowrank-r16") == format
    np.testing.assert_allclose(format.project(jnp.asarray(x), NO_CONTEXT).value, best(x, 16), atol=1e-4)
    assert gmse_of_shape(format, (60, 160)).value == pytest.approx(error(format, x), rel=0.03)
    told = gmse(format)
    assert (told.value, told.method) == (low_rank.low_rank_error(16, (1024, 1024)), "closed form, squares of 1024")
    assert format.bits == storage_bits(format, (1024, 1024)) == 0.5
    assert Nearest(LowRank(2000)).bits == storage_bits(Nearest(LowRank(2000)), (4096, 4096))
    assert gmse(format, samples=64).value == low_rank.low_rank_error(16, (64, 64))
    with pytest.raises(UserError, match="lowrank-r16 of a matrix of 12 inputs and 60 outputs: rank=16 is above"):
        format.project(jnp.asarray(x[:, :12]), NO_CONTEXT)


def test_a_model_has_the_error_and_the_bits_of_its_own_matrices():
    model = find_size("nano-48")
    error, bits = of_format(model, find("int4~lowrank-r4"))
    sizes = np.array([inputs * outputs for inputs, outputs in model.projections.values()])
    stored = [4 + 16 * 4 * sum(shape) / np.prod(shape) for shape in model.projections.values()]
    int4 = find("int4")
    left = [gmse(int4, samples=n).value * low_rank.low_rank_error(4, (n, m)) for n, m in model.projections.values()]
    assert bits == pytest.approx(np.average(stored, weights=sizes), rel=0.1)  # and a float32 scale a row
    assert bits > np.average(stored, weights=sizes)
    assert error == pytest.approx(np.average(left, weights=sizes), rel=1e-6)
    mixture = mixture_of(model, find_policy([".*=int4~lowrank-r4"]))
    assert (mixture.weights_gmse, mixture.weights_bits) == pytest.approx((error, bits))
    with pytest.raises(UserError, match="rank=64 is above the smaller side"):
        of_format(model, find("nearest-lowrank-r64"))
