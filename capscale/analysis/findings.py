"""Plain words about a fit: what this table does not identify, and why."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from capscale.analysis.fit import Fit
from capscale.analysis.laws import evaluate
from capscale.analysis.uncertainty import Profile

TIED = 0.95
"""Correlation at which two numbers are said to trade off."""
WIDE_FACTOR = 2.0
"""An exponent whose 95 % interval spans more than this factor is not identified."""
WIDE_LOSS = 0.2
"""Nor is E when its interval is wider than this share of the smallest loss."""
WIDE_RHO = 0.25
"""Nor a capacity whose interval is wider than this."""
CONSTANT_RATIO = 1.15
"""D/N within this factor counts as one ratio."""


class Finding(NamedTuple):
    """One sentence, and the numbers that it is about."""

    kind: str
    """unidentified, bound, tied, design, huber, starts, priors or capacity."""
    names: tuple[str, ...]
    text: str


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
    norms = np.maximum(np.linalg.norm(J, axis=0), 1e-300)
    _, singular, V = np.linalg.svd(J / norms, full_matrices=False)
    covariance = (V.T / np.maximum(singular, 1e-12 * singular[0]) ** 2) @ V
    deviation = np.sqrt(np.diag(covariance))
    names = tuple(n for n, k in zip(fit.problem.names, inside, strict=True) if k)
    return Conditioning(
        names,
        float(singular[0] / max(singular[-1], 1e-300)),
        covariance / np.outer(deviation, deviation),
        residual_deviation(fit) * deviation / norms,
    )


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
        up, down = (
            evaluate(*fit.problem.static, fit.problem.has_data_term, fit.z + s * step, fit.problem.arrays)
            for s in (1, -1)
        )
        columns.append((up - down) / 2e-6)
    return np.stack(columns, 1)


def findings(fit: Fit, profiles: Mapping[str, Profile]) -> list[Finding]:
    """What a reader must know before quoting a number of this fit; `profiles` by name, of those looked at."""
    found = [*_about_design(fit), *_about_search(fit)]
    loose = [n for n, p in profiles.items() if _loose(fit, n, p)]
    found += [Finding("unidentified", (n,), _unidentified(profiles[n])) for n in loose]
    about = conditioning(fit)
    for i, first in enumerate(about.names):
        for j in range(i):
            second, r = about.names[j], about.correlation[i, j]
            if abs(r) >= TIED and {first, second} & set(loose) and not {first, second} & {"A", "B"}:
                why = _why_tied(fit)
                found.append(
                    Finding("tied", (second, first), f"{second} and {first} trade off (correlation {r:+.3f}){why}")
                )
    for n in fit.bounds_hit:
        found.append(
            Finding("bound", (n,), f"{n} hit its bound {fit.values[n]:.4g}: it is limited there, not measured")
        )
    for curve, rho in fit.rho.items():
        if curve != "dense" and rho > 1:
            found.append(
                Finding("capacity", (f"rho[{curve}]",), f"rho of {curve} is {rho:.3f}, above 1: kept as measured")
            )
    if fit.constraints.priors:
        listed = ", ".join(f"{n} = {m:g} ± {s:g}" for n, (m, s) in fit.constraints.priors.items())
        found.append(Finding("priors", tuple(fit.constraints.priors), f"priors were put in: {listed}"))
    return found


def ratio_words(fit: Fit) -> str:
    """The table's tokens per parameter, in words."""
    ratio = fit.table.column("D") / fit.table.column("N")
    if ratio.max() / ratio.min() <= CONSTANT_RATIO:
        return f"every D/N is between {ratio.min():.0f} and {ratio.max():.0f}"
    return f"D/N runs from {ratio.min():.3g} to {ratio.max():.3g}"


def _why_tied(fit: Fit) -> str:
    N, D = fit.table.column("N"), fit.table.column("D")
    ratio = D / N
    if ratio.max() / ratio.min() <= CONSTANT_RATIO:
        return f" on this table: {ratio_words(fit)}"
    return f" on this table: N spans a factor {N.max() / N.min():.3g}, D a factor {D.max() / D.min():.3g}"


def _loose(fit: Fit, name: str, profile: Profile) -> bool:
    low, high = profile.interval()[1:]
    if not (np.isfinite(low) and np.isfinite(high)):
        return True
    if name == "E":
        return low <= 0 or high - low > WIDE_LOSS * float(fit.problem.loss.min())
    if name.startswith("rho["):
        return high - low > WIDE_RHO
    return high / max(low, 1e-300) > WIDE_FACTOR


def _unidentified(profile: Profile) -> str:
    estimate, low, high = profile.interval()
    if np.isfinite(low) and np.isfinite(high):
        return f"{profile.name} is not identified: {low:.3g} to {high:.3g} fit about as well as {estimate:.3g} (95 %)"
    if np.isfinite(low) or np.isfinite(high):
        side = f"anything above {low:.3g}" if np.isfinite(low) else f"anything below {high:.3g}"
        return f"{profile.name} is not identified: {side}, up to its bound, fits about as well as {estimate:.3g}"
    return f"{profile.name} is not identified: every value within its bounds fits about as well as {estimate:.3g}"


def _about_design(fit: Fit) -> list[Finding]:
    N, D = fit.table.column("N"), fit.table.column("D")
    found = []
    if not fit.problem.has_data_term:
        text = f"every run in this fit has D = {D[0]:.4g}: B D^-beta cannot be told from E, and is part of it"
        found.append(Finding("design", ("B", "beta", "E"), text))
    elif np.ptp(np.log(D / N)) <= np.log(CONSTANT_RATIO):
        text = (
            f"{ratio_words(fit)}: N and D move together, so alpha, beta and E are not identified by the design, and "
            "only the shape of the law tells them apart; capacities are, as far as they do not change with alpha"
        )
        found.append(Finding("design", ("alpha", "beta", "E"), text))
    sizes = len(np.unique(N))
    if sizes < 3:
        text = f"{sizes} model sizes: alpha and E cannot both be measured"
        found.append(Finding("design", ("alpha", "E"), text))
    return found


def _about_search(fit: Fit) -> list[Finding]:
    found = []
    if not fit.converged:
        found.append(Finding("starts", (), "the best start did not converge; do not quote this fit"))
    if fit.agreeing < 2 and fit.settings.starts > 1:
        text = f"only {fit.agreeing} of {fit.settings.starts} starts reached the best optimum; try more starts"
        found.append(Finding("starts", (), text))
    share = fit.huber_share
    if share == 0:
        text = (
            f"no residual exceeds delta = {fit.settings.delta:g}: the Huber threshold never acts, this is least squares"
        )
        found.append(Finding("huber", (), text))
    elif share > 0.9:
        text = f"{share:.0%} of residuals exceed delta = {fit.settings.delta:g}: near least absolute deviations"
        found.append(Finding("huber", (), text))
    return found
