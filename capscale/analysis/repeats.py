"""Several rows of one configuration: repeats, contradictions, and checkpoints of one run."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capscale.analysis.reading.history import is_step
from capscale.analysis.row import Remark, Row, named_rows
from capscale.analysis.shipped import SHIPPED
from capscale.errors import UserError

FAR = 6.0
"""Standard deviations of the table's noise between two repeats that are not of one configuration."""
NEAR = 0.01
"""Relative difference of losses that repeats may always have: seeds of small models differ by as much."""
CONDITIONS = tuple(sorted({column.name for law in SHIPPED for column in law.columns}))
"""Columns of how a run was trained, by what laws read: rows that differ in one are no repeats of one another."""


def with_runs_apart(rows: Sequence[Row]) -> tuple[list[Row], list[Remark]]:
    """Rows whose `run` is shared only by checkpoints of one run: several D of one size, format and seed.

    A name that stands for runs of several sizes or formats is completed by them; without a column of steps it is the
    name of a series, whose rows are runs of their own.
    """
    configurations: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for row in rows:
        configurations[row.run].add(_model(row))
    apart = []
    for row in rows:
        if len(configurations[row.run]) > 1:
            seed = "" if math.isnan(row.seed) else f" seed {row.seed:g}"
            tokens = "" if any(is_step(name) for name in row.extra) else f" D={row.D:.12g}"
            apart.append(row._replace(run=f"{row.run} [{row.curve} N={row.N:.12g}{tokens}{seed}]"))
        else:
            apart.append(row)
    trained: dict[str, set[float]] = defaultdict(set)
    for row in apart:
        trained[row.run].add(row.D)
    several = [run for run, found in trained.items() if len(found) > 1]
    shown = ", ".join(several[:3]) + (", ..." if len(several) > 3 else "")
    said = "their rows are checkpoints of one run each; give runs that are independent names of their own"
    return apart, [Remark(f"{len(several)} runs with several D ({shown})", said)] if several else []


def _model(row: Row) -> tuple[Any, ...]:
    """Fields that stay the same along one run; its epochs and the like grow with D."""
    return row.N, row.identity, None if math.isnan(row.seed) else row.seed


def _configuration(row: Row) -> tuple[Any, ...]:
    size, identity, seed = _model(row)
    return size, identity, conditions(row), seed


def conditions(row: Row) -> tuple[tuple[str, float], ...]:
    """How a run was trained, by what laws read of it: columns and their values, where it has them."""
    held = ((name, row.extra.get(name, math.nan)) for name in CONDITIONS)
    return tuple((name, value) for name, value in held if math.isfinite(value))


def without_repeats(rows: Sequence[Row], source: str, *, strict: bool) -> tuple[list[Row], list[Remark]]:
    """One of several equal rows stays. Rows of one seed that disagree are refused; without seeds they are repeats.

    Raises:
      UserError: one run has two losses; or, where `strict`, repeats differ by far more than the table's noise, which
        rows of two families, corpora or recipes do.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.D, *_configuration(row)), []).append(row)
    kept, remarks = [], []
    for (*_, seed), group in groups.items():
        first: dict[float, Row] = {}
        for row in group:
            if row.loss in first:
                remarks.append(Remark(row.run, f"set aside: repeats {first[row.loss].run}"))
            else:
                first[row.loss] = row
        if len(first) > 1 and seed is not None:
            raise UserError(f"{source}: one run, several losses: {named_rows(group, 'loss')}; keep one of them")
        kept += first.values()
        remarks += [Remark(r.run, "kept: another measurement of one configuration") for r in [*first.values()][1:]]
    if strict and (far := _far_apart(kept)):
        raise UserError(
            f"{source}: repeats of one size, D and format that differ by far more than the noise: "
            f"{named_rows(far, 'loss')}; if the runs differ in more, choose some (--where COLUMN=VALUE), "
            "correct them, or say --keep-suspect"
        )
    return kept, remarks


def _far_apart(rows: Sequence[Row]) -> list[Row]:
    """Repeats whose range exceeds `FAR` times the noise, as their neighbours and the other repeats show it."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.curve, row.N, row.D, conditions(row)), []).append(row)
    repeated = {cell: group for cell, group in cells.items() if len(group) > 1}
    smooth = _scatter_of_means(cells)
    far = []
    for cell, group in repeated.items():
        losses = np.array([row.loss for row in group])
        others = [_deviation(g) for c, g in repeated.items() if c != cell]
        known = [s for s in (smooth, float(np.median(others)) if len(others) >= 3 else math.nan) if math.isfinite(s)]
        noise = min(known) if known else 10 * NEAR / FAR
        spread = float(np.ptp(losses) / np.mean(losses))
        if spread > max(FAR * noise, NEAR):
            far += group
    return far


def _deviation(group: Sequence[Row]) -> float:
    losses = [row.loss for row in group]
    return float(np.std(losses, ddof=1) / np.mean(losses))


def _scatter_of_means(cells: Mapping[tuple[Any, ...], list[Row]]) -> float:
    """Relative scatter of one run about a smooth surface of each format, NaN where too few cells show it.

    Means of repeats are what is smooth: of pairs of two families they are, however far the two are apart.
    """
    curves: dict[str, list[list[Row]]] = defaultdict(list)
    for (curve, *_), group in cells.items():
        curves[curve].append(group)
    found = []
    for groups in curves.values():
        x, y = (np.log([getattr(g[0], name) for g in groups]) for name in ("N", "D"))
        columns = [np.ones(len(x)), x - x.mean(), y - y.mean()]
        columns += [columns[1] ** 2, columns[1] * columns[2], columns[2] ** 2] if len(x) >= 10 else []
        design = np.stack(columns, 1)
        free = len(x) - int(np.linalg.matrix_rank(design))
        if free < 3:
            continue
        mean = np.array([np.mean([row.loss for row in g]) for g in groups])
        z = np.log(mean)
        residual = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
        count = np.array([len(g) for g in groups])
        found.append(float(np.median(np.abs(residual) * np.sqrt(count)) * 1.4826 * math.sqrt(len(x) / free)))
    return max(float(np.median(found)), 1e-4) if found else math.nan
