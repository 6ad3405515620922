"""Where capacity ends: Lsat of several kinds of format whose curves have one shape.

    rho = Lsat_k tanh(F log_{1/4} GMSE)^C           F and C of all kinds, Lsat of each

Three codebooks fix a curve of three numbers whatever they are; with F and C shared they say where their kind ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from capscale.analysis.effects import Measured
from capscale.analysis.measure import REFITS
from capscale.analysis.misfits import departures
from capscale.capacity import TANH, Capacity
from capscale.errors import UserError


@dataclass(frozen=True)
class Saturation:
    """One shape through several kinds."""

    shape: np.ndarray
    """F and C, the estimate and its refits (1 + R, 2)."""
    lsat: np.ndarray
    """Of every kind (K, 1 + R)."""
    departure: np.ndarray
    """Mean square of rho beyond scatter, over all kinds: see `misfits.Misfit` (1 + S,)."""
    note: str

    def end(self, kind: int) -> np.ndarray:
        """Lsat of one kind, the estimate and its refits (1 + R,).

        Raises UserError where F is at its least bound, in the estimate or in more of the refits than an interval of
        95 % leaves out on a side: rho is then a power of log GMSE, which bends nowhere, and any large Lsat does.
        """
        at_bound = self.shape[:, 0] <= 1.01 * TANH.parameters[0].lower
        if at_bound[0] or at_bound[1:].mean() > 0.025:
            raise UserError(
                f"the curve of these formats does not bend (F at its bound in {at_bound.mean():.0%} of the fits): "
                "they do not tell where it ends"
            )
        return self.lsat[kind]

    def curve(self, kind: int, gmse: np.ndarray) -> np.ndarray:
        """rho of one kind at errors (M,), the estimate and its refits (1 + R, M)."""
        every = [_tanh(shape, gmse) for shape in self.shape]
        return np.stack(every) * self.lsat[kind][:, None]


def saturation(kinds: Sequence[Measured]) -> Saturation:
    """The shape and the ends of `kinds` by least squares of rho, with a refit for each resample.

    Raises UserError with no more formats in all than numbers, and for a kind of fewer than two.
    """
    sizes = [len(kind.rows) for kind in kinds]
    if min(sizes) < 2 or sum(sizes) <= 2 + len(kinds):
        raise UserError(f"{sizes} formats of {len(kinds)} kinds for a shape and an end of each")
    gmse = np.concatenate([kind.gmse for kind in kinds])
    rho = np.concatenate([kind.rho for kind in kinds])
    member = np.repeat(np.eye(len(kinds)), sizes, axis=0)
    lower, upper = np.transpose([(p.lower, p.upper) for p in TANH.parameters])

    def ends(shape: np.ndarray, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tanh of every format, and the Lsat of every kind that is best with it."""
        full = _tanh(shape, gmse)
        return full, member.T @ (full * rho) / (member.T @ full**2)

    def left(shape: np.ndarray, rho: np.ndarray) -> np.ndarray:
        full, lsat = ends(shape, rho)
        return full * (member @ lsat) - rho

    def best(rho: np.ndarray, start: np.ndarray) -> np.ndarray:
        return least_squares(left, start, bounds=(lower, upper), x_scale=start, args=(rho,)).x

    first = best(rho[:, 0], np.array([0.4, 1.4]))
    chosen = rho[:, : 1 + REFITS].T
    shapes = np.stack([first, *(best(each, first) for each in chosen[1:])])
    lsat = np.stack([ends(shape, each)[1] for shape, each in zip(shapes, chosen, strict=True)], axis=1)

    def at(numbers: np.ndarray) -> np.ndarray:
        return _tanh(numbers[:2], gmse) * (member @ numbers[2:])

    numbers = np.append(first, lsat[:, 0])
    steps = np.diag(1e-5 * numbers)
    slopes = np.stack([(at(numbers + s) - at(numbers - s)) / (2 * s.sum()) for s in steps], axis=1)
    rmse, scatter, departure = departures(rho, at(numbers), slopes)
    note = f"F = {first[0]:.2f}, C = {first[1]:.2f}, RMSE of rho {rmse:.3f}, of which scatter explains {scatter:.3f}"
    return Saturation(shapes, lsat, departure, "; ".join([note, *(kind.note for kind in kinds if kind.note)]))


def _tanh(shape: np.ndarray, gmse: np.ndarray) -> np.ndarray:
    return Capacity(TANH, (("F", float(shape[0])), ("C", float(shape[1])))).rho(gmse)
