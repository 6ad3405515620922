"""Names of the formats of one table: what tells them apart, and no more."""

from collections.abc import Sequence

from capscale.analysis.estimators import side_name
from capscale.analysis.row import GRADIENTS, RECIPE, Row

TOLD = (*RECIPE, "family")
"""Columns that tell two formats of one name apart."""


def with_curves(rows: Sequence[Row]) -> list[Row]:
    """Shortest names that tell the formats of this table apart: only what differs is spelled out."""
    owners: dict[str, dict[tuple[str, ...], Row]] = {}
    for row in rows:
        owners.setdefault(_short_name(row), {})[row.identity] = row
    differing = {
        name: {f for f in TOLD if len({_told(r, f) for r in own.values()}) > 1} for name, own in owners.items()
    }
    return [r._replace(curve=_full_name(r, differing[_short_name(r)])) for r in rows]


def _told(row: Row, field: str) -> str:
    """A coordinate of a row's identity; of an estimator nothing where it is the default, whatever the rotation."""
    side = field.removesuffix("_estimator")
    if side == field:
        return getattr(row, field)
    usual = side_name(getattr(row, side), getattr(row, field), bool(row.hadamard), False) == getattr(row, side)
    return "" if usual else getattr(row, field)


def _short_name(row: Row) -> str:
    if row.is_dense:
        return "dense"  # one curve, whatever estimator and rotation do nothing to it
    if row.policy:
        return f"mixed: {row.policy}{_correction(row)}"
    how = bool(row.hadamard), row.default_estimators
    sides = [
        side_name(name, estimator, *how)
        for name, estimator in ((row.weights, row.weights_estimator), (row.activations, row.activations_estimator))
    ]
    name = sides[0] if row.activations == "dense" else " x ".join(sides)
    name += "" if row.gradients == "dense" else f"{GRADIENTS}{row.gradients}"
    name += "" if row.cache == "dense" else f", cache {row.cache}"
    return name + _correction(row)


def _correction(row: Row) -> str:
    return "" if row.correction == "none" else f", {row.correction}"


def _full_name(row: Row, differing: set[str]) -> str:
    name = _short_name(row)
    if row.is_dense or not differing:
        return name
    rotation = f"hadamard {row.hadamard}" if row.hadamard else "no rotation"
    extra = [rotation if f == "hadamard" else _told(row, f) for f in TOLD if f in differing]
    extra = [e for e in extra if e and e not in name]
    return f"{name} [{', '.join(extra)}]" if extra else name
