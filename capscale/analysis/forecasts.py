"""Laws tried beyond a cut: what one that was fitted to the rows below says of those beyond, with its own errors.

The errors are those of the mixed model (`mixed`): of the law's numbers, of the departures of formats, of what runs of
a new size share, and of single runs. One law or several with weights make the same kind of mixture.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from capscale.analysis.fit import Fit
from capscale.analysis.mixed import mixture
from capscale.analysis.rollouts import Cut, Rollout, roll_out


class Forecast(NamedTuple):
    """Losses of T rows as a mixture of C normal distributions."""

    share: np.ndarray
    """Of every component (C,)."""
    mean: np.ndarray
    """(C, T) nats."""
    variance: np.ndarray
    """Of the loss of a single run (C, T)."""
    log_rho: np.ndarray
    """(C, T)."""


class Tried(NamedTuple):
    """A law below one cut: its rollout, and its forecast of the held-out rows."""

    rollout: Rollout
    forecast: Forecast


class Moments(NamedTuple):
    """Mean and variance of the losses of T rows, and the mean of log rho."""

    mean: np.ndarray
    variance: np.ndarray
    log_rho: np.ndarray


def try_cut(fit: Fit, cut: Cut) -> Tried | None:
    """The law of a fit, refitted below a cut; None where the rows there are no more than its numbers."""
    rollout = roll_out(fit, cut)
    return None if rollout is None else Tried(rollout, forecast(fit, rollout))


def forecast(fit: Fit, rollout: Rollout) -> Forecast:
    """Predictions of the rows beyond a cut by a law that knows only those below it."""
    rows = [row for row, held in zip(fit.table.rows, rollout.test, strict=True) if held]
    found = mixture(replace(fit, z=rollout.z), rows, train=rollout.train)
    return Forecast(
        np.array([p.share for p in found]),
        np.array([p.loss(rows) for p in found]),
        np.array([p.variance(rows) + p.noise + p.shared for p in found]),
        np.array([p.log_rho(rows) for p in found]),
    )


def moments(laws: Sequence[tuple[float, Forecast]]) -> Moments:
    """Moments of the mixture of laws with these weights, which add up to 1."""
    share = np.concatenate([weight * f.share for weight, f in laws])
    mean, variance, log_rho = (
        np.concatenate([getattr(f, name) for _, f in laws]) for name in ("mean", "variance", "log_rho")
    )
    centre = share @ mean
    return Moments(centre, share @ (variance + (mean - centre) ** 2), share @ log_rho)
