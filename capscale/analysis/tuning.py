"""Trials of one thing at several learning rates: the best of them stands for it."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from capscale.analysis.repeats import conditions
from capscale.analysis.row import Remark, Row

RATES = ("learning_rate", "lr")
"""Columns that hold a run's learning rate."""


def at_best_rates(rows: Sequence[Row]) -> tuple[list[Row], list[Remark]]:
    """Rows of which each size, D and format that was trained at several learning rates keeps those of the best one.

    Best is the least mean loss over the seeds that all of its rates have, or over all seeds where they share none; of
    equals the lower rate. A remark says of every such cell which rates were set aside. Rows without a rate stay.
    """
    cells: dict[tuple[Any, ...], dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if math.isfinite(rate := _rate(row)):
            cells[row.N, row.D, row.identity, conditions(row)][rate].append(row)
    worse, remarks = set(), []
    for trials in cells.values():
        if len(trials) < 2:
            continue
        means = _means(trials)
        best = min(sorted(means), key=means.__getitem__)
        others = [row for rate, group in trials.items() if rate != best for row in group]
        worse |= {id(row) for row in others}
        remarks.append(_said(trials[best][0], len(others), best, means))
    return [row for row in rows if id(row) not in worse], remarks


def _rate(row: Row) -> float:
    return next((row.extra[name] for name in RATES if math.isfinite(row.extra.get(name, math.nan))), math.nan)


def _means(trials: dict[float, list[Row]]) -> dict[float, float]:
    """Mean loss at each rate, of the same seeds where there are such."""
    shared = set.intersection(*({row.seed for row in group} for group in trials.values()))
    return {
        rate: float(np.mean([row.loss for row in group if not shared or row.seed in shared]))
        for rate, group in trials.items()
    }


def _said(row: Row, count: int, best: float, means: dict[float, float]) -> Remark:
    losses = ", ".join(f"{means[rate]:.4f} at {rate:.3g}" for rate in sorted(means))
    where = f"{row.curve} at N = {row.N:.4g}, D = {row.D:.4g}"
    what = f"set aside: {count} {'run' if count == 1 else 'runs'} at other learning rates than the best, {best:.3g}"
    return Remark(where, f"{what}; mean losses: {losses}; --where {_name(row)}=RATE keeps those of one rate")


def _name(row: Row) -> str:
    return next(name for name in RATES if math.isfinite(row.extra.get(name, math.nan)))
