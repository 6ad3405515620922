"""Rises of the loss of dense runs whose weights were rounded, out of a table of `capscale quantize --csv`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from capscale.analysis.operands import facts, kind_words
from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.files import read_file
from capscale.errors import UserError
from capscale.files import is_there

COLUMNS = ("run", "N", "D", "weights", "bits", "gmse", "error", "loss", "rise", "rise_se")
"""Columns that a table must have; `capscale quantize --csv` writes them."""
WORDS = ("run", "weights")
BESIDE = ("activations", "cache", "policy")
"""Columns that are those of the run as it was trained where its weights alone are rounded, to one format."""
REMEDY = "give a table of `capscale quantize RUN... --csv FILE`"


class Rises(NamedTuple):
    """Rounded runs, a row for every run and format (R,).

    Attributes:
      source: where the rows were read.
      run: names of the runs.
      N, D: parameters and training tokens of the run.
      weights: name of the format that it was rounded to, and `kind` of that format in words.
      bits: of a quantized value; NaN of sparse formats, whose bits no law of the bits is about.
      gmse: Gaussian error of the format.
      error: that the run's weights realised.
      rise, rise_se: of the loss in nats per token, and its standard error by the held-out text.
      remarks: what was left out, and why.
    """

    source: str
    run: tuple[str, ...]
    N: np.ndarray
    D: np.ndarray
    weights: tuple[str, ...]
    kind: tuple[str, ...]
    bits: np.ndarray
    gmse: np.ndarray
    error: np.ndarray
    rise: np.ndarray
    rise_se: np.ndarray
    remarks: tuple[str, ...] = ()

    def only(self, chosen: np.ndarray) -> "Rises":
        """The rows where `chosen` (R,) holds."""
        keep = np.flatnonzero(chosen)
        text = {n: tuple(getattr(self, n)[i] for i in keep) for n in ("run", "weights", "kind")}
        numbers = {n: getattr(self, n)[keep] for n in ("N", "D", "bits", "gmse", "error", "rise", "rise_se")}
        return self._replace(**text, **numbers)

    @property
    def quantized(self) -> np.ndarray:
        """Rows whose format has bits that laws of the bits are about (R,)."""
        return np.isfinite(self.bits)

    @property
    def cell(self) -> np.ndarray:
        """Number of the row's N and D (R,): seeds of one cell share what a law misses there."""
        return np.unique(np.stack([self.N, self.D]), axis=1, return_inverse=True)[1].ravel()

    @property
    def format(self) -> np.ndarray:
        """Number of the row's format (R,)."""
        return np.unique(np.array(self.weights), return_inverse=True)[1].ravel()


def read_rises(paths: Sequence[epath.PathLike]) -> Rises:
    """The rises in one or several tables.

    Rounding a run that was trained in a format is another question, so that only dense runs are read; the rows of the
    runs as they were trained, and formats without error, have no rise. Rows in which layers differ, or the inputs or
    attention's cache are rounded as well, are left out: their rise is not of one format of the weights.

    Raises:
      UserError: a file that is no such table, numbers that are none, one run and format twice, or no dense run.
    """
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for path in paths:
        for record in _records(epath.Path(path)):
            runs.setdefault(str(record["run"]), []).append(record)
    source = ", ".join(map(str, paths))
    for run, (trained, *_) in runs.items():
        if _number(trained, "rise", source) != 0 or _number(trained, "rise_se", source) != 0:
            raise UserError(f"{source}: the first row of {run} is not the run as it was trained; {REMEDY}")
    compressed = [run for run, (trained, *_) in runs.items() if trained["weights"] != "dense"]
    dense = [(rows[0], row) for run, rows in runs.items() if run not in compressed for row in rows[1:]]
    alone = [row for trained, row in dense if all(row.get(name) == trained.get(name) for name in BESIDE)]
    rows = [row for row in alone if _number(row, "gmse", source) > 0]
    if not rows:
        raise UserError(f"{source}: no dense run that was rounded to a format; {REMEDY} over dense runs")
    _refuse_twice(rows, source)
    rows.sort(key=lambda r: (float(r["N"]), float(r["D"]), str(r["run"]), float(r["gmse"]), str(r["weights"])))
    column = {name: np.array([_number(r, name, source) for r in rows]) for name in COLUMNS if name not in WORDS}
    for name in ("N", "D", "gmse", "error"):
        if not (column[name] > 0).all():
            raise UserError(f"{source}: {name} must be positive in every rounded row; {REMEDY}")
    if not (column["rise_se"] >= 0).all():
        raise UserError(f"{source}: rise_se is negative; {REMEDY}")
    names = tuple(str(r["weights"]) for r in rows)
    bits = np.array([b if _has_bits(name) else math.nan for name, b in zip(names, column["bits"], strict=True)])
    others = len(dense) - len(alone)
    remarks = [f"{others} rows that round layers apart, inputs or the cache, left out"] if others else []
    remarks += [f"{run}: trained in a format, left out; laws of rises are of dense runs" for run in compressed]
    return Rises(
        source,
        tuple(str(r["run"]) for r in rows),
        column["N"],
        column["D"],
        names,
        tuple(kind_words(facts(name).kind) for name in names),
        bits,
        column["gmse"],
        column["error"],
        column["rise"],
        column["rise_se"],
        tuple(remarks),
    )


def asked(N: np.ndarray, D: np.ndarray, gmse: float) -> Rises:
    """Rows to predict, of a format of this error (R,); it realises that error, and what else it is, is not said."""
    count = len(N)
    words, none = ("",) * count, np.full(count, math.nan)
    error = np.full(count, gmse)
    return Rises("", words, np.asarray(N, float), np.asarray(D, float), words, words, none, error, error, none, none)


def _records(path: epath.Path) -> list[Mapping[str, Any]]:
    if not is_there(path):
        raise UserError(f"{path}: no such file; {REMEDY}")
    records = read_file(path, Choices()).records
    if not records:
        raise UserError(f"{path}: no rows; {REMEDY}")
    if missing := [name for name in COLUMNS if name not in records[0]]:
        raise UserError(f"{path}: no column {', '.join(missing)}; {REMEDY}")
    return list(records)


def _number(record: Mapping[str, Any], name: str, source: str) -> float:
    try:
        found = float(record[name])
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{source}: {name} of {record['run']} in {record['weights']} is {record[name]!r}; {REMEDY}")
    return found


def _has_bits(name: str) -> bool:
    """Whether Kumar's and QiD's laws, which are about the bits of quantized values, are about the format."""
    return math.isfinite(facts(name).storage_bits)


def _refuse_twice(rows: Iterable[Mapping[str, Any]], source: str) -> None:
    seen = set()
    for r in rows:
        pair = (str(r["run"]), str(r["weights"]))
        if pair in seen:
            raise UserError(f"{source}: {pair[0]} is rounded to {pair[1]} twice; leave one of the rows out")
        seen.add(pair)
