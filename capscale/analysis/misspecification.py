"""Whether the runs contradict a law: score tests against wider laws that it is a case of.

A law that is wrong is still fitted, and its numbers come with intervals as if it were right. Each wider law adds
directions to the fitted one's derivatives: the derivative by its further number, where that is what makes it the fitted
law (Rao 1948; Engle 1984, Handbook of Econometrics 2, ch. 13), or squares and products of log N, log D and log rho for
a law of any other shape (Ramsey 1969, J. R. Stat. Soc. B 31). That the residuals lie along them is an F test of the law
linearised at its optimum, so that nothing is fitted again. What runs share would pass for misfit, and misfit for what
they share: the ratios of shared errors are inferred with the further directions taken out, and the test averaged over
their posterior.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from capscale.analysis.conditioning import column_norms, jacobian
from capscale.analysis.families import Wider, wider
from capscale.analysis.fit import Fit
from capscale.analysis.law import Law
from capscale.analysis.problem import Problem, pose
from capscale.analysis.shared_errors import infer

LEVEL = 0.02
"""Share of tables of a right law that are said to contradict it, all tests together (Bonferroni)."""
NEW = 1e-4
"""Part of a direction that the law's own derivatives do not span, from which it counts: derivatives are differences."""
EXACT = 1e-6
"""Root mean squared residual, in nats, below which a law describes the runs: losses have six digits."""
LEAST_PROBABLE = 1e-3
"""Ratios of shared errors that are less probable than this are left out of the average."""


@dataclass(frozen=True)
class Contradiction:
    """The wider law that the runs ask for most.

    Attributes:
      wider: that law, with the number that it adds; None for squares and products of log N, log D and log rho.
      chance: bound on how often runs of a law that is right would ask for some wider one as much.
    """

    wider: Wider | None
    chance: float


def contradiction(fit: Fit) -> Contradiction | None:
    """The strongest objection of the runs to the fitted law; None where chance explains every one of them.

    Rows of weight 0 are not asked. Numbers that are fixed or have priors are as free as the others here, as far as
    linear theory reaches: that the runs deny them is no fault of the law (see `constraints`).
    """
    if np.sqrt(np.mean(fit.loss_units[fit.problem.weight > 0] ** 2)) < EXACT:
        return None
    chances = [(found, shape) for shape, extra in _directions(fit) if (found := chance(fit, extra)) is not None]
    if not chances:
        return None
    least, shape = min(chances, key=lambda found: found[0])
    bound = min(len(chances) * least, 1.0)
    return Contradiction(shape, bound) if bound < LEVEL else None


def _directions(fit: Fit) -> Iterator[tuple[Wider | None, np.ndarray]]:
    """Of each wider law what it adds to the derivatives of the loss (R, q)."""
    for shape in wider(fit.law):
        yield shape, added(fit, shape.law, shape)
    yield None, curvature(fit)


def added(fit: Fit, law: Law, shape: Wider) -> np.ndarray:
    """Derivatives of the loss (R, q) by what `law`, which has the number of `shape` besides, adds to the fitted law."""
    problem = pose(fit.table, law, tuple(fit.constraints.fixed))
    z, new = placed(fit, problem, shape)
    return problem.jacobian(z)[:, new]


def placed(fit: Fit, problem: Problem, shape: Wider) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (p,) of a wider law at which it is the fitted one, and which of them that one has not (p,), bool."""
    known = dict(zip(fit.problem.names, fit.z, strict=True))
    z = [known[n] if n in known else problem.coordinate(n, shape.at) for n in problem.names]
    return np.array(z), np.array([n not in known for n in problem.names])


def curvature(fit: Fit) -> np.ndarray:
    """Squares and products of log N, log D and log rho of every row (R, q)."""
    axes = [np.log(fit.table.column("N")), np.log(fit.table.column("D")), fit.problem.log_rho(fit.z)]
    axes = [x - x.mean() for x in axes]
    return np.stack([x * y for i, x in enumerate(axes) for y in axes[i:]], axis=1)


def chance(fit: Fit, extra: np.ndarray) -> float | None:
    """How often residuals of a right law lie along further directions (R, q) as much; None if it spans them itself."""
    own = jacobian(fit)
    if fit.settings.logarithmic:
        extra = extra / fit.predicted[:, None]
    own, extra = own / column_norms(own), extra / column_norms(extra)
    active = fit.problem.weight > 0
    shared = infer(fit.shared, fit.loss_units, np.hstack([own, extra]), active)
    likely = shared.probability >= LEAST_PROBABLE * shared.probability.max()
    found = [_f_test(fit, own, extra, ratio) for ratio in shared.grid[likely]]
    told = [p for p in found if p is not None]
    return float(np.average(told, weights=shared.probability[likely])) if len(told) == len(found) else None


def _f_test(fit: Fit, own: np.ndarray, extra: np.ndarray, ratio: np.ndarray) -> float | None:
    """Chance of residuals that lie along `extra` as much, where errors are shared in this ratio."""
    root = np.sqrt(fit.problem.weight)
    columns = np.column_stack([own, extra, fit.loss_units])
    R = np.linalg.qr(root[:, None] * fit.whiten(columns, ratio)).R  # its columns have the angles of the whole
    p = own.shape[1]
    own, extra, residual = R[:, :p], R[:, p:-1], R[:, -1]
    U, singular, _ = np.linalg.svd(own / column_norms(own), full_matrices=False)
    U = U[:, singular > 1e-9 * singular[0]]
    extra = extra / column_norms(extra)
    V, new, _ = np.linalg.svd(extra - U @ (U.T @ extra), full_matrices=False)
    V = V[:, new > NEW]
    spare = int((fit.problem.weight > 0).sum()) - U.shape[1] - V.shape[1]
    if V.shape[1] == 0 or spare < 1:
        return None
    rest = residual - U @ (U.T @ residual)
    along = V.T @ rest
    left = float(rest @ rest - along @ along)
    return float(f_distribution.sf(along @ along / V.shape[1] / max(left / spare, 1e-300), V.shape[1], spare))
