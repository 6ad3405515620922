"""A table of runs, checked: what every law is fitted to.

A `Table` never loses a row in silence. A row that no law can use (diverged, repeated, never trained) is set
aside as a `Remark` that names it; a row that smells of a unit mistake is refused, because a fit would
swallow it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from capscale.analysis.curves import with_curves
from capscale.analysis.reading.groups import refuse_mixtures
from capscale.analysis.reading.missing import refuse_missing
from capscale.analysis.reading.numbers import is_missing
from capscale.analysis.reading.status import ended
from capscale.analysis.records import DENSE_REMEDY, OPERANDS, digest, row_of, with_extra
from capscale.analysis.repeats import with_runs_apart, without_repeats
from capscale.analysis.row import Remark, Row, named_rows
from capscale.analysis.suspect import refuse_unit_mistakes
from capscale.analysis.tuning import at_best_rates
from capscale.errors import UserError

__all__ = ["Remark", "Row", "Table", "make_table"]

MOST_SET_ASIDE = 1 / 3
"""Share of rows that may have diverged before it is rather their reading that went wrong."""


@dataclass(frozen=True)
class Table:
    """Runs in canonical order: the same runs in any order make the same Table."""

    rows: tuple[Row, ...]
    source: str
    sha256: str
    """Of the rows in canonical order."""
    remarks: tuple[Remark, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    """Provenance of the rows: a sweep's command, versions, corpus hash, wall time."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def curves(self) -> tuple[str, ...]:
        """Names of the formats, dense first, then by GMSE."""
        first = self.first_of_curve
        error = {c: np.nan_to_num(r.weights_gmse + r.activations_gmse, nan=1.0) for c, r in first.items()}
        return tuple(sorted(first, key=lambda c: (not first[c].is_dense, error[c], c)))

    @cached_property
    def first_of_curve(self) -> dict[str, Row]:
        """One row of every format."""
        return {r.curve: r for r in reversed(self.rows)}

    def column(self, name: str) -> np.ndarray:
        """One numeric column as float64 (R,)."""
        return np.array([getattr(r, name) for r in self.rows], np.float64)

    def select(self, keep: np.ndarray) -> "Table":
        """The rows where `keep` holds, with the same names of formats."""
        rows = tuple(r for r, k in zip(self.rows, keep, strict=True) if k)
        return replace(self, rows=rows)

    def plain(self, *, cache: bool = False) -> "Table":
        """The rows of one format with an estimator of its own, which a law of GMSE is about; a remark names each other.

        GMSE cannot see the gradient: in one fit with the others, a format trained in two ways would have one rho, and
        gradients that are compressed themselves are such another way. Nor is the mean GMSE of a policy the error of a
        format: which layers it falls on matters too. With `cache` those with compressed keys and values stay.
        """
        kept = np.array([r.is_plain_but_for_cache if cache else r.is_plain for r in self.rows])
        plain = self.select(kept)
        others = (
            Remark(r.run, f"left out of the law of GMSE: {r.curve} {_why(r)}")
            for r, keep in zip(self.rows, kept, strict=True)
            if not keep
        )
        return replace(plain, remarks=(*self.remarks, *others))


def _why(row: Row) -> str:
    """Reason why a law of GMSE is not about a row."""
    if row.policy:
        return "holds its layers in several formats"
    if row.is_parametrized:
        return "trains stored numbers of a parametrization, and no nearest point"
    if row.gradients != "dense":
        return "compresses its gradients"
    if row.cache != "dense":
        return "compresses its keys and values"
    return "has another estimator than the default of its format"


def make_table(
    records: Sequence[Mapping[str, Any]],
    source: str,
    *,
    strict: bool = True,
    remarks: Sequence[Remark] = (),
    context: Mapping[str, Any] | None = None,
) -> Table:
    """Check `records`, one mapping a run, and put them in canonical order.

    Columns that are numeric and none of a `Row`'s own become its `extra`. A `status` that says so, and a loss that is
    not finite, mark a run as diverged.

    Raises:
      UserError: a column or an operand's format is missing, a status has no known meaning, rows are of several
        families, corpora or tokenizers, or contradict each other. Unless `strict` is False also where rows look like
        unit mistakes, repeats lie far apart, or more than a third of the rows would be set aside.
    """
    columns = {name for record in records for name in record}
    refuse_missing(columns, columns, source)
    records = with_extra(records)
    _refuse_gaps(records, source)
    rows = [row_of(record, i, source) for i, record in enumerate(records)]
    why = _set_aside(rows, records, source)
    notes = [*remarks, *(Remark(rows[i].run, f"set aside: {reason}") for i, reason in why.items())]
    if strict and len(why) > MOST_SET_ASIDE * len(rows):
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(why.values()).items())
        raise UserError(
            f"{source}: {len(why)} of {len(rows)} rows would be set aside: {counts}; look at the columns "
            f"loss and status, choose rows by --where COLUMN=VALUE, or say --keep-suspect if it is so"
        )
    kept = [i for i in range(len(rows)) if i not in why]
    records = [records[i] for i in kept]
    refuse_mixtures(records, source)
    rows = with_curves([rows[i] for i in kept])
    if not rows:
        raise UserError(f"{source}: no run with a loss; {len(notes)} set aside or missing")
    for name in ("N", "D", "loss"):
        bad = [r for r in rows if not 0 < getattr(r, name) < math.inf]
        if bad:
            raise UserError(f"{source}: {name} must be finite and positive: {named_rows(bad, name)}")
    if strict:
        refuse_unit_mistakes(rows, records, source)
    rows, shared = with_runs_apart(rows)
    rows, tuned = at_best_rates(rows)
    rows, repeats = without_repeats(rows, source, strict=strict)
    rows.sort(key=lambda r: (r.curve, r.N, r.D, np.nan_to_num(r.seed, nan=-1.0), r.loss, r.weight, r.run))
    return Table(tuple(rows), source, digest(rows), (*notes, *shared, *tuned, *repeats), context or {})


def _refuse_gaps(records: Sequence[Mapping[str, Any]], source: str) -> None:
    """Refuses rows that do not say what an operand is: missing is not dense."""
    for side in OPERANDS:
        gaps = [i for i, r in enumerate(records) if is_missing(r.get(side)) or r[side] != r[side]]
        if gaps:
            names = [str(records[i].get("run") or f"row {i + 1}") for i in gaps]
            shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
            raise UserError(f"{source}: {side} is missing in {len(gaps)} rows: {shown}; {DENSE_REMEDY.format(side)}")


def _set_aside(rows: Sequence[Row], records: Sequence[Mapping[str, Any]], source: str) -> dict[int, str]:
    """Rows without a loss to fit, by their index, and why."""
    states = [ended(record.get("status")) for record in records]
    unknown = Counter(str(r["status"]) for r, state in zip(records, states, strict=True) if state is None)
    if unknown:
        words = ", ".join(f"{word!r} ({n} rows)" for word, n in unknown.items())
        first = next(iter(unknown))
        raise UserError(
            f"{source}: status {words}: neither known to mean that a run ended well nor that it diverged; say which: "
            f"--replace '{first}=ok' or '{first}=diverged', or leave rows out by --where"
        )
    found: dict[int, str] = {}
    for i, (row, record, fine) in enumerate(zip(rows, records, states, strict=True)):
        if not math.isfinite(row.loss) and (not fine or not is_missing(record["loss"])):
            found[i] = "diverged, it has no loss to fit"
        elif not fine:
            found[i] = f"diverged, by its status {record['status']!r}"
        elif is_missing(record["loss"]):
            found[i] = "it has no loss"
    return found
