"""How far a form of rho misses measured capacities, beyond what their scatter explains."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from capscale.analysis.effects import Measured
from capscale.analysis.measure import ON_BOUND, REFITS, CapacityLaw, through_points
from capscale.analysis.row import Row
from capscale.capacity import Form
from capscale.errors import UserError

STEP = 1e-5
"""Of central differences, as a share of a number."""


class Misfit(NamedTuple):
    """A form through capacities, and what it leaves."""

    law: CapacityLaw
    rmse: float
    """Of rho, over the formats less the numbers of the form; scatter and departure together."""
    scatter: float
    """The RMSE that the scatter of the capacities alone would leave."""
    departure: np.ndarray
    """Mean square of rho that the form misses and scatter does not explain, with its resamples (1 + S,).

    Negative where less was left than scatter leaves on average.
    """

    @property
    def words(self) -> str:
        """The two errors, for a note."""
        return f"RMSE of rho {self.rmse:.3f} by {self.law.form.name}, of which scatter explains {self.scatter:.3f}"


def misfit(found: Measured, form: Form) -> Misfit:
    """The form through capacities by least squares of rho, and its departure.

    A resample is a second draw of the scatter upon the first: its residual has the departure and both, so that twice
    the scatter is taken off. Residuals of resamples are those of the linearised form. Raises UserError with no more
    formats than the form has numbers.
    """
    rho = found.rho
    law = through(found, form, refits=0)
    rmse, scatter, departure = departures(rho, *_linearised(law, found))
    return Misfit(law, rmse, scatter, departure)


def departures(rho: np.ndarray, curve: np.ndarray, slopes: np.ndarray) -> tuple[float, float, np.ndarray]:
    """RMSE, scatter and departure, as in `Misfit`, of capacities (F, 1 + S) from a curve fitted to the estimates.

    Args:
      rho: the capacities.
      curve: the fitted values (F,).
      slopes: their derivatives by the numbers of the curve (F, k).
    """
    basis = np.linalg.svd(slopes, full_matrices=False)[0]
    left = rho[:, 0] - curve
    noise = rho[:, 1:] - rho[:, :1]
    noise = noise - basis @ (basis.T @ noise)
    freedom = len(curve) - slopes.shape[1]
    scatter = float(np.mean(np.sum(noise**2, axis=0))) / freedom
    squares = np.append(np.sum(left**2), np.sum((left[:, None] + noise) ** 2, axis=0)) / freedom
    departure = squares - np.append(scatter, np.full(noise.shape[1], 2 * scatter))
    return float(np.sqrt(squares[0])), float(np.sqrt(scatter)), departure


def squares_beyond_scatter(effects: np.ndarray) -> np.ndarray:
    """Mean square of several effects (F, 1 + S), less what their scatter adds to it (1 + S,)."""
    noise = effects[:, 1:] - effects[:, :1]
    scatter = float(np.mean(noise**2))
    squares = np.mean(effects**2, axis=0)
    return squares - np.append(scatter, np.full(noise.shape[1], 2 * scatter))


def through(found: Measured, form: Form, refits: int = REFITS) -> CapacityLaw:
    """The form through capacities by least squares of rho, refitted to resamples; UserError with too few formats."""
    law = through_points(form, found.rows, found.rho[:, 0], found.rho[:, 1 : 1 + refits].T)
    if law is None:
        numbers = len(form.parameters)
        raise UserError(f"{form.name}: {len(found.rows)} formats for a curve of {numbers} numbers; {found.note}")
    return law


def on_bound(law: CapacityLaw) -> str:
    """Which number of a form ended on a bound of the search, as those of capacities do that follow no curve, or ""."""
    for p, value in zip(law.form.parameters, law.values, strict=True):
        if min(value / p.lower, p.upper / value) < 1 + ON_BOUND:
            return f"{law.form.name}: {p.name} ended on a bound of the search, {value:.3g}: no such curve"
    return ""


def number(law: CapacityLaw, name: str) -> np.ndarray:
    """One number of a form, the estimate and its refits (1 + R,); UserError where one of the form is on a bound."""
    if reason := on_bound(law):
        raise UserError(reason)
    k = [p.name for p in law.form.parameters].index(name)
    return np.append(law.values[k], law.draws[:, k])


def of_formats(law: CapacityLaw, rows: Sequence[Row]) -> np.ndarray:
    """rho of the form on formats, the estimate and its refits (F, 1 + R)."""
    return np.array([[one.of(row) for one in (law, *law.resampled())] for row in rows])


def of_errors(law: CapacityLaw, gmse: np.ndarray) -> np.ndarray:
    """rho of the form at errors (M,), the estimate and its refits (1 + R, M)."""
    return np.stack([one.capacity.rho(gmse) for one in (law, *law.resampled())])


def _linearised(law: CapacityLaw, found: Measured) -> tuple[np.ndarray, np.ndarray]:
    """rho of the form on every format (F,), and its derivatives by its numbers (F, k)."""

    def at(values: np.ndarray) -> np.ndarray:
        moved = CapacityLaw(law.form, values, law.draws)
        return np.array([moved.of(row) for row in found.rows])

    steps = np.diag(STEP * law.values)
    slopes = [(at(law.values + step) - at(law.values - step)) / (2 * step.sum()) for step in steps]
    return at(law.values), np.stack(slopes, axis=1)
