"""How well a table tells the numbers of a fit apart: Jacobian, singular values, correlations, deviations."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from capscale.analysis.fit import Fit

FLAT = 0.2
"""Standard deviation, as a share of the range that starts are drawn from, of a direction that the runs do not hold."""


class Conditioning(NamedTuple):
    """How well the design tells the fitted numbers apart at the optimum."""

    names: tuple[str, ...]
    condition: float
    """Ratio of the largest to the smallest singular value of the Jacobian with unit columns."""
    correlation: np.ndarray
    """Between the estimates (p, p)."""
    deviation: np.ndarray
    """Standard deviations of the coordinates (p,)."""


def conditioning(fit: "Fit") -> Conditioning:
    """Singular values and correlations from the Jacobian at the optimum, over the numbers not fixed or at a bound."""
    inside = fit.free & ~np.isin(fit.problem.names, fit.bounds_hit)
    J = fit.whiten(jacobian(fit)[:, inside]) * np.sqrt(fit.problem.weight)[:, None]
    norms = column_norms(J)
    _, singular, V = np.linalg.svd(J / norms, full_matrices=False)
    covariance = (V.T / np.maximum(singular, 1e-12 * singular[0] + 1e-150) ** 2) @ V
    deviation = np.sqrt(np.diag(covariance))
    names = tuple(n for n, k in zip(fit.problem.names, inside, strict=True) if k)
    return Conditioning(
        names,
        float(singular[0] / singular[-1]) if singular[-1] > 1e-150 * singular[0] else float("inf"),
        covariance / np.outer(deviation, deviation),
        _deviation(fit, fit.whitened) * deviation / norms,
    )


def column_norms(J: np.ndarray) -> np.ndarray:
    """Norms of the columns (p,); 1 for a number without any effect, which the singular values then show as flat."""
    norms = np.linalg.norm(J, axis=0)
    return np.where(norms > 1e-150, norms, 1.0)


def residual_deviation(fit: "Fit") -> float:
    """Standard deviation of single runs about the law and about what they share, in nats."""
    return _deviation(fit, fit.whiten(fit.residuals))


def _deviation(fit: "Fit", residuals: np.ndarray) -> float:
    spent = int(fit.free.sum())
    return float(np.sqrt(np.sum(residuals**2) / max(len(fit.table) - spent, 1)))


def jacobian(fit: "Fit") -> np.ndarray:
    """Derivative of the fitted loss, or of its logarithm where that is fitted, by the coordinates (R, p).

    Errors that rows share are not whitened out of it (`Fit.whiten` does).
    """
    J = fit.problem.jacobian(fit.z)
    return J / fit.predicted[:, None] if fit.settings.logarithmic else J


def flat_directions(fit: "Fit") -> np.ndarray:
    """Steps in coordinates (M, p) along which the runs hardly hold the fit: one standard deviation of linear theory.

    A direction counts as flat when that deviation is beyond `FLAT` of the range that starts are drawn from, as a step
    it is no longer than that range.
    """
    inside = fit.free & ~np.isin(fit.problem.names, fit.bounds_hit)
    low, high = np.array([q.start for q in fit.problem.parameters]).T
    unit = np.maximum(high - low, 1e-9)[inside]
    J = fit.whiten(jacobian(fit)[:, inside]) * np.sqrt(fit.problem.weight)[:, None] * unit
    # All p directions, those that fewer rows leave open too; of J itself that would take a matrix of rows by rows.
    _, singular, V = np.linalg.svd(np.linalg.qr(J).R, full_matrices=True)
    singular = np.pad(singular, (0, len(unit) - len(singular)))
    deviation = fit.noise**0.5 / np.maximum(singular, 1e-12 * singular[0] + 1e-150)
    flat = deviation > FLAT
    steps = np.zeros((int(flat.sum()), len(fit.z)))
    steps[:, inside] = np.minimum(deviation[flat], 1.0)[:, None] * V[flat] * unit
    return steps
