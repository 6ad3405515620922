"""Laws fitted to rises, with intervals from resamples of what their rows share.

A rise is k D^b N^-a times a function of the format, by a factor of spread s, and an error besides: that of the text,
which `capscale quantize` tells, and the first-order term of the loss, gradient times rounding error, which is of either
sign and as large as the root of the error: t^2 GMSE. Small rises count by what they tell, negative ones included.

Rows share runs, and runs of one N and D share what the law misses there, as rows of one format do: resamples weigh
cells and formats independently (the pigeonhole bootstrap of Owen 2007, doi:10.1214/07-AOAS122).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from capscale.analysis.rises.forms import Form
from capscale.analysis.rises.table import Rises
from capscale.analysis.uncertainty import Interval
from capscale.errors import UserError

RESAMPLES = 400
STEPS = 60
"""Rounds of Fisher scoring at most; about ten do."""
SPREADS = (1e-3, 3.0)
"""Bounds of the number s."""
NOISES = (1e-6, 1.0)
"""Bounds of the number t."""
TAIL = 0.975
CHUNK = 50
"""Resamples that are solved at a time, in memory."""


@dataclass(frozen=True)
class RiseFit:
    """A law fitted to rises.

    Attributes:
      form: the law.
      rises: rows that it was fitted to.
      axes: which of D and N the table tells apart; of others the exponent is not measured, and 0 here.
      z: ln k at the middle of the runs, exponents of `axes`, the form's coefficient, ln s, ln t; the fit, then its
        resamples (1 + S, p).
      objective: minus the log likelihood of the fit, but for a constant.
    """

    form: Form
    rises: Rises
    axes: tuple[str, ...]
    z: np.ndarray
    objective: float

    @property
    def spread(self) -> float:
        """Standard deviation s of ln rise about the law."""
        return float(np.exp(self.z[0, -2]))

    @property
    def noise(self) -> float:
        """Deviation t of a rise per root of the error, in nats."""
        return float(np.exp(self.z[0, -1]))

    @cached_property
    def middle(self) -> dict[str, float]:
        """D and N at which k is told apart from the exponents."""
        return middle_of(self.rises)

    @property
    def draws(self) -> dict[str, np.ndarray]:
        """Numbers of the law but k, the fit first and then its resamples, widened for what few cells and formats hide.

        k depends on all of them; `slope` is what it comes to in the middle of the runs.
        """
        z, found = self._widened, {}
        for column, axis in enumerate(self.axes, 1):
            name, sign = {"D": ("b", 1), "N": ("a", -1)}[axis]
            found[name] = sign * z[:, column]
        if self.form.feature is not None:
            found[self.form.number] = self.form.reported(z[:, 1 + len(self.axes)])
        return found

    @property
    def _widening(self) -> np.ndarray:
        """Of every coordinate (p,): residuals of n cells or formats are smaller than errors, and known from few."""
        cells, formats = (len(np.unique(each)) for each in (self.rises.cell, self.rises.format))
        shape = self.form.feature is not None
        of_cells = _widen(cells, 1 + len(self.axes))
        of_formats = _widen(formats, 1 + shape)
        return np.array([max(of_cells, of_formats), *[of_cells] * len(self.axes), *[of_formats] * shape, 1.0, 1.0])

    @property
    def numbers(self) -> dict[str, Interval]:
        """Exponents and the form's number, with 95 % intervals."""
        return {name: interval_of(draws) for name, draws in self.draws.items()}

    @property
    def slope(self) -> Interval:
        """Rise per unit of the format's function at `middle`, in nats: of `GMSE`, rise over GMSE."""
        return interval_of(np.exp(self._widened[:, 0]))

    def log_rise(self, rises: Rises) -> np.ndarray:
        """ln rise by the law, of the fit and of its resamples (1 + S, R)."""
        X, fixed = _design(self.form, rises, self.axes, self.middle)
        return fixed + self._widened[:, :-2] @ X.T

    @property
    def _widened(self) -> np.ndarray:
        return self.z[:1] + self._widening * (self.z - self.z[:1])


def interval_of(draws: np.ndarray) -> Interval:
    """An estimate, the first of the draws, with the 95 % interval of the others about it."""
    low, high = np.quantile(draws[1:], [1 - TAIL, TAIL])
    return Interval(float(draws[0]), min(float(low), float(draws[0])), max(float(high), float(draws[0])))


def _widen(count: int, numbers: int) -> float:
    freedom = max(count - numbers, 1)
    return float(np.sqrt(max(count, numbers + 1) / freedom) * student.ppf(TAIL, freedom) / norm.ppf(TAIL))


def fit_rises(form: Form, rises: Rises, resamples: int = RESAMPLES, seed: int = 0) -> RiseFit:
    """The law fitted to rises by maximum likelihood, with resamples.

    Raises:
      UserError: fewer cells of N and D, or formats, than the law has numbers for them, sizes and tokens that only vary
        together, or formats that the law of the bits cannot tell apart.
    """
    chosen = rises.only(rises.quantized) if form.of_bits else rises
    axes = told_axes(chosen)
    cells, formats = len(np.unique(chosen.cell)), len(np.unique(chosen.format))
    _check_counts(form, chosen, axes, cells, formats)
    X, fixed = _design(form, chosen, axes, middle_of(chosen))
    if np.linalg.matrix_rank(X - X.mean(axis=0) * (np.arange(X.shape[1]) > 0), tol=1e-6) < X.shape[1]:
        raise UserError(f"{rises.source}: its runs cannot tell the numbers of {form.formula} apart; add runs")
    problem = _Problem(X, fixed, chosen.rise, chosen.rise_se**2, chosen.gmse)
    first = problem.start()
    z, objective = problem.solve(first[None], np.ones((1, len(fixed))))
    random = np.random.default_rng(seed)
    weight = random.exponential(size=(resamples, cells))[:, chosen.cell]
    weight = weight * random.exponential(size=(resamples, formats))[:, chosen.format]
    parts = [
        problem.solve(np.tile(z, (len(part), 1)), part)[0]
        for part in np.array_split(weight, max(1, resamples // CHUNK))
        if len(part)
    ]
    return RiseFit(form, chosen, axes, np.concatenate([z, *parts]), float(objective[0]))


def middle_of(rises: Rises) -> dict[str, float]:
    """Geometric means of D and N of the rows."""
    return {axis: float(np.exp(np.mean(np.log(getattr(rises, axis))))) for axis in ("D", "N")}


def told_axes(rises: Rises) -> tuple[str, ...]:
    """Which of D and N have several values; raises `UserError` where both have and rise only together."""
    axes = tuple(axis for axis in ("D", "N") if len(np.unique(getattr(rises, axis))) > 1)
    if len(axes) == 2:
        logs = np.log(np.stack([rises.D, rises.N]))
        if abs(np.corrcoef(logs)[0, 1]) > 0.999:
            raise UserError(
                f"{rises.source}: N and D of its runs only rise together, so nothing tells their exponents apart; add "
                "runs of one size on less text"
            )
    return axes


def _check_counts(form: Form, rises: Rises, axes: tuple[str, ...], cells: int, formats: int) -> None:
    law = form.formula.partition(";")[0]
    if formats < (3 if form.feature else 2):
        about = "quantized formats" if form.of_bits else "formats"
        raise UserError(f"{rises.source}: {formats} {about}, too few for {law}; round to more")
    if cells < len(axes) + 2:
        raise UserError(
            f"{rises.source}: runs of {cells} sizes and lengths, and {law} needs {len(axes) + 2} to tell its error by; "
            "round more runs"
        )


def _design(form: Form, rises: Rises, axes: tuple[str, ...], middle: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Columns of ln rise (R, q), and what has no number (R,)."""
    columns = [np.ones(len(rises.rise))]
    columns += [np.log(getattr(rises, axis) / middle[axis]) for axis in axes]
    if form.feature is not None:
        columns.append(form.feature(rises))
    return np.stack(columns, axis=1), form.fixed(rises)


@dataclass(frozen=True)
class _Problem:
    """Likelihood of rises (R,): normal about m = exp(fixed + X z) with variance text + (s m)^2 + t^2 error."""

    X: np.ndarray
    fixed: np.ndarray
    rise: np.ndarray
    text: np.ndarray
    error: np.ndarray

    def start(self) -> np.ndarray:
        """Least squares of the logarithms of what has risen, at a spread of a third and little noise."""
        risen = self.rise > 3 * np.sqrt(self.text)
        risen = risen if risen.sum() > self.X.shape[1] else self.rise > 0
        if risen.sum() < self.X.shape[1]:
            raise UserError("hardly a rise is above zero: these formats cost nothing here; round to coarser ones")
        y = np.log(self.rise[risen]) - self.fixed[risen]
        weight = np.sqrt(self.error[risen])[:, None]
        linear = np.linalg.lstsq(self.X[risen] * weight, y * weight[:, 0], rcond=None)[0]
        return np.append(linear, [np.log(0.3), np.log(0.01)])

    def parts(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """m, what s and t add to the variance (B, R)."""
        m = np.exp(np.clip(self.fixed + z[:, :-2] @ self.X.T, -60, 20))
        return m, np.exp(2 * z[:, -2:-1]) * m**2, np.exp(2 * z[:, -1:]) * self.error

    def objective(self, z: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Minus the log likelihood (B,)."""
        m, spread, noise = self.parts(z)
        v = self.text + spread + noise
        return 0.5 * np.sum(weight * ((self.rise - m) ** 2 / v + np.log(v)), axis=1)

    def solve(self, z: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The optima from `z` (B, p) at these weights of the rows (B, R), and their objectives, by Fisher scoring."""
        low = np.append(np.full(self.X.shape[1], -np.inf), np.log([SPREADS[0], NOISES[0]]))
        high = np.append(np.full(self.X.shape[1], np.inf), np.log([SPREADS[1], NOISES[1]]))
        value, damping = self.objective(z, weight), np.full(len(z), 1e-3)
        for _ in range(STEPS):
            gradient, information = self.scores(z, weight)
            scale = np.einsum("bpp->bp", information) + 1e-12
            damped = information + (damping[:, None] * scale)[:, :, None] * np.eye(z.shape[1])
            step = np.linalg.solve(damped, gradient[..., None])[..., 0]
            tried = np.clip(z - step, low, high)
            found = self.objective(tried, weight)
            better = found <= value
            moved = np.abs(tried - z).max(axis=1)
            z, value = np.where(better[:, None], tried, z), np.where(better, found, value)
            damping = np.clip(np.where(better, damping / 5, damping * 8), 1e-9, 1e9)
            if np.all(moved < 1e-7):
                break
        return z, value

    def scores(self, z: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (B, p) and expected information (B, p, p)."""
        m, spread, noise = self.parts(z)
        v = self.text + spread + noise
        away = self.rise - m
        of_v = 0.5 * (1 / v - (away / v) ** 2)
        # Derivatives of m and of v by ln m, ln s and ln t.
        dv = np.stack([2 * spread, 2 * spread, 2 * noise], axis=-1)
        g = weight[..., None] * of_v[..., None] * dv
        g[..., 0] += weight * -away / v * m
        gradient = np.concatenate([g[..., 0] @ self.X, g[..., 1:].sum(axis=1)], axis=1)
        w = weight / v**2
        inner = 0.5 * w[..., None, None] * dv[..., :, None] * dv[..., None, :]
        inner[..., 0, 0] += weight * m**2 / v
        linear = np.einsum("br,rp,rq->bpq", inner[..., 0, 0], self.X, self.X, optimize=True)
        cross = np.einsum("brk,rp->bpk", inner[..., 0, 1:], self.X)
        corner = inner[..., 1:, 1:].sum(axis=1)
        top = np.concatenate([linear, cross], axis=2)
        bottom = np.concatenate([np.swapaxes(cross, 1, 2), corner], axis=2)
        return gradient, np.concatenate([top, bottom], axis=1)
