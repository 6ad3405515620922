"""Where fits start from."""

import numpy as np
from scipy.optimize import nnls
from scipy.stats import qmc

from capscale.analysis.law import Numbers
from capscale.analysis.problem import Problem


def starting_points(problem: Problem, lower: np.ndarray, upper: np.ndarray, *, count: int, seed: int) -> np.ndarray:
    """`count` Sobol points in the exponents and the numbers of rho; amplitudes follow by non-negative least squares.

    The law is linear in them (variable projection), so no start wastes its descent on finding their scale.
    """
    p = len(problem.parameters)
    power = int(np.ceil(np.log2(count)))
    unit = qmc.Sobol(p, rng=np.random.default_rng(seed)).random_base2(power)[:count]
    low, high = np.array([q.start for q in problem.parameters]).T
    z = np.clip(low + unit * (high - low), lower, upper)
    solved = [problem.names.index(name) for name in problem.law.linear]
    solved = [k for k in solved if lower[k] < upper[k]]
    for i in range(count if solved else 0):
        z[i, solved] = _amplitudes(problem, z[i], solved)
    return np.clip(z, lower, upper)


def _amplitudes(problem: Problem, z: np.ndarray, solved: list[int]) -> np.ndarray:
    """Coordinates of the amplitudes that meet the losses best where the other numbers are those of z."""
    layout, names = problem.layout, problem.names
    base = Numbers(layout.numbers(z) | dict(problem.law.linear_at) | {names[k]: 0.0 for k in solved})
    with np.errstate(all="ignore"):
        rest = layout.loss(base, z, problem.arrays)
        columns = [layout.loss(Numbers(base | {names[k]: 1.0}), z, problem.arrays) - rest for k in solved]
    if not np.all(np.isfinite(columns)):
        return z[solved]  # such a start leads nowhere; others may
    root = np.sqrt(problem.weight)
    found, _ = nnls(np.stack(columns, 1) * root[:, None], (problem.loss - rest) * root)
    logs = np.array([problem.parameters[k].log for k in solved])
    return np.where(logs, np.log(np.maximum(found, 1e-6)), found)
