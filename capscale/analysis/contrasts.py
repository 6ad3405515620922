"""Contrasts: differences of losses of runs that share size, tokens and seed, with what seeds leave uncertain of them.

Runs of one seed have their batches and initial weights in common, so that differences scatter less than losses. How
much is measured in each cell of size and tokens, on all policies together: what is left of every loss without the mean
of its policy and the mean of its seed. With two seeds one difference tells its own scatter by a single number, where a
dozen policies tell it by a dozen. That the policies of a cell scatter alike is assumed; cells do not (short trainings
scatter several times as far as long ones), so that each has its own, and a contrast of several the degrees of freedom
of Satterthwaite (1946).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from capscale.analysis.claims import Estimate
from capscale.analysis.effects import estimates_of
from capscale.analysis.evidence import Evidence
from capscale.errors import UserError
from capscale.policy import Frozen

Contrast = Mapping[Frozen, float]
"""Weights of policies that sum to 0, so that what a seed adds to all of them cancels."""
Cell = tuple[float, float]
"""Size and tokens, N and D."""
Losses = Mapping[str, Mapping[Cell, Mapping[float, float]]]
"""Loss in nats per token by curve, cell and seed."""
LEAST_FREEDOM = 2
"""Degrees of freedom below which no interval is told: at 1 that of Student's t is 13 deviations wide either way."""
LEVEL = 0.95


class Scatter(NamedTuple):
    """Standard deviation of a loss beside its policy's and its seed's means, in nats; and its degrees of freedom."""

    deviation: float
    freedom: int


def between(first: Frozen, second: Frozen) -> Contrast:
    """The loss of the first less that of the second."""
    return combined([({first: 1.0}, 1.0), ({second: 1.0}, -1.0)])


def combined(parts: Iterable[tuple[Contrast, float]]) -> Contrast:
    """The sum of contrasts, each times a factor."""
    total: dict[Frozen, float] = defaultdict(float)
    for contrast, factor in parts:
        for policy, weight in contrast.items():
            total[policy] += factor * weight
    return {policy: weight for policy, weight in total.items() if weight}


def mean_of(contrasts: Iterable[Contrast]) -> Contrast:
    """The mean of contrasts."""
    every = list(contrasts)
    return combined((each, 1 / len(every)) for each in every)


def losses_of(evidence: Evidence) -> Losses:
    """Losses of a table that say their seed, those of one curve, cell and seed averaged."""
    found: dict[str, dict[Cell, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in evidence.table.rows:
        if math.isfinite(row.seed):
            found[row.curve][row.N, row.D][row.seed].append(row.loss)
    return {
        curve: {cell: {seed: float(np.mean(all_of)) for seed, all_of in seeds.items()} for cell, seeds in cells.items()}
        for curve, cells in found.items()
    }


def scatter_of(losses: Losses) -> dict[Cell, Scatter]:
    """The scatter of all policies of each cell; that of all cells together where one alone does not tell its own.

    Raises:
      UserError: seeds do not repeat often enough to tell it.
    """
    cells = {cell for cells in losses.values() for cell in cells}
    squares = {cell: _squares([found[cell] for found in losses.values() if cell in found]) for cell in cells}
    total, freedom = sum(square for square, _ in squares.values()), sum(free for _, free in squares.values())
    if freedom < LEAST_FREEDOM:
        raise UserError(
            f"the scatter of seeds rests on {freedom} degrees of freedom, {LEAST_FREEDOM} needed: "
            "train several policies with two seeds each"
        )
    told = {cell: each if each[1] >= LEAST_FREEDOM else (total, freedom) for cell, each in squares.items()}
    return {cell: Scatter(math.sqrt(square / free), free) for cell, (square, free) in told.items()}


def _squares(of_cell: Collection[Mapping[float, float]]) -> tuple[float, int]:
    """Sum of squares beside the means of policies and seeds, and its degrees of freedom, of policies with all seeds."""
    seeds = sorted({seed for each in of_cell for seed in each})
    whole = np.array([[each[seed] for seed in seeds] for each in of_cell if len(each) == len(seeds)])
    if len(whole) < 2 or len(seeds) < 2:
        return 0.0, 0
    left = whole - whole.mean(axis=0) - whole.mean(axis=1, keepdims=True) + whole.mean()
    return float(np.square(left).sum()), (len(whole) - 1) * (len(seeds) - 1)


def estimate(evidence: Evidence, contrast: Contrast, *, per_efold: bool = False) -> Estimate:
    """A contrast with its 95 % interval of Student's t, in nats per token.

    Args:
      evidence: rows with seeds.
      contrast: what to tell; cells count where all of its policies have a seed in common.
      per_efold: its slope along ln D at equal N, in place of its mean over the cells.

    Raises:
      UserError: a policy has no rows, no cell has them all, or the scatter or the slope is not told.
    """
    if not math.isclose(sum(contrast.values()), 0.0, abs_tol=1e-9):
        raise ValueError(f"weights of a contrast sum to 0, these to {sum(contrast.values())}")
    by_curve = {evidence.curve(policy): weight for policy, weight in contrast.items()}
    return of_losses(losses_of(evidence), by_curve, per_efold=per_efold)


def estimates_by_name(
    evidence: Evidence, contrasts: Mapping[str, Contrast], per_efold: Collection[str] = ()
) -> dict[str, Estimate]:
    """Contrasts of an experiment's statements, those named as slopes; one that rows do not tell is missing, and why."""

    def told(name: str) -> Callable[[], Estimate]:
        return lambda: estimate(evidence, contrasts[name], per_efold=name in per_efold)

    return estimates_of({name: told(name) for name in contrasts})


def of_losses(losses: Losses, by_curve: Mapping[str, float], *, per_efold: bool = False) -> Estimate:
    """The same of losses, and of weights by curve."""
    cells = sorted(set.intersection(*(set(losses.get(curve, {})) for curve in by_curve)))
    seeds = {cell: sorted(set.intersection(*(set(losses[curve][cell]) for curve in by_curve))) for cell in cells}
    cells = [cell for cell in cells if seeds[cell]]
    if not cells:
        raise UserError(f"no size and tokens with a common seed of {', '.join(by_curve)}")
    weights = _slopes(cells) if per_efold else np.full(len(cells), 1 / len(cells))
    every = {
        (curve, cell): float(w * c) for cell, w in zip(cells, weights, strict=True) for curve, c in by_curve.items()
    }
    return of_cells(losses, every, seeds)


def of_cells(
    losses: Losses, weights: Mapping[tuple[str, Cell], float], seeds: Mapping[Cell, Collection[float]]
) -> Estimate:
    """The sum of losses by curve and cell, means over the seeds of a cell, each times its weight."""
    scatter = scatter_of(losses)
    means = (np.mean([losses[curve][cell][s] for s in seeds[cell]]) for curve, cell in weights)
    value = float(sum(w * mean for w, mean in zip(weights.values(), means, strict=True)))
    variances: dict[Cell, float] = defaultdict(float)
    for (_, cell), w in weights.items():
        variances[cell] += w * w / len(seeds[cell]) * scatter[cell].deviation ** 2
    variance = sum(variances.values())
    parts = sum(each * each / scatter[cell].freedom for cell, each in variances.items())
    freedom = variance * variance / parts if parts else math.inf  # no seed differs from another
    width = float(student.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    of_these = {cell: scatter[cell] for cell in sorted(variances)}
    return Estimate(
        value, value - width, value + width, _note(of_these, sum(len(seeds[cell]) for cell in of_these), freedom)
    )


def _slopes(cells: list[Cell]) -> np.ndarray:
    """Weights of the cells in the least-squares slope along ln D that all sizes share."""
    N, x = np.array([cell[0] for cell in cells]), np.log([cell[1] for cell in cells])
    off = x - np.array([x[n == N].mean() for n in N])
    if not np.any(off):
        raise UserError("every size has one number of tokens, so that nothing is told along them")
    return off / np.square(off).sum()


def _note(cells: Mapping[Cell, Scatter], seeds: int, freedom: float) -> str:
    sizes: dict[float, list[float]] = defaultdict(list)
    for N, D in cells:
        sizes[N].append(D / N)
    of = "; ".join(f"N {N:.0f} at D/N {', '.join(f'{ratio:.0f}' for ratio in ratios)}" for N, ratios in sizes.items())
    told = ", ".join(f"{each.deviation:.4f}" for each in cells.values())
    return f"{of}; {seeds} seeds in all; scatter {told} nats, {freedom:.1f} degrees of freedom"
