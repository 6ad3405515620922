"""The scale of an objective between least squares and least absolute deviations."""

import numpy as np
from scipy.stats import norm


def noise_scale(residuals: np.ndarray, weight: np.ndarray, delta: float, parameters: int) -> float:
    """E psi^2 / E psi' of the residuals, psi = clip(r, -delta, delta): the variance that the objective stands for.

    Half the objective's rise over tau is then a log-likelihood ratio, for any delta (Huber & Ronchetti, Robust
    Statistics, ch. 13): for a delta beyond all residuals tau is their variance, for a tiny one that of a median.
    E psi' is the density of residuals near zero, by a Gaussian kernel of Silverman's width. Least absolute deviations
    pass through p rows exactly, whose zeros say nothing of either mean and are left out; least squares shrink all
    residuals by sqrt((n - p) / n) instead. In between both are done by the share of rows outside delta.
    """
    r = residuals[weight > 0]
    n = len(r)
    outside = float(np.mean(np.abs(r) > delta))
    r = r[np.argsort(np.abs(r), kind="stable")[min(round(outside * parameters), n - 1) :]]
    r = r * (n / max(n - parameters, 1)) ** ((1 - outside) / 2)
    spread = np.std(r)
    if spread == 0:
        return 0.0
    quartiles = np.subtract(*np.percentile(r, [75, 25])) / 1.349
    width = 0.9 * min(spread, quartiles if quartiles > 0 else spread) * len(r) ** -0.2
    inside = np.mean(norm.cdf((delta - r) / width) - norm.cdf((-delta - r) / width))
    return float(np.mean(np.clip(r, -delta, delta) ** 2) / max(inside, 1e-12))
