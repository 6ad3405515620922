"""Tokens of dense training and of quantized training after it, from rules of formats that start later."""

import math
from dataclasses import replace
from typing import Any

from capscale.analysis.estimators import canonical
from capscale.analysis.law import Law
from capscale.analysis.row import Remark, Row
from capscale.analysis.table import Table
from capscale.cache_names import cache_name
from capscale.errors import UserError
from capscale.estimator_names import estimator_name
from capscale.formats.catalog import label
from capscale.formats.schedule import first_step
from capscale.gradient_names import gradients_name
from capscale.policy import Rule
from capscale.policy_names import find_policy

DENSE, QUANTIZED = PHASES = ("dense_tokens", "qat_tokens")


def with_phases(table: Table, law: Law) -> Table:
    """The table with the tokens of both phases, for a law that reads them, of rows whose one format starts later.

    The policy of such a row, `.*=int4 starts 0.5`, becomes its format. Rows that were trained in theirs from the start
    on have no dense phase, which the law divides by: a remark leaves them out. Tables that hold the columns already, or
    no such policy, stay as they are.
    """
    if not {*PHASES} <= {column.name for column in law.columns} or any(_told(row) for row in table.rows):
        return table
    started = [_started(row) for row in table.rows]
    if not any(started):
        return table
    rows, left = [], []
    for row, rule in zip(table.rows, started, strict=True):
        if rule is not None:
            rows.append(_in_phases(row, rule))
        elif row.is_dense or row.policy:
            rows.append(row)
        else:
            left.append(Remark(row.run, f"left out of the {law.name} law: {row.curve} has no dense phase before it"))
    return replace(table, rows=tuple(rows), remarks=(*table.remarks, *left))


def _told(row: Row) -> bool:
    return any(math.isfinite(row.extra.get(name, math.nan)) for name in PHASES)


def _started(row: Row) -> Rule | None:
    """The rule of a row that holds all weights in one format from some step on."""
    if not row.policy:
        return None
    try:
        rules = find_policy([row.policy])
    except UserError:
        return None  # a rule that no text says whole; the row is that of a policy
    return rules[0] if len(rules) == 1 and rules[0].pattern == ".*" and rules[0].starts else None


def _in_phases(row: Row, rule: Rule) -> Row:
    """The row as one of the format, with its tokens before the step at which that starts, and from there on."""
    held, steps = rule.representation, row.extra.get("steps", math.nan)
    share = first_step(rule.starts, int(steps)) / steps if math.isfinite(steps) else rule.starts
    names: dict[str, Any] = {"weights": held.weights_label, "activations": label(held.activations.format)}
    for side in ("weights", "activations"):
        names[f"{side}_estimator"] = canonical(estimator_name(getattr(held, side).backward()))
    names |= {"gradients": gradients_name(held.gradients), "cache": cache_name(held)}
    names["hadamard"] = "" if held.rotation is None else str(held.rotation)
    extra = {**row.extra, DENSE: share * row.D, QUANTIZED: (1 - share) * row.D}
    return row._replace(policy="", extra=extra, **names)
