"""Choices within a budget, against every combination and against another library's integer program."""

from itertools import product

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from capscale.checkpoints.knapsack import choose
from capscale.errors import UserError


def problem(seed, parts, choices):
    random = np.random.default_rng(seed)
    costs = [random.integers(1, 40, choices) * random.choice([0.25, 1.0]) for _ in range(parts)]
    losses = [random.normal(size=choices) for _ in range(parts)]  # of either sign: a rise may be below nothing
    least, most = sum(c.min() for c in costs), sum(c.max() for c in costs)
    return costs, losses, random.uniform(least, most)


@pytest.mark.parametrize("seed", range(20))
def test_every_combination(seed):
    costs, losses, budget = problem(seed, parts=5, choices=4)
    found = choose(costs, losses, budget)
    affordable = [
        (sum(loss[c] for loss, c in zip(losses, choices, strict=True)), choices)
        for choices in product(range(4), repeat=5)
        if sum(cost[c] for cost, c in zip(costs, choices, strict=True)) <= budget
    ]
    loss, _ = min(affordable)
    assert found.loss == pytest.approx(loss, abs=1e-12)
    assert found.exact
    assert found.cost == sum(cost[c] for cost, c in zip(costs, found.choices, strict=True)) <= budget
    assert found.loss == pytest.approx(sum(loss[c] for loss, c in zip(losses, found.choices, strict=True)))


def test_an_integer_program():
    costs, losses, budget = problem(7, parts=40, choices=6)
    one_each = np.kron(np.eye(40), np.ones(6))
    answer = milp(
        np.concatenate(losses),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(np.concatenate(costs)[None], -np.inf, budget)],
        integrality=np.ones(240),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    assert choose(costs, losses, budget).loss == pytest.approx(answer.fun, rel=1e-9)


def test_thinned_sums_are_within_the_budget_and_said_to_be_thinned():
    costs, losses, budget = problem(3, parts=30, choices=5)
    best, thin = choose(costs, losses, budget), choose(costs, losses, budget, longest=20)
    assert best.exact
    assert not thin.exact
    assert thin.cost <= budget
    assert best.loss <= thin.loss < best.loss + 0.2 * abs(best.loss)


def test_the_budget_itself_can_be_spent():
    """0.1 ten times is not 1 in floats, and buys ten parts of a tenth all the same."""
    found = choose([np.array([0.0, 0.1])] * 10, [np.array([1.0, 0.0])] * 10, 1.0)
    assert found.choices == (1,) * 10


def test_too_small_a_budget_is_refused():
    with pytest.raises(UserError, match="a budget of 3 is below 4, what the cheapest choices cost"):
        choose([np.array([2, 5])] * 2, [np.array([1, 0])] * 2, 3)
