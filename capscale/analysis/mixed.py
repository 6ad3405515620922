"""A fit as a linear mixed model: its numbers, what formats depart from the law by, and what rows share, all at once.

About the optimum the losses are

    y = f(z) + J dz + S u + sum_k Z_k v_k + e

with u the departures of compressed operands from the law's rho (`departures`: kin formats depart alike), v_k the errors
shared by a size, a cell or a run (`shared_errors`), and e of single runs. Given the runs, dz and u are Gaussian; so is
the loss of any format at any N and D, one that was never trained included. A law without rho has the departures of its
formats in nats; a decoupled law, whose formats have numbers of their own, has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from capscale.analysis.arrays import Arrays
from capscale.analysis.conditioning import column_norms
from capscale.analysis.departures import Kin, departures, kin
from capscale.analysis.fit import Fit
from capscale.analysis.operands import parts_of
from capscale.analysis.table import Row
from capscale.analysis.variances import OUTLYING, drawn_in, root_of, scales
from capscale.analysis.whitening import whiten

WIDE = 10.0
"""Prior standard deviation of a coordinate, in widths of its starting range: wide where the runs say nothing."""
COMPONENTS = 8
"""Sizes of the shared errors that a mixture stands for."""
STEPS = 12
"""Most Gauss-Newton steps, and how small one is the last, in prior standard deviations."""
SETTLED = 1e-6
STEP = 1e-5
"""Of central differences in log rho."""
IN_NATS = 0.02
"""Prior deviation of formats from a law without rho, in nats."""


@dataclass(frozen=True)
class Posterior:
    """Numbers and departures given the runs.

    Attributes:
      z: mean coordinates (p,), within their bounds.
      kin, u: compressed operands, of the table and of rows asked for, and their mean departures (F,).
      root: (p + F, q): dz and u are distributed as root times standard normals.
      noise: variance of a single run about the law and about what it shares.
      scale: posterior mean of the scale of departures; 1 is what other studies say.
      shared: variance that a run of a new size shares with others of that size, cell and run together.
    share: of the mixture that this is a component of.
    """

    fit: Fit
    z: np.ndarray
    kin: tuple[Kin, ...]
    u: np.ndarray
    root: np.ndarray
    noise: float
    scale: float
    shared: float
    share: float = 1.0

    def loss(self, rows: Sequence[Row], z: np.ndarray | None = None, u: np.ndarray | None = None) -> np.ndarray:
        """Loss of rows (R,) at the means, or at one draw of z and u."""
        z, u = self.z if z is None else z, self.u if u is None else u
        members = members_of(self.fit, rows, self.kin)
        return departed(self.fit, z, self.fit.problem.gather(rows), members, u)

    def log_rho(self, rows: Sequence[Row]) -> np.ndarray:
        """log rho of rows at the means (R,); 0 by a law without rho."""
        arrays = self.fit.problem.gather(rows)
        if self.kin and self.fit.law.has_rho:
            arrays = arrays._replace(stretch=np.exp(-members_of(self.fit, rows, self.kin) @ self.u))
        return self.fit.problem.log_rho(self.z, arrays)

    def variance(self, rows: Sequence[Row]) -> np.ndarray:
        """Of the expected loss of rows, by linear theory (R,)."""
        arrays, members = self.fit.problem.gather(rows), members_of(self.fit, rows, self.kin)
        S = slopes(self.fit, self.z, arrays, members, self.u)
        if self.kin and self.fit.law.has_rho:
            arrays = arrays._replace(stretch=np.exp(-members @ self.u))
        J = self.fit.problem.jacobian(self.z, arrays)
        return np.sum((np.hstack([J, S]) @ self.root) ** 2, axis=1)


def members_of(fit: Fit, rows: Sequence[Row], every: Sequence[Kin]) -> np.ndarray:
    """Which departure each factor of each row has (R, K, F)."""
    place = {k: i for i, k in enumerate(every)}
    parts = [parts_of(r, product=fit.law.combination == "product") for r in rows]
    out = np.zeros((len(rows), max([1, *map(len, parts)]), len(every)))
    if every:
        for i, (row, mine) in enumerate(zip(rows, parts, strict=True)):
            of_operand = {k.operand: place[k] for k in kin(row)}
            for j, part in enumerate(mine):
                out[i, j, of_operand[part.operand]] = 1.0
    return out


def departed(fit: Fit, z: np.ndarray, arrays: Arrays, members: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Loss of rows with departures u (F,) from the law's rho; from the loss itself, of a law without rho (R,)."""
    if not len(u):
        return fit.problem.predict(z, arrays)
    if not fit.law.has_rho:
        return fit.problem.predict(z, arrays) + members.max(axis=1) @ u
    return fit.problem.predict(z, arrays._replace(stretch=np.exp(-members @ u)))


def slopes(fit: Fit, z: np.ndarray, arrays: Arrays, members: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Derivative of the loss by the departures (R, F)."""
    if not fit.law.has_rho or not len(u):
        return members.max(axis=1)
    arrays = arrays._replace(stretch=np.exp(-members @ u))
    up, down = (fit.problem.predict(z, arrays._replace(shift=s * STEP)) for s in (1, -1))
    factors = fit.problem.layout.log_rho_of_factors(z, arrays) * arrays.stretch
    return ((up - down) / (2 * STEP))[:, None] * np.einsum("rk,rkf->rf", -factors, members)


def mixture(fit: Fit, rows: Sequence[Row] = (), train: np.ndarray | None = None) -> tuple[Posterior, ...]:
    """The mixed model of a fit, a component for each of a few sizes of the shared errors, as probable as these are.

    Few groups say little of what they share, so that the sum over what it may be has the long tails that one estimate
    lacks. Components count alike; equal ones are one.

    Args:
      rows: further rows, whose formats' departures are wanted.
      train: rows of the table to read (R,); all without.
    """
    shared = fit.shared
    order = np.argsort(shared.grid.sum(axis=1), kind="stable")
    below = np.cumsum(shared.probability[order])
    chosen = order[np.searchsorted(below, (np.arange(COMPONENTS) + 0.5) / COMPONENTS * below[-1])]
    points, counts = np.unique(chosen, return_counts=True)
    model = _Model.of(fit, rows, fit.problem.weight > 0 if train is None else train & (fit.problem.weight > 0))
    return tuple(
        replace(_posterior(replace(model, ratio=shared.grid[k])), share=count / COMPONENTS)
        for k, count in zip(points, counts, strict=True)
    )


def _posterior(model: "_Model") -> Posterior:
    """Gauss-Newton from the fit's optimum, with the scales estimated anew at each step."""
    fit = model.fit
    theta = np.zeros(model.width.size + len(model.every))
    for _ in range(STEPS):
        step = model.linearised(theta)
        length = 1.0
        now = model.misfit(theta, step)
        while not model.misfit(theta + length * (step.theta - theta), step) <= now and length > 1e-3:
            length /= 2  # NaN is no better: there the law overflows
        moved = length * (step.theta - theta)
        theta = theta + moved if length > 1e-3 else theta
        if np.abs(moved).max(initial=0.0) < SETTLED or length <= 1e-3:
            break
    step = model.linearised(theta)
    z, u = model.unknowns(theta)
    half = np.linalg.inv(step.factor)  # half half^T = precision^-1
    to = np.zeros((len(z) + len(u), len(theta)))
    to[np.flatnonzero(model.inside), np.arange(model.width.size)] = model.width
    to[len(z) :, model.width.size :] = np.sqrt(step.scale) * model.L
    shared = float(step.noise * model.ratio.sum())
    return Posterior(fit, z, model.every, u, to @ half, step.noise, step.scale, shared)


class _Step(NamedTuple):
    """One linearisation: its solution, the factor R of R^T R, the precision, and the variances."""

    theta: np.ndarray
    factor: np.ndarray
    noise: float
    scale: float


@dataclass(frozen=True)
class _Model:
    """z = fit.z + width a and u = mean + L b: theta = (a, b), a standard normal, b normal of variance scale.

    The scale of b multiplies its prior covariance, so that theta itself does not change with it.
    """

    fit: Fit
    used: np.ndarray
    every: tuple[Kin, ...]
    members: np.ndarray
    inside: np.ndarray
    width: np.ndarray
    mean: np.ndarray
    L: np.ndarray
    ratio: np.ndarray
    """Variances of shared errors over the noise (K,)."""

    @classmethod
    def of(cls, fit: Fit, rows: Sequence[Row], used: np.ndarray) -> "_Model":
        problem = fit.problem
        every = dict.fromkeys(k for r in (*fit.table.rows, *rows) for k in kin(r)) if not fit.law.per_format else {}
        evidence, names = departures(), tuple(every)
        in_rho = fit.law.has_rho
        inside = fit.free & ~np.isin(problem.names, fit.bounds_hit)
        return cls(
            fit,
            used,
            names,
            members_of(fit, fit.table.rows, names),
            inside,
            np.array([q.start[1] - q.start[0] for q in problem.parameters])[inside] * WIDE,
            evidence.mean(names) if in_rho else np.zeros(len(names)),
            root_of(evidence.covariance(names)) if in_rho else IN_NATS * np.eye(len(names)),
            fit.shared.ratio,
        )

    def unknowns(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z within its bounds, and u."""
        z = self.fit.z.copy()
        z[self.inside] += self.width * theta[: self.width.size]
        return np.clip(z, self.fit.lower, self.fit.upper), self.mean + self.L @ theta[self.width.size :]

    def seen(self, x: np.ndarray) -> np.ndarray:
        """Residuals (R, 1) or derivatives (R, q) of the rows used, weighted and free of what they share."""
        if not x.size:
            return x[self.used]
        on = self.ratio > 0
        white = whiten(x, self.fit.shared.group[on], self.ratio[on], self.used)
        weight = self.fit.problem.weight
        return (white * np.sqrt(weight / np.mean(weight[self.used]))[:, None])[self.used]

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """Whitened residuals of the rows used."""
        z, u = self.unknowns(theta)
        predicted = departed(self.fit, z, self.fit.problem.arrays, self.members, u)
        return self.seen((self.fit.problem.loss - predicted)[:, None])[:, 0]

    def misfit(self, theta: np.ndarray, step: _Step) -> float:
        """Twice the negative logarithm of the posterior, at the step's variances."""
        y, free = self.residuals(theta), self.width.size
        bound = OUTLYING * np.sqrt(step.noise)
        size = np.abs(y)
        squares = np.sum(np.where(size <= bound, size**2, 2 * bound * size - bound**2))
        return float(squares / step.noise + theta[:free] @ theta[:free] + theta[free:] @ theta[free:] / step.scale)

    def linearised(self, theta: np.ndarray) -> _Step:
        """The model about theta: variances by restricted likelihood, then the solution."""
        z, u = self.unknowns(theta)
        problem, free = self.fit.problem, self.width.size
        stretched = problem.arrays
        if self.every and self.fit.law.has_rho:
            stretched = stretched._replace(stretch=np.exp(-self.members @ u))
        J = self.seen(problem.jacobian(z, stretched))[:, self.inside] * self.width
        G = self.seen(slopes(self.fit, z, problem.arrays, self.members, u)) @ self.L
        design = np.hstack([J, G])
        norms = column_norms(J)
        U, singular, _ = np.linalg.svd(J / norms, full_matrices=False)
        basis = U[:, singular > 1e-9 * singular[0]] if len(singular) else U
        y = drawn_in(self.residuals(theta), basis) + design @ theta
        y0, G0 = y - basis @ (basis.T @ y), G - basis @ (basis.T @ G)
        scale, noise = scales(y0, G0, max(len(y) - basis.shape[1], 1))
        prior = np.concatenate([np.ones(free), np.full(len(self.every), 1 / scale)])
        # A row for each run and one for each prior: their QR factor squares to the precision, and is never squared.
        stacked = np.vstack([design / np.sqrt(noise), np.diag(np.sqrt(prior))])
        Q, R = np.linalg.qr(stacked)
        solved = np.linalg.solve(R, Q[: len(y)].T @ (y / np.sqrt(noise)))
        # In units of the standard normal b: what `_posterior` makes its root of.
        return _Step(solved, R * np.sqrt(1 / prior), noise, scale)
