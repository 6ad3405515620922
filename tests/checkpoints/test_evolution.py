"""Evolutionary search: within its budget, as many evaluations as it was given, and the best of a small problem."""

from itertools import product

import numpy as np
import pytest

from capscale.checkpoints.evolution import mutated, search

COSTS = [np.array([2.0, 3.0, 4.0]) * size for size in (1, 1, 2, 4)]


def loss(choices):
    """Interacting, so that no sum over parts tells it."""
    a, b, c, d = choices
    return (a - b) ** 2 + (2 - c) + 3 * (2 - d) * (1 + a == 1)


def cost(choices):
    return sum(of_part[c] for of_part, c in zip(COSTS, choices, strict=True))


def test_children_are_within_the_budget_and_spend_it():
    random = np.random.default_rng(0)
    parent, seen = (1, 1, 1, 1), set()
    for _ in range(300):
        child = mutated(parent, COSTS, 24.0, random)
        assert cost(child) <= 24
        for part in range(4):  # none could be a step dearer, but for those that were made cheaper or dearer already
            if child[part] == parent[part]:
                assert cost(child) + COSTS[part][child[part] + 1] - COSTS[part][child[part]] > 24
        seen.add(child)
    assert len(seen) > 5


def test_the_best_of_a_small_problem():
    affordable = [choices for choices in product(range(3), repeat=4) if cost(choices) <= 24]
    calls: list[tuple[int, ...]] = []

    def counted(choices):
        calls.append(choices)
        return loss(choices)

    found = search((1, 1, 1, 1), counted, COSTS, 24.0, evaluations=len(affordable))
    assert found.loss == min(map(loss, affordable))
    assert len(calls) == len(set(calls)) == found.evaluations <= len(affordable)
    assert all(cost(choices) <= 24 for choices in calls)


@pytest.mark.parametrize("evaluations", [1, 5, 12])
def test_no_more_evaluations_than_were_given(evaluations):
    calls = []
    found = search((0, 0, 0, 0), lambda c: calls.append(c) or loss(c), COSTS, 24.0, evaluations=evaluations)
    assert len(calls) == found.evaluations == evaluations


def test_it_ends_where_the_best_has_no_new_children():
    found = search((0, 0, 0, 0), loss, COSTS, 16.0, evaluations=1000)  # the cheapest of all is all there is
    assert (found.choices, found.evaluations) == ((0, 0, 0, 0), 1)
