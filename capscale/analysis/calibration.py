"""How far a profile's statistic goes by chance: its limit, for few runs and for shared errors of unknown size.

With many independent rows the statistic 2 (objective - optimum) / tau of the true value is chi-squared with one degree
of freedom. Here tau is estimated from n - p degrees of freedom, and the ratios of variances that the objective whitens
by are uncertain. By linear theory, and given the ratios, an estimate is Student-t about its value under them; over
their posterior (`shared_errors`) it is a mixture of such. The limit is the square of the mixture's quantile.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import root_scalar
from scipy.stats import t as student

from capscale.analysis.conditioning import jacobian
from capscale.analysis.fit import Fit

MOST_POINTS = 400
"""Points of the posterior, the most probable ones, that a reference is made of."""


@dataclass(frozen=True)
class Reference:
    """The distribution of one estimate about the truth, in standard deviations that the objective's optimum has."""

    probability: np.ndarray
    """Of every component (M,)."""
    shift: np.ndarray
    width: np.ndarray
    freedom: int

    def limit(self, level: float) -> float:
        """Quantile of the statistic at `level`."""
        if len(self.probability) == 1 and self.shift[0] == 0 and self.width[0] == 1:
            return float(student.ppf((1 + level) / 2, self.freedom)) ** 2

        def excess(reach: float) -> float:
            ends = [student.cdf((s * reach - self.shift) / self.width, self.freedom) for s in (1, -1)]
            return float(self.probability @ (ends[0] - ends[1])) - level

        top = float(np.max(np.abs(self.shift) + self.width)) * float(student.ppf((1 + level) / 2, self.freedom)) + 1
        while excess(top) < 0:
            top *= 2
        return float(root_scalar(excess, bracket=(0.0, top), method="brentq").root) ** 2


def references(fit: Fit) -> list[Reference]:
    """The reference of every coordinate (p); of one that was not fitted it means nothing."""
    shared, active, free = fit.shared, fit.problem.weight > 0, fit.free
    J, r = jacobian(fit)[:, free], fit.loss_units
    root = np.sqrt(fit.problem.weight[active])[:, None]
    norms = np.maximum(np.linalg.norm(J, axis=0), 1e-150)

    def estimates(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where least squares moves the numbers to with these ratios, and their standard deviations (both free)."""
        both = fit.whiten(np.column_stack([J / norms, r]), ratio)[active] * root
        U, singular, V = np.linalg.svd(both[:, :-1], full_matrices=False)
        inverse = V.T / np.maximum(singular, 1e-9 * singular[0] + 1e-150)
        within = U.T @ both[:, -1]
        left = np.sum(both[:, -1] ** 2) - np.sum(within**2)
        return inverse @ within, np.sqrt(max(left, 1e-300) * np.sum(inverse**2, axis=1))

    most = np.argsort(-shared.probability, kind="stable")[:MOST_POINTS]
    probability = shared.probability[most] / shared.probability[most].sum()
    where, unit = estimates(shared.ratio)
    if len(most) == 1:
        shifts, widths = np.zeros((1, len(unit))), np.ones((1, len(unit)))
    else:
        each = [estimates(ratio) for ratio in shared.grid[most]]
        shifts, widths = np.array([(z - where) / unit for z, _ in each]), np.array([w / unit for _, w in each])
    column = np.maximum(np.cumsum(free) - 1, 0)
    return [Reference(probability, shifts[:, k], widths[:, k], fit.freedom) for k in column]


def linear_theory(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of every coordinate (p,), and where all go with one unit of each (p, p); 0 where not fitted.

    Beside the optimum: numbers on a bound stay there, unless it is they that move.
    """
    free = np.flatnonzero(fit.free)
    inside = np.flatnonzero(fit.free & ~np.isin(fit.problem.names, fit.bounds_hit))
    J = fit.whiten(jacobian(fit)) * np.sqrt(fit.problem.weight)[:, None]
    norms = np.maximum(np.linalg.norm(J, axis=0), 1e-150)
    deviation, trace = np.zeros(len(fit.z)), np.zeros((len(fit.z), len(fit.z)))
    for i in free:
        others = inside[inside != i]
        moves, *_ = np.linalg.lstsq(J[:, others] / norms[others], -J[:, i], rcond=1e-9)
        left = np.linalg.norm(J[:, i] + J[:, others] / norms[others] @ moves)
        deviation[i] = fit.noise**0.5 / max(left, 1e-9 * norms[i])
        trace[i, i], trace[i, others] = 1.0, moves / norms[others]
    return deviation, trace
