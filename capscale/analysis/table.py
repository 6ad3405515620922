"""A table of runs, checked: what every law is fitted to.

A `Table` never loses a row in silence. A row that no law can use (diverged, repeated, never trained) is set
aside as a `Remark` that names it; a row that smells of a unit mistake is refused, because a fit would
swallow it.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from capscale.analysis.names import word
from capscale.analysis.operands import gaussian_error
from capscale.checks import check_number
from capscale.errors import UserError

REQUIRED = ("N", "D", "loss", "weights", "activations")
WORDS = ("run", "weights", "activations", "weights_estimator", "activations_estimator", "hadamard", "family")
PLAIN_ESTIMATORS = frozenset({"", "dense", "trust", "clip", "straight_through", "both", "hypersphere", "lsq"})
"""Estimators that belong to their format: they stay out of a curve's name, and a law of GMSE is about them."""
LARGEST_NATS = math.log(2**18)
"""ln of a vocabulary that no run here exceeds; a loss above it is not in nats per token, or has diverged."""


class Remark(NamedTuple):
    """Something about one row that a reader must know."""

    row: str
    what: str


class Row(NamedTuple):
    """One run."""

    run: str
    """How remarks and errors name it."""
    N: float
    D: float
    loss: float
    """Nats per token."""
    weights: str
    activations: str
    weights_estimator: str
    activations_estimator: str
    hadamard: str
    family: str
    """Of models: llama, olmo2, ..."""
    weights_gmse: float
    activations_gmse: float
    loss_se: float
    weight: float
    seed: float
    """NaN where the table has none."""
    curve: str = ""
    """Name of the format, unique in its table."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two rows of one format."""
        return self[4:10]

    @property
    def is_dense(self) -> bool:
        """True where nothing is compressed."""
        return self.weights == "dense" and self.activations == "dense"

    @property
    def is_plain(self) -> bool:
        """True where the estimators are the ones that belong to the formats."""
        names = (self.weights_estimator, self.activations_estimator)
        return all(name.split("(")[0] in PLAIN_ESTIMATORS for name in names)


@dataclass(frozen=True)
class Table:
    """Runs in canonical order: the same runs in any order make the same Table."""

    rows: tuple[Row, ...]
    source: str
    sha256: str
    """Of the rows in canonical order."""
    remarks: tuple[Remark, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    """What came with the rows: a sweep's command, versions, corpus hash, wall time."""

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

    def plain(self) -> "Table":
        """The rows whose estimators belong to their formats, which a law of GMSE is about; a remark names each other.

        GMSE cannot see the gradient: in one fit with the others, a format trained in two ways would have one rho.
        """
        plain = self.select(np.array([r.is_plain for r in self.rows]))
        said = "left out of the law of GMSE: {} has another estimator"
        others = (Remark(r.run, said.format(r.curve)) for r in self.rows if not r.is_plain)
        return replace(plain, remarks=(*self.remarks, *others))


def _number(record: Mapping[str, Any], name: str, source: str, run: str, default: float = math.nan) -> float:
    value = record.get(name)
    try:
        number = default if value is None else float(value)
    except (TypeError, ValueError) as e:
        raise UserError(f"{source}: {run}: {name}={value!r} is no number") from e
    return default if math.isnan(number) else number


def _row(record: Mapping[str, Any], index: int, source: str) -> Row:
    run = f"row {index + 1}"
    words = {name: word(record.get(name), f"{source}: {run}") for name in WORDS}
    run = words["run"] or run
    sides = [words[side] or "dense" for side in ("weights", "activations")]
    weight = _number(record, "weight", source, run, 1.0)
    if not 0 <= weight < math.inf:
        raise UserError(f"{source}: {run}: weight={weight:g} must be finite and not negative")

    def number(name: str, default: float = math.nan) -> float:
        return _number(record, name, source, run, default)

    def error(side: str, name: str) -> float:
        given = number(f"{side}_gmse")
        check_number(0.0 if math.isnan(given) else given, f"{source}: {run}: {side}_gmse={given:g}", least=0)
        return 0.0 if name == "dense" else gaussian_error(name) if math.isnan(given) else given

    return Row(
        run=run,
        N=number("N"),
        D=number("D"),
        loss=number("loss"),
        weights=sides[0],
        activations=sides[1],
        weights_estimator=words["weights_estimator"],
        activations_estimator=words["activations_estimator"],
        hadamard=words["hadamard"],
        family=words["family"],
        weights_gmse=error("weights", sides[0]),
        activations_gmse=error("activations", sides[1]),
        loss_se=number("loss_se"),
        weight=weight,
        seed=number("seed"),
    )


def _with_curves(rows: Sequence[Row]) -> list[Row]:
    """Shortest names that tell the formats of this table apart: only what differs is spelled out."""
    owners: dict[str, dict[tuple[str, ...], Row]] = {}
    for row in rows:
        owners.setdefault(_short_name(row), {})[row.identity] = row
    differing = {
        name: {f for f in Row._fields[4:10] if len({getattr(r, f) for r in own.values()}) > 1}
        for name, own in owners.items()
    }
    return [r._replace(curve=_full_name(r, differing[_short_name(r)])) for r in rows]


def _short_name(row: Row) -> str:
    if row.is_dense:
        return "dense"  # one curve, whatever estimator and rotation do nothing to it
    text = row.weights if row.activations == "dense" else f"{row.weights} x {row.activations}"
    odd = [e for e in (row.weights_estimator, row.activations_estimator) if e.split("(")[0] not in PLAIN_ESTIMATORS]
    return text + (f" [{', '.join(dict.fromkeys(odd))}]" if odd else "")


def _full_name(row: Row, differing: set[str]) -> str:
    name = _short_name(row)
    if row.is_dense or not differing:
        return name
    rotation = f"hadamard {row.hadamard}" if row.hadamard else "no rotation"
    extra = [rotation if f == "hadamard" else getattr(row, f) for f in Row._fields[4:10] if f in differing]
    extra = [e for e in extra if e and e not in name]
    return f"{name} [{', '.join(extra)}]" if extra else name


def _named(rows: Sequence[Row], column: str) -> str:
    shown = [f"{r.run} ({column}={getattr(r, column):g})" for r in rows]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def _jumps_by_bits(rows: Sequence[Row]) -> list[Row]:
    """Rows 1 / ln 2 above what the other runs of their format say at that size and number of tokens."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.curve, []).append(row)
    odd = []
    for group in groups.values():
        X = np.stack([np.ones(len(group)), np.log([r.N for r in group]), np.log([r.D for r in group])], 1)
        y = np.log([r.loss for r in group])
        for i in range(len(group) if 4 <= len(group) <= 200 else 0):
            others = np.arange(len(group)) != i
            coefficients, *_ = np.linalg.lstsq(X[others], y[others], rcond=1e-6)
            spread = np.std(y[others] - X[others] @ coefficients)
            jump = y[i] - X[i] @ coefficients
            if abs(jump + math.log(math.log(2))) < 0.06 and spread < 0.06:
                odd.append(group[i])
    return odd


def _refuse_unit_mistakes(rows: Sequence[Row], records: Mapping[str, Mapping[str, Any]], source: str) -> None:
    below = [r for r in rows if r.D < r.N]
    if below:
        raise UserError(
            f"{source}: fewer tokens than parameters: {_named(below, 'D')}; D counts tokens, not batches or "
            "billions, and N non-embedding parameters; rows that mean it pass with --keep-suspect"
        )
    as_bits = [r for r in rows if r.loss > LARGEST_NATS or records[r.run].get("bits_per_byte") == r.loss]
    as_bits += [r for r in _jumps_by_bits(rows) if r not in as_bits]
    if as_bits:
        raise UserError(
            f"{source}: the loss looks like bits, not nats per token: {_named(as_bits, 'loss')}; multiply by "
            "ln 2 = 0.6931; rows that mean it pass with --keep-suspect"
        )


def _without_repeats(rows: Sequence[Row], source: str) -> tuple[list[Row], list[Remark]]:
    """One of several equal rows stays. Rows of one seed that disagree are refused; without seeds they are repeats."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        seed = None if math.isnan(row.seed) else row.seed
        groups.setdefault((row.N, row.D, row.identity, seed), []).append(row)
    kept, remarks = [], []
    for (*_, seed), group in groups.items():
        first: dict[float, Row] = {}
        for row in group:
            if row.loss in first:
                remarks.append(Remark(row.run, f"set aside: repeats {first[row.loss].run}"))
            else:
                first[row.loss] = row
        if len(first) > 1 and seed is not None:
            raise UserError(f"{source}: one run, several losses: {_named(group, 'loss')}; keep one of them")
        kept += first.values()
        remarks += [Remark(r.run, "kept: another measurement of one configuration") for r in [*first.values()][1:]]
    return kept, remarks


def make_table(
    records: Sequence[Mapping[str, Any]],
    source: str,
    *,
    strict: bool = True,
    remarks: Sequence[Remark] = (),
    context: Mapping[str, Any] | None = None,
) -> Table:
    """Check `records`, one mapping a run, and put them in canonical order.

    Raises UserError for missing columns, unit mistakes (unless `strict` is False) and contradicting repeats.
    A `status` other than "ok", and a loss that is not finite, mark a run as diverged.
    """
    columns = {name for record in records for name in record}
    missing = [c for c in REQUIRED if c not in columns]
    if missing:
        bits = "loss" in missing and columns & {"bits_per_byte", "loss_bits", "bpb"}
        hint = "; a loss in bits becomes nats per token times ln 2, and times bytes per token" if bits else ""
        raise UserError(f"{source}: no column {missing}; it has {sorted(columns)}{hint}")
    rows = [_row(record, i, source) for i, record in enumerate(records)]
    by_run = {row.run: record for row, record in zip(rows, records, strict=True)}
    pairs = zip(rows, records, strict=True)
    ok = [math.isfinite(row.loss) and record.get("status", "ok") in ("ok", None) for row, record in pairs]
    diverged = (r.run for r, k in zip(rows, ok, strict=True) if not k)
    notes = [*remarks, *(Remark(run, "set aside: diverged, it has no loss to fit") for run in diverged)]
    rows = _with_curves([r for r, k in zip(rows, ok, strict=True) if k])
    if not rows:
        raise UserError(f"{source}: no run with a loss; {len(notes)} set aside or missing")
    for name in ("N", "D", "loss"):
        bad = [r for r in rows if not 0 < getattr(r, name) < math.inf]
        if bad:
            raise UserError(f"{source}: {name} must be finite and positive: {_named(bad, name)}")
    if strict:
        _refuse_unit_mistakes(rows, by_run, source)
    rows, repeats = _without_repeats(rows, source)
    rows.sort(key=lambda r: (r.curve, r.N, r.D, np.nan_to_num(r.seed, nan=-1.0), r.loss, r.weight, r.run))
    content = "\n".join(repr(r[1:]) for r in rows)
    return Table(tuple(rows), source, hashlib.sha256(content.encode()).hexdigest(), (*notes, *repeats), context or {})
