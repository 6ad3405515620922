"""How the runs of a table were made, as far as it says: text, versions, ladder, optimizer, tokens."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.files import flattened, read_file
from capscale.analysis.reading.groups import is_group
from capscale.analysis.reading.numbers import is_missing
from capscale.analysis.repeats import CONDITIONS
from capscale.analysis.rows import read_json
from capscale.analysis.table import Table
from capscale.files import plain_name

NUMBERS = ("learning_rate", "steps", "width", *CONDITIONS)
"""Columns of a table that say how a run was made."""
WORDS = ("jax", "python", "capscale", "device")
"""The same, in words, beside those that say which runs belong together."""
WHAT_DIFFERS_ANYWAY = ("representation", "seed", "size", "model", "ladder", "data")
"""Parts of a run's JSON that are compared elsewhere, or differ between the runs of one sweep."""
OF_THE_TEXT = ("data.", "data_", "corpus", "dataset", "token", "vocab", "train_data", "training_", "val_", "eval_")
"""How settings begin that say which text losses are of."""
MOST = 8
"""Values of one setting that are told; more are counted."""


class Setting(NamedTuple):
    """One thing that two tables say of their runs, and do not say alike."""

    name: str
    first: str
    second: str


def settings(path: epath.PathLike, table: Table, sizes: Sequence[float]) -> dict[str, set[str]]:
    """Values of every setting among the runs of these sizes; `path` is where the table was read from."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in ("experiment", "ladder"):
        if name in table.context:
            found[name].add(str(table.context[name]))
    for part in ("data", "versions"):
        content = table.context.get(part)
        if isinstance(content, Mapping):
            for name, value in content.items():
                found[f"{part}.{name}"].add(_word(value))
    for row in table.rows:
        if row.family:
            found["family"].add(row.family)
        if row.N in sizes:
            for name in NUMBERS:
                value = row.extra.get(name)
                if value is not None and np.isfinite(value):
                    found[name].add(_word(value))
    _add_of_runs(epath.Path(path), table, sizes, found)
    _add_of_file(epath.Path(path), found)
    return dict(found)


def _add_of_runs(path: epath.Path, table: Table, sizes: Sequence[float], found: dict[str, set[str]]) -> None:
    """Adds optimizer and batch, as the results of a sweep tell them."""
    if not path.is_dir() or not (path / "sweep.json").exists():
        return
    for row in table.rows:
        if row.N in sizes:
            name = plain_name(row.run, path, "an entry of runs", "start the sweep again")
            result = read_json(path / "runs" / name / "result.json", "start the sweep again")
            for key, value in _leaves(result.get("run") or {}):
                if key.partition(".")[0] not in WHAT_DIFFERS_ANYWAY:
                    found[key].add(_word(value))


def _add_of_file(path: epath.Path, found: dict[str, set[str]]) -> None:
    """Columns of words that a table has: corpus, tokenizer, versions, device."""
    if path.is_dir() or path.suffix.lower() not in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        return
    for record in flattened(read_file(path, Choices())).records:
        for name, value in record.items():
            if (name in WORDS or is_group(name)) and not is_missing(value):
                found[name].add(_word(value))


def _leaves(content: Any, before: str = "") -> list[tuple[str, Any]]:
    if isinstance(content, Mapping):
        return [leaf for k, v in content.items() for leaf in _leaves(v, f"{before}.{k}" if before else str(k))]
    return [(before, content)]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def differing(first: Mapping[str, set[str]], second: Mapping[str, set[str]]) -> list[Setting]:
    """Settings that both tables tell, and of which they do not tell the same."""
    shared = [name for name in first if name in second and first[name] != second[name]]
    return [Setting(name, _listed(first[name]), _listed(second[name])) for name in sorted(shared)]


def of_the_text(found: Sequence[Setting]) -> list[Setting]:
    """Those that make losses those of different texts."""
    return [s for s in found if s.name.startswith(OF_THE_TEXT) or s.name == "data"]


def _listed(values: set[str]) -> str:
    shown = sorted(values)
    return ", ".join(shown[:MOST]) + (f" and {len(shown) - MOST} more" if len(shown) > MOST else "")


def span(values: Sequence[float]) -> str:
    """Smallest and largest of numbers, in words.

    Example: `span([2e6, 8e6])` is `"2e+06 to 8e+06"`.
    """
    low, high = min(values), max(values)
    return f"{low:.4g}" if high - low <= 1e-9 * abs(high) else f"{low:.4g} to {high:.4g}"
