"""Evolutionary search for one choice of every part, for losses that are no sum over parts.

The (1 + lambda) search of EvoPress (arXiv 2410.14649), with its mutation, which moves some parts to cheaper choices
and others to dearer ones, so that the total stays at the budget. Its selection in several steps of more and more tokens
is left out: every child is evaluated on all of the calibration text.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

CHILDREN = 8
"""Children of a generation, all evaluated on all of the calibration text."""

TRIES = 100
"""Mutations for every child of a generation, until one is new."""


class Found(NamedTuple):
    """The best choices that were evaluated, their loss, and how many evaluations it took."""

    choices: tuple[int, ...]
    loss: float
    evaluations: int


def search(
    start: Sequence[int],
    loss: Callable[[tuple[int, ...]], float],
    costs: Sequence[np.ndarray],
    budget: float,
    *,
    evaluations: int,
    seed: int = 0,
) -> Found:
    """The best of `evaluations` choices, from `start` on, all within the budget.

    Args:
      start: index of each part's choice; within the budget.
      loss: of any choices; called once for each that differs.
      costs: of every part, the cost of each of its choices.
      budget: for the sum of costs.
      evaluations: how often `loss` may be called, `start` included; fewer where the best has no new children.
      seed: of the random numbers.
    """
    random, parent = np.random.default_rng(seed), tuple(start)
    seen = {parent: loss(parent)}
    while len(seen) < evaluations:
        born: list[tuple[int, ...]] = []
        for _ in range(TRIES * CHILDREN):
            if len(born) == min(CHILDREN, evaluations - len(seen)):
                break
            child = mutated(parent, costs, budget, random)
            if child not in seen and child not in born:
                born.append(child)
        if not born:
            break
        seen |= {child: loss(child) for child in born}
        parent = min([parent, *born], key=lambda choices: seen[choices])
    return Found(parent, seen[parent], len(seen))


def mutated(
    parent: tuple[int, ...], costs: Sequence[np.ndarray], budget: float, random: np.random.Generator
) -> tuple[int, ...]:
    """A child of `parent`: one to three parts a step cheaper, then others dearer as far as the budget goes."""
    orders = [np.argsort(cost, kind="stable") for cost in costs]
    ranks = [int(np.flatnonzero(order == choice)[0]) for order, choice in zip(orders, parent, strict=True)]
    lowered = set()
    for part in random.permutation(len(ranks))[: min(random.integers(1, 4), random.integers(1, 4))]:
        if ranks[part] > 0:
            ranks[part] -= 1
            lowered.add(int(part))
    left = budget - sum(cost[order[rank]] for cost, order, rank in zip(costs, orders, ranks, strict=True))
    for part in random.permutation(len(ranks)):
        cost, order, rank = costs[part], orders[part], ranks[part]
        if part in lowered or rank + 1 == len(order):
            continue
        step = cost[order[rank + 1]] - cost[order[rank]]
        if step <= left:
            ranks[part], left = rank + 1, left - step
    return tuple(int(order[rank]) for order, rank in zip(orders, ranks, strict=True))
