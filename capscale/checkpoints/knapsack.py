"""One choice for each of several parts, so that their losses add up to the least that a budget of costs allows.

The multiple-choice knapsack problem, by dynamic programming over Pareto-optimal sums: part by part, those totals are
kept that no other beats in both cost and loss.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from capscale.errors import UserError

LONGEST = 50_000
"""Sums that are kept; of more, the best of each of as many equal stretches of cost."""


class Chosen(NamedTuple):
    """The choice of every part.

    Attributes:
      choices: index of each part's choice.
      cost, loss: their sums.
      exact: False where sums were thinned out on the way, so that a better one may exist.
    """

    choices: tuple[int, ...]
    cost: float
    loss: float
    exact: bool


def choose(costs: Sequence[np.ndarray], losses: Sequence[np.ndarray], budget: float, longest: int = LONGEST) -> Chosen:
    """The choices of least total loss among those whose total cost is within `budget`.

    Args:
      costs: of every part, the cost of each of its choices, at least 0.
      losses: of every part, the loss of each of its choices, of either sign.
      budget: for the sum of costs.
      longest: sums that are kept at a time; all the more exact.

    Raises:
      UserError: where even the cheapest choices cost more.

    Example: `choose([np.array([1, 2])] * 2, [np.array([3, 0]), np.array([5, 0])], 3).choices` is `(0, 1)`.
    """
    least = np.array([np.min(cost) for cost in costs], np.float64)
    if least.sum() > budget:
        raise UserError(f"a budget of {budget:g} is below {least.sum():g}, what the cheapest choices cost; raise it")
    still = np.append(np.cumsum(least[::-1])[::-1], 0.0)  # what the parts from each one on cost at the least
    cost, loss, exact = np.zeros(1), np.zeros(1), True
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for part, (of_cost, of_loss) in enumerate(zip(costs, losses, strict=True)):
        sums, worth = (
            np.add.outer(total, np.asarray(mine, np.float64)).ravel()
            for total, mine in ((cost, of_cost), (loss, of_loss))
        )
        affordable = np.flatnonzero(sums + still[part + 1] <= budget * (1 + 1e-12))  # sums of floats, in any order
        order = affordable[np.lexsort((worth[affordable], sums[affordable]))]
        before = np.minimum.accumulate(np.append(np.inf, worth[order][:-1]))
        kept = order[worth[order] < before]
        if len(kept) > longest:
            exact = False
            stretch = np.floor((sums[kept] - sums[kept[0]]) / (sums[kept[-1]] - sums[kept[0]]) * longest)
            kept = kept[np.append(stretch[1:] != stretch[:-1], True)]  # the last of a stretch has its least loss
        steps.append((kept // len(of_cost), kept % len(of_cost)))
        cost, loss = sums[kept], worth[kept]
    at, choices = len(cost) - 1, []
    for parents, taken in reversed(steps):
        choices.append(int(taken[at]))
        at = parents[at]
    return Chosen(tuple(choices[::-1]), float(cost[-1]), float(loss[-1]), exact)
