"""Paired differences: Student's interval as SciPy has it, and shares of a rise that hold the truth as often as said."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from capscale.analysis import paired
from capscale.errors import UserError


def test_a_mean_has_the_interval_of_student():
    values = np.array([0.02, 0.05, -0.01, 0.03])
    found, expected = paired.mean(values), ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_shares_hold_the_truth_in_nineteen_of_twenty():
    random, true, held = np.random.default_rng(0), 0.25, 0
    for _ in range(2000):
        below = random.normal(0.2, 0.02, 4)
        found = paired.ratio(true * below + random.normal(0.0, 0.01, 4), below)
        held += found.low <= true <= found.high
    assert 0.93 < held / 2000 < 0.97


def test_only_what_all_columns_have_is_paired():
    first = {paired.Pair(1.0, 0.0): 2.0, paired.Pair(1.0, 1.0): 2.5, paired.Pair(2.0, 0.0): 1.0}
    second = {pair: loss - 0.5 for pair, loss in list(first.items())[1:]}
    assert paired.together(first, second).tolist() == [[2.5, 1.0], [2.0, 0.5]]
    with pytest.raises(UserError, match="needs two"):
        paired.together(first, dict(list(second.items())[:1]))
    with pytest.raises(UserError, match="says nothing"):
        paired.ratio(np.array([1.0, 2.0]), np.array([-1.0, -2.0]))
