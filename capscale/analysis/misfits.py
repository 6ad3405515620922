"""How far a form of rho misses measured capacities, beyond what their scatter explains."""

from typing import NamedTuple

import numpy as np

from capscale.analysis.effects import Measured
from capscale.analysis.measure import CapacityLaw, through_points
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
    rows, rho = found.rows, found.rho
    law = through_points(form, rows, rho[:, 0], rho[:, :0].T)
    if law is None:
        raise UserError(f"{form.name}: {len(rows)} formats for a curve of {len(form.parameters)} numbers")
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


def _linearised(law: CapacityLaw, found: Measured) -> tuple[np.ndarray, np.ndarray]:
    """rho of the form on every format (F,), and its derivatives by its numbers (F, k)."""

    def at(values: np.ndarray) -> np.ndarray:
        moved = CapacityLaw(law.form, values, law.draws)
        return np.array([moved.of(row) for row in found.rows])

    steps = np.diag(STEP * law.values)
    slopes = [(at(law.values + step) - at(law.values - step)) / (2 * step.sum()) for step in steps]
    return at(law.values), np.stack(slopes, axis=1)
