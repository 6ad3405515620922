"""Limits on the numbers of a law: bounds, fixed values, and Gaussian priors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from capscale.analysis.problem import Problem
from capscale.analysis.solver import Penalty
from capscale.checks import check_number
from capscale.errors import UserError


@dataclass(frozen=True)
class Constraints:
    """Numbers held fixed, and Gaussian priors as (mean, standard deviation), by reported name."""

    fixed: Mapping[str, float] = field(default_factory=dict)
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, number in self.fixed.items():
            check_number(number, f"{name}={number!r}")
        for name, (mean, deviation) in self.priors.items():
            check_number(mean, f"prior {name}={mean!r}:{deviation!r}: the mean")
            check_number(deviation, f"prior {name}={mean!r}:{deviation!r}: the standard deviation")

    @property
    def names_a_format(self) -> bool:
        """Whether the number of some format is given, such as its rho, which the others' are then relative to."""
        return any("[" in name for name in (*self.fixed, *self.priors))


def bounds(problem: Problem, constraints: Constraints) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the coordinates, closed where a number is fixed or the table has nothing to say about it."""
    lower = np.array([q.lower for q in problem.parameters])
    upper = np.array([q.upper for q in problem.parameters])
    for name in (*constraints.fixed, *constraints.priors):
        if name not in problem.names:
            raise UserError(f"{problem.law.name} has no number {name!r}; it has {', '.join(problem.names)}")
    for name, value in constraints.fixed.items():
        i = problem.names.index(name)
        parameter = problem.parameters[i]
        if not np.isfinite(value) or (parameter.log and value <= 0):
            raise UserError(f"{name}={value:g} must be finite{' and positive' if parameter.log else ''}")
        z = problem.coordinate(name, value)
        if parameter.name not in problem.with_units and not parameter.lower <= z <= parameter.upper:
            low, high = (np.exp(x) if parameter.log else x for x in (parameter.lower, parameter.upper))
            raise UserError(f"{name}={value:g} lies outside {low:g} to {high:g}")
        lower[i] = upper[i] = z
    if not problem.has_data_term:
        for i in map(problem.names.index, problem.law.data_term):
            lower[i] = upper[i] = np.clip(0.5, lower[i], upper[i])
    return lower, upper


def penalty(problem: Problem, constraints: Constraints, noise: float) -> Penalty:
    """Priors as parts of an objective of this scale (`noise_scale`).

    Raises UserError for a prior on a number with units, without a deviation, or below 0 for a number above.
    """
    centre, precision = np.zeros(len(problem.parameters)), np.zeros(len(problem.parameters))
    for name, (mean, deviation) in constraints.priors.items():
        if name in problem.with_units:
            others = ", ".join(n for n in problem.names if n not in problem.with_units)
            raise UserError(f"a prior on {name} depends on the units of N and D; give one on {others}")
        if not deviation > 0:
            raise UserError(f"prior {name}={mean:g}:{deviation:g}: the standard deviation must be positive")
        i = problem.names.index(name)
        log = problem.parameters[i].log
        if log and not mean > 0:
            raise UserError(f"prior {name}={mean:g}:{deviation:g}: the mean of a number above 0 must be one")
        centre[i] = np.log(mean) if log else mean
        precision[i] = noise / (deviation / mean if log else deviation) ** 2
    return Penalty(centre, precision)
