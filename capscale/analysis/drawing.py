"""Draws of losses and capacities from a mixed model, about its means and along what the runs determine.

A law's numbers may be told apart badly (g against alpha, C against a departure) while the losses are known well, so
that draws of numbers put through the law wander off. Here the loss is linear in the numbers at a given rho, and
log(-log rho), to which a departure is added, is linear in numbers and departures: no draw has rho above 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capscale.analysis.arrays import Arrays
from capscale.analysis.mixed import Posterior, members_of
from capscale.analysis.problem import STEP
from capscale.analysis.table import Row

FARTHEST = 5.0
"""Most that a draw moves log(-log rho)."""
DENSE_SIZES = np.geomspace(1e-4, 10.0, 81)
"""Sizes over N between which a dense-equivalent one is looked for, of a law without rho."""


@dataclass(frozen=True)
class Draws:
    """S draws of one component of the mixture.

    `normal` (S, q) standard normals; `scatter` (S,) what a single run at a new size adds.
    """

    posterior: Posterior
    share: float
    normal: np.ndarray
    scatter: np.ndarray

    @property
    def moves(self) -> tuple[np.ndarray, np.ndarray]:
        """Of coordinates (S, p) and departures (S, F) from their means."""
        each = self.normal @ self.posterior.root.T
        p = len(self.posterior.z)
        return each[:, :p], each[:, p:]

    def loss(self, rows: Sequence[Row]) -> np.ndarray:
        """Expected loss of rows (S, R)."""
        posterior = self.posterior
        fit, z = posterior.fit, posterior.z
        arrays, members = fit.problem.gather(rows), members_of(fit, rows, posterior.kin)
        dz, du = self.moves
        if not fit.law.has_rho:
            J = fit.problem.jacobian(z, arrays)
            return posterior.loss(rows) + dz @ J.T + du @ members.max(axis=1).T
        stretched = _stretched(posterior, arrays, members)
        shift, through = self._log_rho_moves(stretched, members)
        up, down = (fit.problem.predict(z, stretched._replace(shift=s * STEP)) for s in (1, -1))
        fixed = fit.problem.jacobian(z, stretched) - ((up - down) / (2 * STEP))[:, None] * through
        losses = fit.problem.predict(z, _tiled(stretched, len(dz))._replace(shift=shift.ravel()))
        return losses.reshape(len(dz), len(rows)) + dz @ fixed.T

    def rho(self, row: Row) -> np.ndarray:
        """Capacity (S,); by a law without rho, from the dense loss at equal D."""
        posterior = self.posterior
        fit = posterior.fit
        if fit.law.has_rho:
            members = members_of(fit, [row], posterior.kin)
            arrays = _stretched(posterior, fit.problem.gather([row]), members)
            shift, _ = self._log_rho_moves(arrays, members)
            return np.exp(fit.problem.log_rho(posterior.z, arrays)[0] + shift[:, 0])
        dense = row._replace(
            weights="dense", activations="dense", weights_gmse=0.0, activations_gmse=0.0, curve="dense"
        )
        curves = self.loss([dense._replace(N=row.N * s) for s in DENSE_SIZES])
        wanted = self.loss([row])[:, 0]
        log = [np.interp(-w, -c, np.log(DENSE_SIZES)) for w, c in zip(wanted, curves, strict=True)]
        return np.exp(np.array(log))

    def _log_rho_moves(self, arrays: Arrays, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moves of log rho (S, R), and its derivative by the coordinates (R, p)."""
        fit, z = self.posterior.fit, self.posterior.z
        layout = fit.problem.layout

        def factors(at: np.ndarray) -> np.ndarray:
            return layout.log_rho_of_factors(at, arrays) * arrays.stretch

        base = factors(z)
        each = STEP * np.eye(len(z))
        G = np.stack([(factors(z + e) - factors(z - e)) / (2 * STEP) for e in each], axis=-1)  # (R, K, p)
        dz, du = self.moves
        if fit.law.free:
            return np.einsum("sp,rkp->sr", dz, G), G.sum(axis=1)
        small = np.minimum(base, -1e-12)
        move = np.einsum("sp,rkp->srk", dz, G / small[..., None]) - np.einsum("sf,rkf->srk", du, members)
        moved = base * np.expm1(np.clip(move, -FARTHEST, FARTHEST))
        return moved.sum(axis=2), G.sum(axis=1)


def _stretched(posterior: Posterior, arrays: Arrays, members: np.ndarray) -> Arrays:
    return arrays._replace(stretch=np.exp(-members @ posterior.u)) if posterior.kin else arrays


def _tiled(arrays: Arrays, times: int) -> Arrays:
    """The rows again and again."""
    rows = len(arrays.log_n)

    def again(x: Any) -> Any:
        if isinstance(x, np.ndarray) and x.ndim and len(x) == rows:
            return np.concatenate([x] * times)
        if isinstance(x, tuple):
            return type(x)(*(again(y) for y in x))
        return {k: again(v) for k, v in x.items()} if isinstance(x, dict) else x

    return again(arrays)


def draw(components: Sequence[tuple[float, Posterior]], count: int, seed: int) -> tuple[Draws, ...]:
    """About `count` draws, from each component as its share says."""
    random = np.random.default_rng(seed)
    found = []
    for share, posterior in components:
        each = max(2, round(share * count))
        normal = random.normal(size=(each, posterior.root.shape[1]))
        scatter = random.normal(0.0, np.sqrt(posterior.noise + posterior.shared), each)
        found.append(Draws(posterior, share, normal, scatter))
    return tuple(found)
