import numpy as np
import pytest

from capscale.analysis.factorization import Axis, CapacityGrid, closest_product, entry_intervals, product
from capscale.analysis.printed import printed
from capscale.errors import UserError


@pytest.mark.parametrize(
    ("figure", "mean", "largest"), [("2b", 0.014, 0.034), ("6", 0.041, 0.084), ("7", 0.045, 0.079), ("9", 0.023, 0.096)]
)
def test_printed_figures(figure, mean, largest):
    found = product(printed()[figure].grid).summary()
    assert found["mean_abs"] == pytest.approx(mean, abs=5e-4)
    assert found["max_abs"] == pytest.approx(largest, abs=6e-4)


def test_the_product_underestimates_where_both_operands_are_compressed():
    assert product(printed()["6"].grid).summary()["share_positive"] == 1.0
    assert product(printed()["2b"].grid).summary()["share_positive"] > 0.8


def test_printed_numbers_are_the_papers():
    six = printed()["6"].grid
    assert six.capacity[1, 2] == 0.40
    assert six.corner == (4, 4)
    assert printed()["9"].grid.capacity.shape == (10, 5)
    assert printed()["7"].deviation[1, 3] == 0.05
    part = printed()["9"].at(
        (Axis("sparsity of weights", ("0", "0.5", "0.9"), "0"), Axis("bits of weights", ("3", "16"), "16"))
    )
    np.testing.assert_array_equal(part.grid.capacity, [[0.58, 1.0], [0.42, 0.72], [0.24, 0.35]])
    np.testing.assert_array_equal(part.product, [[0.58, 1.0], [0.42, 0.72], [0.20, 0.35]])
    with pytest.raises(UserError, match=r"bits of weights has no level '5': 2, 3, 4, 8, 16"):
        printed()["9"].grid.at([["0"], ["5", "16"]])


def grid(*factors, seed=None, resamples=0, change=None):
    """A grid of exactly multiplicative capacities, the first level of every axis uncompressed."""
    axes = tuple(Axis(f"f{k}", tuple(f"{k}{i}" for i in range(len(f))), f"{k}0") for k, f in enumerate(factors))
    capacity = factors[0]
    for f in factors[1:]:
        capacity = np.multiply.outer(capacity, f)
    capacity = np.array(capacity)
    for at, value in (change or {}).items():
        capacity[at] = value
    draws = None
    if resamples:
        draws = capacity * np.exp(np.random.default_rng(seed).normal(0, 0.05, (resamples, *capacity.shape)))
        draws[(slice(None), *[0] * len(axes))] = 1.0
    return CapacityGrid("x", axes, capacity, draws)


ROWS, COLUMNS, DEEP = np.array([1.0, 0.7, 0.3]), np.array([1.0, 0.5, 0.2, 0.9]), np.array([1.0, 0.6])


@pytest.mark.parametrize("factors", [(ROWS, COLUMNS), (ROWS, COLUMNS, DEEP), (ROWS, DEEP, DEEP, COLUMNS)])
def test_a_product_of_any_number_of_factors_is_found_exactly(factors):
    exact = grid(*factors)
    for found in (product(exact), closest_product(exact)):
        np.testing.assert_allclose(found.errors, 0, atol=1e-12)
    assert product(exact).tested.sum() == exact.capacity.size - sum(len(f) - 1 for f in factors) - 1
    for k, factor in enumerate(factors):
        np.testing.assert_allclose(exact.line(k), factor)
    last = tuple(len(f) - 1 for f in factors)
    bent = product(grid(*factors, change={last: exact.capacity[last] + 0.1}))
    assert bent.summary()["max_abs"] == pytest.approx(0.1)
    assert bent.errors[last] == pytest.approx(0.1)


def test_errors_have_the_intervals_of_their_resamples():
    """An error of three numbers scatters by sqrt(3) times that of one, as it is independent of the others."""
    found = product(grid(ROWS, COLUMNS, seed=0, resamples=4000))
    ends = entry_intervals(found.error_draws)
    width = (ends[1] - ends[0])[1:, 1:] / (2 * 1.96)
    np.testing.assert_allclose(width, 0.05 * np.sqrt(3) * found.predicted[1:, 1:], rtol=0.08)
    assert entry_intervals(product(grid(ROWS, COLUMNS)).error_draws) is None
    three = product(grid(ROWS, COLUMNS, DEEP, seed=0, resamples=4000))
    ends = entry_intervals(three.error_draws)
    np.testing.assert_allclose(((ends[1] - ends[0]) / 3.92)[1, 1, 1], 0.05 * 2 * 0.7 * 0.5 * 0.6, rtol=0.08)


def test_holes_are_left_out_and_levels_that_nothing_measures_are_not_predicted():
    holed = grid(ROWS, COLUMNS, change={(1, 1): np.nan, (2, 0): np.nan, (2, 3): np.nan})
    found = product(holed)
    assert not found.tested[2].any()
    assert not found.tested[1, 1]
    assert found.predicted[1, 1] == pytest.approx(0.35)
    assert found.summary()["entries"] == 2
    assert closest_product(holed).predicted[2, 0] == pytest.approx(0.3)
    empty = grid(ROWS, COLUMNS, change={(2, j): np.nan for j in range(4)})
    assert np.isnan(closest_product(empty).predicted[2]).all()
    assert closest_product(empty).predicted[1, 1] == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("axes", "capacity", "message"),
    [
        ((2, 2), np.ones((3, 2)), "shape"),
        ((2,), np.ones(2), "at least 2 factors"),
        ((2, 2), np.array([[1.0, 0.0], [0.5, 0.2]]), "positive"),
        ((2, 2), np.array([[np.nan, 1.0], [0.5, 0.2]]), "corner is missing"),
    ],
)
def test_grids_that_are_none_are_refused(axes, capacity, message):
    named = tuple(Axis(f"f{k}", tuple(f"{k}{i}" for i in range(n)), f"{k}0") for k, n in enumerate(axes))
    with pytest.raises(UserError, match=message):
        CapacityGrid("x", named, capacity)


@pytest.mark.parametrize(("levels", "dense"), [(("a",), "a"), (("a", "a"), "a"), (("a", "b"), "c")])
def test_axes_that_are_none_are_refused(levels, dense):
    with pytest.raises(UserError, match="all different"):
        Axis("bits", levels, dense)
