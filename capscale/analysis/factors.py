"""The factors that a table's formats are made of: grids of capacities for every product that its runs can test."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from capscale.analysis.factorization import Axis, CapacityGrid
from capscale.analysis.measure import Capacities
from capscale.analysis.table import Row, Table
from capscale.errors import UserError
from capscale.formats.catalog import find, label
from capscale.formats.stages import stages_of

DENSE = "dense"
FACTORS: Mapping[str, tuple[str, ...]] = {
    "weights,activations": ("weights", "activations"),
    "sparsity,bits": ("sparsity", "bits"),
    "sparsity,bits,activations": ("sparsity", "bits", "activations"),
}
"""Names of the factors that a table may be looked at by."""


SCALES = {"survivors": "scales of the weights kept", "dense": "scales of the dense weights"}


class Stages(NamedTuple):
    """Stages of weights, by the catalog's names: `dense` where a stage leaves them as they are."""

    sparsity: str
    bits: str
    how: str
    """How the two are combined; empty where there are not two."""
    mask_rotated: bool = True
    """Whether the mask is taken in the basis that the representation rotates to; False: in the given one."""


def stages(name: str) -> Stages:
    """The stages of a format, from the parts of its value; a name outside the catalog is one of bits."""
    try:
        format = find(name)
    except UserError:
        return Stages(DENSE, name, "")
    of = stages_of(format)
    if of.sparse is not None and of.rounding is not None:
        how = "mask before the rotation" if of.rotates_between else SCALES[of.scales_from]
        return Stages(label(of.sparse), label(of.rounding), how, not of.rotates_between)
    return Stages(name, DENSE, "") if of.sparse is not None else Stages(DENSE, name, "")


class _Entry(NamedTuple):
    """One format of the table in the grid of some factors."""

    key: tuple[str, ...]
    curve: str
    hadamard: str
    how: str
    mask_rotated: bool

    @property
    def factors(self) -> int:
        return _compressed(self.key, list(range(len(self.key))))


def _entry(row: Row, names: tuple[str, ...]) -> _Entry | None:
    """The place of a format among factors; None where they do not describe it."""
    split = stages(row.weights)
    own = {"weights": row.weights, "activations": row.activations, "sparsity": split.sparsity, "bits": split.bits}
    if "activations" not in names and row.activations != DENSE:
        return None
    how = split.how if "sparsity" in names else ""
    return _Entry(tuple(own[n] for n in names), row.curve, row.hadamard, how, split.mask_rotated)


def found_factors(table: Table) -> tuple[str, ...]:
    """Which products the formats of a table are made for, by the names of `FACTORS`."""
    split = [(stages(r.weights).how, r.activations) for r in table.first_of_curve.values() if r.is_plain]
    if any(how and activations != DENSE for how, activations in split):
        return ("sparsity,bits,activations",)
    rows = [r for r in table.first_of_curve.values() if r.is_plain]
    both = any(DENSE not in (r.weights, r.activations) for r in rows)
    staged = any(how for how, _ in split)
    return ("weights,activations",) * both + ("sparsity,bits",) * staged


def grids(table: Table, measured: Capacities, factors: str | None = None) -> list[CapacityGrid]:
    """Grids of capacities by `factors`, or by all that the table is made for (`found_factors`).

    Formats whose estimators are not their own are left out. Products of another rotation, or combined otherwise, have a
    grid of their own. A factor alone is taken in the basis of its products, where there is such a run, else as it is.

    Raises:
      UserError: `factors` unknown; no format compresses two factors; no product can be predicted, naming what is
        missing alone.
    """
    if factors is not None and factors not in FACTORS:
        raise UserError(f"factors {factors!r}: give one of {', '.join(FACTORS)}")
    chosen = found_factors(table) if factors is None else (factors,)
    found = [grid for names in chosen for grid in _by(table, measured, FACTORS[names])]
    if not found:
        asked = f"two of {factors}" if factors else "two operands, or weights in two stages"
        raise UserError(f"{table.source}: no factorization, as no format with its own estimators compresses {asked}")
    if not any(np.any((g.compressed >= 2) & np.isfinite(g.product_of_lines(g.capacity))) for g in found):
        words = dict.fromkeys(line for grid in found for line in lacking_alone(grid))
        raise UserError(f"{table.source}: no product can be predicted without its factors: {'; '.join(words)}")
    return found


def _by(table: Table, measured: Capacities, names: tuple[str, ...]) -> list[CapacityGrid]:
    entries = [e for r in table.first_of_curve.values() if r.is_plain and (e := _entry(r, names)) is not None]
    order = {c: i for i, c in enumerate(table.curves)}
    entries.sort(key=lambda e: order[e.curve])
    manners = dict.fromkeys((e.hadamard, e.how) for e in entries if e.factors > 1)
    combined = {hadamard for hadamard, how in manners if how}
    # Pairs of which neither is split belong to the grids of those that are.
    chosen = [(hadamard, how) for hadamard, how in manners if how or hadamard not in combined]
    return [_grid(names, entries, manner, measured) for manner in chosen]


def _grid(names: tuple[str, ...], entries: list[_Entry], manner: tuple[str, str], measured: Capacities) -> CapacityGrid:
    """The grid of one rotation and combination; a factor that does not compress in any of its products is no axis."""
    hadamard, how = manner
    cells = {e.key: e for e in reversed(entries) if e.factors > 1 and e.hadamard == hadamard and e.how in ("", how)}
    mask_rotated = all(e.mask_rotated for e in cells.values())
    alone, notes = defaultdict(list), []
    for e in entries:
        if e.factors == 1:
            alone[e.key].append(e)
    levels = [tuple(dict.fromkeys([DENSE, *(e.key[k] for e in entries if e.key in cells)])) for k in range(len(names))]
    for key, options in alone.items():
        k = next(k for k, level in enumerate(key) if level != DENSE)
        # Behind a mask of the given basis integers work in a rotated one; otherwise all share the rotation.
        quantized = not mask_rotated and names[k] == "bits"
        fits = [e for e in options if (e.hadamard != "" if quantized else e.hadamard == hadamard)]
        cells[key] = (fits or options)[0]
        if not fits and key[k] in levels[k]:
            own = f"rotation {options[0].hadamard}" if options[0].hadamard else "no rotation"
            notes.append(f"{key[k]} alone was trained with {own}, unlike its products")
    kept = [k for k in range(len(names)) if len(levels[k]) > 1]
    axes = tuple(Axis(names[k], levels[k], DENSE) for k in kept)
    curves = {tuple(e.key[k] for k in kept): e.curve for e in cells.values() if e.factors == _compressed(e.key, kept)}
    words = [" x ".join(axis.name for axis in axes), f"rotation {hadamard}" if hadamard else "", how]
    return replace(_measured_grid(", ".join(filter(None, words)), axes, curves, measured), notes=tuple(notes))


def _compressed(key: tuple[str, ...], axes: list[int]) -> int:
    return sum(key[k] != DENSE for k in axes)


def _measured_grid(
    name: str, axes: tuple[Axis, ...], curves: Mapping[tuple[str, ...], str], measured: Capacities
) -> CapacityGrid:
    shape = tuple(len(axis.levels) for axis in axes)
    capacity, draws = np.full(shape, np.nan), np.full((len(measured.draws), *shape), np.nan)
    why_not: dict[tuple[int, ...], str] = {}
    for at in np.ndindex(shape):
        key = tuple(axis.levels[i] for axis, i in zip(axes, at, strict=True))
        curve = curves.get(key)
        if not any(at):  # dense comes first on every axis
            capacity[at], draws[(slice(None), *at)] = 1.0, 1.0
        elif curve is None or curve not in measured.curves:
            why_not[at] = "no run"
        elif reason := measured.why_not[measured.curves.index(curve)]:
            why_not[at] = reason
        else:
            column = measured.curves.index(curve)
            capacity[at], draws[(slice(None), *at)] = measured.rho[column], measured.draws[:, column]
    return CapacityGrid(name, axes, capacity, draws, why_not)


def missing(grid: CapacityGrid) -> list[str]:
    """Gaps of a grid, in words: factors alone first, then products that were not measured."""
    return lacking_alone(grid) + [
        f"{' x '.join(level for level, axis in zip(levels, grid.axes, strict=True) if level != axis.dense)}: {reason}"
        for at, levels in grid.cells()
        if grid.compressed[at] > 1 and (reason := grid.why_not.get(at))
    ]


def lacking_alone(grid: CapacityGrid) -> list[str]:
    """Factors that were not measured alone, so that products with them have no prediction."""
    return [
        f"{axis.name} {level} alone: {reason}"
        for at, levels in grid.cells()
        if grid.compressed[at] == 1 and (reason := grid.why_not.get(at))
        for level, axis in zip(levels, grid.axes, strict=True)
        if level != axis.dense
    ]
