"""How far formats stand from one curve rho(GMSE): what other studies say before a table does, and how formats are kin.

The departure u of a format stretches the logarithm of its capacity, log rho = exp(-u) log rho(GMSE): a format of
little error is near rho = 1 whatever its kind. It counts from the curve through the integer formats of its study; above
0 is above the curve. Kinds have mean departures with signs, and formats of one kind scatter about theirs.
`data/kind_departures.json` holds those of the paper's printed figures and of the experiments of this repository
(`scripts/kind_departures.py` makes it); a table moves what they say by its own runs.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from capscale.analysis.operands import facts
from capscale.analysis.table import Row
from capscale.errors import UserError
from capscale.formats.catalog import find
from capscale.formats.stages import stages_of

SAME_GRID, SAME_SCALE = 0.3, 0.3
"""Shares of a format's own variance that it has in common with those of its operand and grid, and of its scale rule
and rotation; the rest is its own. Judged, not measured: no study has crossed grids with scale rules."""


@dataclass(frozen=True)
class Kin:
    """Traits of a compressed operand: two operands share those that are equal."""

    operand: str
    kind: str
    scalar: bool
    """One number a value: integers, floats and other grids, which differ less among themselves than from sparsity."""
    grid: str
    scale: str
    name: str


def kin(row: Row) -> tuple[Kin, ...]:
    """The compressed operands of a row."""
    found = []
    for operand in ("weights", "activations"):
        name = getattr(row, operand)
        if name != "dense":
            recipe = f"{row.hadamard} {'' if row.default_estimators else getattr(row, f'{operand}_estimator')}"
            kind, grid, scale = _parts(name)
            found.append(Kin(operand, kind, is_scalar(name), grid, f"{scale} {recipe}", f"{name} {recipe}"))
    return tuple(found)


@cache
def is_scalar(name: str) -> bool:
    """Whether a format rounds value by value to a grid; False for names outside the catalog."""
    try:
        stages = stages_of(find(name))
    except UserError:
        return False
    return stages.scalar is not None and not stages.composed


@cache
def _parts(name: str) -> tuple[str, str, str]:
    """Kind, grid and scale rule (its class, of a format without one).

    Of a name outside the catalog the letters are its kind, so that lut3 and lut4 are one.
    """
    try:
        format = find(name)
    except UserError:
        letters = re.sub(r"[^a-z]+", " ", name.lower()).strip()
        return letters or name, name, letters or name
    scalar = stages_of(format).scalar
    if scalar is not None:
        grid, scale = repr(scalar.grid), f"{scalar.scale} {scalar.group}"
    else:
        grid, scale = name, type(format).__name__
    return facts(name).kind, grid, scale


@dataclass(frozen=True)
class Departures:
    """Departures by evidence: prior means of kinds, and deviations of kinds and of formats within a kind."""

    means: dict[tuple[str, str], float]
    of_kind: tuple[float, float]
    """Of scalar kinds, and of the others."""
    of_format: tuple[float, float]

    def mean(self, each: Sequence[Kin]) -> np.ndarray:
        """Prior means (F,); 0 for a kind that no study has."""
        return np.array([self.means.get((k.operand, k.kind), 0.0) for k in each])

    def covariance(self, each: Sequence[Kin]) -> np.ndarray:
        """Prior covariance (F, F)."""

        def same(*fields: str) -> np.ndarray:
            keys = [tuple(getattr(k, f) for f in ("operand", *fields)) for k in each]
            return np.array([[a == b for b in keys] for a in keys], float).reshape(len(keys), len(keys))

        own = 1 - SAME_GRID - SAME_SCALE
        within = SAME_GRID * same("grid") + SAME_SCALE * same("scale") + own * same("name")
        kinds, formats = (np.array([pair[not k.scalar] for k in each]) for pair in (self.of_kind, self.of_format))
        return np.outer(kinds, kinds) * same("kind") + np.outer(formats, formats) * within

    def deviation(self, of: Kin) -> float:
        """Prior deviation of one format of a kind that no run has."""
        return float(np.hypot(self.of_kind[not of.scalar], self.of_format[not of.scalar]))


@cache
def departures() -> Departures:
    """Departures by the shipped evidence.

    A kind's mean is drawn to 0, that of the integers, as if one more study had found it there; deviations are those
    of the kinds' means from 0 and of formats from the mean of their kind and study, pooled.
    """
    entries = json.loads(files("capscale.analysis").joinpath("data/kind_departures.json").read_text())["departures"]
    studies: dict[tuple[str, str, bool], dict[str, list[float]]] = {}
    for e in entries:
        key = e["operand"], e["kind"], is_scalar(e["format"])
        studies.setdefault(key, {}).setdefault(e["study"], []).append(e["departure"])
    averages = {key: [float(np.mean(v)) for v in each.values()] for key, each in studies.items()}
    means = {key[:2]: sum(v) / (len(v) + 1) for key, v in averages.items()}
    means[("weights", "int")] = 0.0  # by definition

    def pooled(*, scalar: bool) -> tuple[float, float]:
        of_kind = [m for key, v in averages.items() if key[2] == scalar and key[:2] != ("weights", "int") for m in v]
        groups = [np.array(v) for key, each in studies.items() if key[2] == scalar for v in each.values() if len(v) > 1]
        squares, freedom = sum(float(np.sum((g - g.mean()) ** 2)) for g in groups), sum(len(g) - 1 for g in groups)
        return float(np.sqrt(np.mean(np.square(of_kind)))), float(np.sqrt(squares / freedom))

    (kind, format), (other_kind, other_format) = pooled(scalar=True), pooled(scalar=False)
    return Departures(means, (kind, other_kind), (format, other_format))
