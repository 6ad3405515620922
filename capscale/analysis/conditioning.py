"""How well a table tells the numbers of a fit apart: Jacobian, singular values, correlations, deviations."""

from typing import NamedTuple

import numpy as np

from capscale.analysis.fit import Fit


class Conditioning(NamedTuple):
    """How well the design tells the fitted numbers apart at the optimum."""

    names: tuple[str, ...]
    condition: float
    """Ratio of the largest to the smallest singular value of the Jacobian with unit columns."""
    correlation: np.ndarray
    """Between the estimates (p, p)."""
    deviation: np.ndarray
    """Standard deviations of the coordinates (p,)."""


def conditioning(fit: Fit) -> Conditioning:
    """Singular values and correlations from the Jacobian at the optimum, over the numbers not fixed or at a bound."""
    inside = fit.free & ~np.isin(fit.problem.names, fit.bounds_hit)
    J = jacobian(fit)[:, inside] * np.sqrt(fit.problem.weight)[:, None]
    norms = column_norms(J)
    _, singular, V = np.linalg.svd(J / norms, full_matrices=False)
    covariance = (V.T / np.maximum(singular, 1e-12 * singular[0] + 1e-150) ** 2) @ V
    deviation = np.sqrt(np.diag(covariance))
    names = tuple(n for n, k in zip(fit.problem.names, inside, strict=True) if k)
    return Conditioning(
        names,
        float(singular[0] / singular[-1]) if singular[-1] > 1e-150 * singular[0] else float("inf"),
        covariance / np.outer(deviation, deviation),
        residual_deviation(fit) * deviation / norms,
    )


def column_norms(J: np.ndarray) -> np.ndarray:
    """Norms of the columns (p,); 1 for a number without any effect, which the singular values then show as flat."""
    norms = np.linalg.norm(J, axis=0)
    return np.where(norms > 1e-150, norms, 1.0)


def residual_deviation(fit: Fit) -> float:
    """Standard deviation of single runs about the law, in nats."""
    spent = int(fit.free.sum())
    return float(np.sqrt(np.sum(fit.residuals**2) / max(len(fit.table) - spent, 1)))


def jacobian(fit: Fit) -> np.ndarray:
    """Derivative of the predicted loss by the coordinates (R, p), by central differences."""
    columns = []
    for i in range(len(fit.z)):
        step = np.zeros_like(fit.z)
        step[i] = 1e-6
        up, down = (fit.problem.predict(fit.z + s * step) for s in (1, -1))
        columns.append((up - down) / 2e-6)
    return np.stack(columns, 1)
