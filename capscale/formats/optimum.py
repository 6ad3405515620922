"""The scale at which a grid loses least of Gaussian data: the clip constants, computed."""

from functools import cache

import numpy as np
from scipy.optimize import minimize_scalar

from .distributions import NORMAL, Density, pieces_of, second_moment
from .grids import Grid

POINTS_PER_OCTAVE = 24  # floats have a local optimum in every octave of the scale; this resolves each many times
NEAR = 1.01  # dips of the scan this close to the lowest are refined before they are compared
EQUAL = 1 + 1e-12  # of dips equal to rounding, the one with the smallest clip is taken
REFINE = {"method": "bounded", "options": {"xatol": 1e-10}}


@cache
def optimal_clip(grid: Grid, density: Density = NORMAL) -> float:
    """`c` that minimises `int (x - s round(x / s))^2 p(x) dx`, the largest level standing at c times the RMS of p.

    With the standard normal: the INT constants of QuEST (arXiv 2502.05003), to their true optimum. Grids with an
    exponent have several local optima, so the whole range is scanned before the best dip is refined.
    """
    mass, energy = second_moment(density)
    rms = (energy / mass) ** 0.5
    levels = np.asarray(grid.levels, np.float64)
    top = levels[-1]
    smallest = np.min(np.diff(levels))
    octaves = np.log2(top / smallest)
    # From half a deviation to the point where even the finest step is coarse for the bulk.
    exponents = np.linspace(-1.0, max(octaves, 1.0) + 3.0, int((max(octaves, 1.0) + 4.0) * POINTS_PER_OCTAVE) + 1)

    def loss(exponent: float) -> float:
        return float(pieces_of(grid, rms * 2.0**exponent / top).error(density))

    losses = np.array([loss(e) for e in exponents])
    inner = np.flatnonzero((losses[1:-1] <= losses[:-2]) & (losses[1:-1] <= losses[2:])) + 1
    dips = [i for i in inner if losses[i] <= losses.min() * NEAR]
    refined = [minimize_scalar(loss, bounds=tuple(exponents[[i - 1, i + 1]]), **REFINE) for i in dips]
    lowest = min(float(dip.fun) for dip in refined)
    return float(2.0 ** next(dip.x for dip in refined if dip.fun <= lowest * EQUAL))
