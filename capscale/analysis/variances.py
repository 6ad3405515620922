"""Variances of a linear mixed model: of single runs and of departures, by restricted likelihood on a grid."""

import numpy as np

SCALES = np.geomspace(1e-3, 10.0, 41)
"""Of the prior covariance of departures: its posterior is taken on this grid."""
PRIOR_FREEDOM = 4.0
"""Of the scaled inverse chi-squared prior of that scale, about 1: as if four formats had been seen."""
LEAST_NOISE = 1e-12
"""Variance of single runs below which none is taken, in nats squared: losses have six digits."""
OUTLYING = 5.0
"""Robust standard deviations to which residuals are drawn in, as by the fit itself."""


def root_of(covariance: np.ndarray) -> np.ndarray:
    """L with L L^T the covariance, singular or not."""
    if not len(covariance):
        return covariance
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def drawn_in(y: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Observations (n,) whose residuals about the span of an orthonormal basis (n, q) are drawn in to `OUTLYING`."""
    rest = y - basis @ (basis.T @ y)
    spread = np.quantile(np.abs(rest), 0.75) / 1.1503 * np.sqrt(len(y) / max(len(y) - basis.shape[1], 1))
    return y - rest + np.clip(rest, -OUTLYING * spread, OUTLYING * spread) if spread > 0 else y


def scales(y: np.ndarray, G: np.ndarray, left: int) -> tuple[float, float]:
    """Posterior mean of the scale of departures, and the noise there, by restricted likelihood on a grid."""
    if not G.shape[1]:
        return 1.0, max(float(y @ y) / left, LEAST_NOISE)
    U, singular, _ = np.linalg.svd(G, full_matrices=False)
    power, along = singular**2, U.T @ y
    outside = max(float(y @ y - along @ along), 1e-300)
    rank = int(np.sum(power > 1e-12 * power.max(initial=0.0))) if power.max(initial=0.0) > 0 else 0
    first = outside / max(left - rank, 1) if left > rank else float(y @ y) / left
    noise = np.full(len(SCALES), first)
    for _ in range(20):  # the noise at each scale: a fixed point of its estimating equation
        total = 1 + SCALES[:, None] * power / noise[:, None]
        noise = np.maximum((outside + np.sum(along**2 / total, axis=1)) / left, LEAST_NOISE)
    total = 1 + SCALES[:, None] * power / noise[:, None]
    log = -0.5 * (left * np.log(noise) + np.sum(np.log(total), axis=1))
    log = log - (PRIOR_FREEDOM / 2) * np.log(SCALES) - PRIOR_FREEDOM / (2 * SCALES)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    return float(weight @ SCALES), float(weight @ noise)
