"""A record, which is what a file says of one run, as a `Row`."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from capscale.analysis.estimators import canonical, named, was_default
from capscale.analysis.names import word
from capscale.analysis.operands import gaussian_error
from capscale.analysis.reading.formats import DENSE_WORDS
from capscale.analysis.reading.numbers import is_missing
from capscale.analysis.row import TOLD, Row
from capscale.cache_names import cache_name, find_cache
from capscale.checks import check_number
from capscale.errors import UserError
from capscale.gradient_names import find_gradients, gradients_name
from capscale.representation import Representation

WORDS = (
    *("run", "weights", "activations", "weights_estimator", "activations_estimator", "hadamard", "family"),
    *("gradients", "cache", "correction", "default_estimators", "policy"),
)
OPERANDS = ("weights", "activations")
DENSE_REMEDY = "write dense where nothing is compressed, or --fill {}=dense if that is what empty cells mean"
KNOWN = {*Row._fields, "status"}
UNDIGESTED = ("run", "gradients", "cache", "correction", "default_estimators", "policy", "extra", *TOLD)
RECORDED = ("width", "bits_per_byte", "learning_rate", "steps", "diverged_at_step")
"""Other numbers in rows that capscale writes; no law reads them, and digests of such rows are as old as they are."""


def _number(record: Mapping[str, Any], name: str, source: str, run: str, default: float = math.nan) -> float:
    value: Any = record.get(name)
    try:
        number = default if is_missing(value) else float(value)
    except (TypeError, ValueError) as e:
        raise UserError(f"{source}: {run}: {name}={value!r} is no number") from e
    return default if math.isnan(number) else number


def row_of(record: Mapping[str, Any], index: int, source: str) -> Row:
    """The `index`-th record of a table as a row that no curve has been named for.

    Raises:
      UserError: a number is none or not in its range, a format's brackets hold no estimator, or an operand's format is
        missing: nothing says that such a run is dense.
    """
    run = f"row {index + 1}"
    words = {name: word(record.get(name), f"{source}: {run}") for name in WORDS}
    run = words["run"] or run
    if missing := [side for side in OPERANDS if not words[side]]:
        raise UserError(f"{source}: {run}: {missing[0]} is missing; {DENSE_REMEDY.format(missing[0])}")
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
        gradients=gradients_of(words["gradients"]),
        cache=cache_of(words["cache"]),
        correction=words["correction"] or "none",
        default_estimators=default,
        policy=words["policy"],
        extra=record.get("extra") or {},
    )._replace(**{name: number(name) for name in TOLD})


def _operands(words: Mapping[str, str], where: str) -> tuple[list[str], list[str], bool]:
    """Formats, estimators and whether these are the defaults, of both operands of a row."""
    formats, estimators, default = [], [], True
    for side in ("weights", "activations"):
        try:
            name, bracketed = named(words[side])
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


def gradients_of(text: str) -> str:
    """Canonical name of compressed gradients; dense where a table does not say, a table's own word where it is none."""
    if not text or text.lower() in DENSE_WORDS:
        return "dense"
    try:
        return gradients_name(find_gradients(text))
    except UserError:
        return text


def cache_of(text: str) -> str:
    """Canonical name of a compressed cache, as that of gradients."""
    if not text or text.lower() in DENSE_WORDS:
        return "dense"
    try:
        keys, values = find_cache(text)
        return cache_name(Representation(keys=keys, values=values))
    except UserError:
        return text


def with_extra(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records whose `extra` holds all other columns that are numeric in every record that has them.

    Words, truth values and columns of a `Row` are none. A record without such a number has NaN for it.
    """
    columns: dict[str, bool] = {}
    spread = [{**record, **(record.get("extra") or {})} for record in records]
    for record in spread:
        for name, value in record.items():
            if name not in KNOWN and not is_missing(value):
                is_number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
                columns[name] = is_number and columns.get(name, True)
    names = [name for name, numeric in columns.items() if numeric]

    def number(value: Any) -> float:
        return math.nan if is_missing(value) or math.isnan(value) else float(value)

    return [{**record, "extra": {name: number(record.get(name)) for name in names}} for record in spread]


def digest(rows: Iterable[Row]) -> str:
    """SHA-256 of what a law may see of rows, in their order: names of runs only as far as they are shared.

    Rows say when their estimators were not the default, gradients or cache not dense, what corrected their weights, by
    which policy they were held, which other numbers they have and which are of one run; of rows that do none of it the
    digest is what it was before any did.
    """
    rows = list(rows)
    digested = [name for name in Row._fields if name not in UNDIGESTED]
    counts = Counter(row.run for row in rows)
    shared = {run: i for i, run in enumerate(dict.fromkeys(row.run for row in rows if counts[row.run] > 1))}
    lines = []
    for row in rows:
        content = [getattr(row, name) for name in digested]
        content += [] if row.default_estimators else ["other estimators"]
        content += [f"policy {row.policy}"] if row.policy else []
        content += [] if row.gradients == "dense" else [f"gradients {row.gradients}"]
        content += [] if row.cache == "dense" else [f"cache {row.cache}"]
        content += [] if row.correction == "none" else [f"correction {row.correction}"]
        content += [f"run {shared[row.run]}"] if row.run in shared else []
        content += [(name, value) for name, value in sorted(row.extra.items()) if name not in RECORDED]
        lines.append(repr(tuple(content)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
