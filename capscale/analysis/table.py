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

from capscale.analysis.estimators import canonical, named, side_name, was_default
from capscale.analysis.names import word
from capscale.analysis.operands import gaussian_error
from capscale.checks import check_number
from capscale.errors import UserError
from capscale.realised import COLUMNS

REQUIRED = ("N", "D", "loss", "weights", "activations")
WORDS = (
    *("run", "weights", "activations", "weights_estimator", "activations_estimator", "hadamard", "family"),
    "default_estimators",
)
TOLD = COLUMNS[1:]
"""Columns of what weights tell of themselves: nothing is fitted to them, so they are no part of a table's digest."""
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
    default_estimators: bool = True
    """Whether each operand's estimator was the default of its format when the row was written."""
    weights_realised_error: float = math.nan
    """What the weights tell of themselves: see `capscale.realised`; NaN where the table does not say."""
    weights_realised_error_end: float = math.nan
    weights_pass_rate: float = math.nan
    weights_pass_rate_end: float = math.nan
    weights_pass_rate_gaussian: float = math.nan

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
        """True where the estimators are the defaults of the formats: a law of GMSE is about such rows."""
        return self.default_estimators


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
        said = "left out of the law of GMSE: {} has another estimator than the default of its format"
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
    sides, estimators, default = _operands(words, f"{source}: {run}")
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
        weights_estimator=estimators[0],
        activations_estimator=estimators[1],
        hadamard=words["hadamard"],
        family=words["family"],
        weights_gmse=error("weights", sides[0]),
        activations_gmse=error("activations", sides[1]),
        loss_se=number("loss_se"),
        weight=weight,
        seed=number("seed"),
        default_estimators=default,
    )._replace(**{name: number(name) for name in TOLD})


def _operands(words: Mapping[str, str], where: str) -> tuple[list[str], list[str], bool]:
    """Formats, estimators and whether these are the defaults, of both operands of a row."""
    formats, estimators, default = [], [], True
    for side in ("weights", "activations"):
        try:
            name, bracketed = named(words[side] or "dense")
        except UserError as error:
            raise UserError(f"{where}: {side}: {error}") from error
        given = words[f"{side}_estimator"]
        if bracketed and given and canonical(bracketed) != canonical(given):
            raise UserError(f"{where}: {side}={words[side]!r}, but {side}_estimator={given!r}; keep one of them")
        formats.append(name)
        estimators.append(canonical(bracketed or given))
        default &= was_default(bracketed or given, name, bool(words["hadamard"]))
    stated = words["default_estimators"].lower()
    if stated not in ("", "true", "false", "1", "0"):
        raise UserError(f"{where}: default_estimators={stated!r} is neither true nor false")
    return formats, estimators, default if not stated else stated in ("true", "1")


def _with_curves(rows: Sequence[Row]) -> list[Row]:
    """Shortest names that tell the formats of this table apart: only what differs is spelled out."""
    owners: dict[str, dict[tuple[str, ...], Row]] = {}
    for row in rows:
        owners.setdefault(_short_name(row), {})[row.identity] = row
    differing = {
        name: {f for f in Row._fields[4:10] if len({_told(r, f) for r in own.values()}) > 1}
        for name, own in owners.items()
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
    how = bool(row.hadamard), row.default_estimators
    sides = [
        side_name(name, estimator, *how)
        for name, estimator in ((row.weights, row.weights_estimator), (row.activations, row.activations_estimator))
    ]
    return sides[0] if row.activations == "dense" else " x ".join(sides)


def _full_name(row: Row, differing: set[str]) -> str:
    name = _short_name(row)
    if row.is_dense or not differing:
        return name
    rotation = f"hadamard {row.hadamard}" if row.hadamard else "no rotation"
    extra = [rotation if f == "hadamard" else _told(row, f) for f in Row._fields[4:10] if f in differing]
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
    digested = [name for name in Row._fields if name not in ("run", "default_estimators", *TOLD)]
    # Rows say when their estimators were not the default; of the others the digest is what it was before any did.
    other = [() if r.default_estimators else ("other estimators",) for r in rows]
    content = "\n".join(repr((*(getattr(r, n) for n in digested), *o)) for r, o in zip(rows, other, strict=True))
    return Table(tuple(rows), source, hashlib.sha256(content.encode()).hexdigest(), (*notes, *repeats), context or {})
