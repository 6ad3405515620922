"""The plane of stored bits against capacity, of every kind of representation, from tables of runs, as a picture.

    python scripts/plot_stored.py docs/stored-numbers.png experiments/results/parametrizations.csv \\
        experiments/results/reproduction-nano.csv experiments/results/recipes.csv experiments/results/bitnet.csv \\
        experiments/results/nested.csv experiments/results/low_ranks.csv

Bits are a weight's of the linear layers: 16 a stored number of a parametrization, of formats with their masks and
scales, in the limit of large matrices; of low ranks and outliers, which are far from it, in those of the models.
Capacities are measured off each table's own dense curve, or that of the first table where it has none and the text is
the same, with 95 % intervals by `capscale.analysis.evidence`, of runs with dense activations, the estimators that
formats have by default, and the rates of dense models where a format was trained at several; a kind of a table is drawn
as `KINDS` says. The line is a smaller dense model, which has as much capacity as it stores.
"""

import argparse
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from judge_experiment import evidence_of
from matplotlib.figure import Figure

from capscale.analysis.evidence import Evidence, interval
from capscale.analysis.images import image_files
from capscale.analysis.labels import Named, place_labels
from capscale.data.corpus import DataId
from capscale.formats.catalog import find
from capscale.formats.storage import Storable, storage_bits
from capscale.models.ladder import LADDERS, find_size
from capscale.models.parametrized import counted
from capscale.parametrizations import find_parametrization
from capscale.representation import Representation

DENSE_BITS = 16


def stored_bits(name: str, sizes: list[str]) -> float:
    """Bits a weight of the linear layers, mean over sizes."""
    held = find_parametrization(name)
    if held is not None:
        found = [counted(find_size(size), Representation(parametrization=held)) for size in sizes]
        return DENSE_BITS * float(np.mean([each.stored / each.entries for each in found]))
    own = find(name)
    if not isinstance(own, Storable) or not re.search("lowrank|outliers", name):
        return float(own.bits)
    shapes = [shape[::-1] for size in sizes for shape in find_size(size).projections.values()]  # rows are outputs
    entries = [prod(shape) for shape in shapes]
    return float(np.average([storage_bits(own, shape) for shape in shapes], weights=entries))


class Kind(NamedTuple):
    """Names of a kind in the column `weights`, whether they were rotated, and their color."""

    says: str
    names: str
    rotated: bool | None
    color: str


KINDS = (
    Kind("numbers of a parametrization", "", None, "#0b6e99"),
    Kind("integers and floats", "int[123468]|e2m1", True, "#7a4fa3"),
    Kind("ternary, of three scales", "ternary(-mean|-median)?", None, "#c2569b"),
    Kind("vectors", "higgs-d2-n(16|256)", True, "#3c8d40"),
    Kind("slices of one tensor of 8 bits", "nested-8-4-2(-at[24])?", None, "#555555"),
    Kind("kept entries and their mask", "2:4|top(50|75|90)", False, "#b3541e"),
    Kind("kept entries, rounded", r"top(50|75)\+int[24]-dense-scales", True, "#d39c12"),
    Kind("nearest of a low rank", "nearest-lowrank.*", False, "#1a1a1a"),
    Kind("two bits and what makes up for them", "int2-outliers5|int2(-outliers5)?~lowrank.*", False, "#2aa198"),
)
"""The first that matches counts; parametrizations are known by their names."""
FIGURES = ("finding1", "fig7")
"""Of a reproduction, the experiments whose runs have these kinds."""


def kind_of(record: dict[str, Any]) -> Kind | None:
    """The kind of a row, None of one that is not drawn: of another estimator or family, or compressed activations."""
    plain = record["activations"] == "dense" and record["default_estimators"] and record["family"] == "llama"
    name, rotated = str(record["weights"]), record["hadamard"] is not None
    if not plain or name == "dense":
        return None
    if find_parametrization(name) is not None:
        return KINDS[0]
    allowed = (kind for kind in KINDS[1:] if kind.rotated in (None, rotated))
    return next((kind for kind in allowed if re.fullmatch(kind.names, name)), None)


def _one_recipe(evidence: Evidence, about: Path) -> Evidence:
    """Of a reproduction, with a file that says its text, the runs of `FIGURES`: others tune what rows do not say."""
    if not about.is_file():
        return evidence
    told = json.loads(about.read_text())
    data = DataId(*(told["data"][name] for name in ("name", "sha256", "vocabulary")))
    modules = [import_module(f"capscale.experiments.{name}") for name in FIGURES]
    wanted = {run.run_id for module in modules for run in module.runs(LADDERS[told["ladder"]], data)}
    return replace(evidence, records=tuple(row for row in evidence.records if row["run"] in wanted))


def _dense(evidence: Evidence) -> list[Any]:
    return [r for r in evidence.records if r["weights"] == r["activations"] == "dense" and r["family"] == "llama"]


def _as_dense(rows: list[Any], dense: list[Any]) -> list[Any]:
    """Rows less those of a format that was also trained at the rate of the dense model of its size."""
    rates = {(row["model"], row["learning_rate"]) for row in dense}
    usual = [row for row in rows if (row["model"], row["learning_rate"]) in rates]
    of_both = {(row["weights"], row["model"]) for row in usual}
    return [row for row in rows if row in usual or (row["weights"], row["model"]) not in of_both]


def points(table: Path, first: Path) -> dict[Kind, list[Named]]:
    """Every format of a table that is drawn, by its kind, with its bits, capacity and interval."""
    whole, found = _one_recipe(evidence_of(table), table.with_suffix(".json")), {kind: [] for kind in KINDS}
    shown = [record for record in whole.records if kind_of(dict(record)) is not None]
    texts = {record["data_sha256"] for record in shown}
    dense = _dense(whole) or [row for row in _dense(evidence_of(first)) if row["data_sha256"] in texts]
    shown = _as_dense(shown, dense)
    evidence = replace(whole, records=(*shown, *dense))
    for curve in evidence.capacities.curves:
        row = evidence.table.first_of_curve[curve]
        records = [record for record in shown if record["weights"] == row.weights]
        sizes = sorted({str(record["model"]) for record in records})
        rho = interval(np.exp(evidence.log_rho(curve)))
        kind = kind_of(dict(records[0]))
        if kind is not None:
            found[kind].append(Named(stored_bits(row.weights, sizes), rho.value, row.weights, rho.low, rho.high))
    return found


def drawn(found: dict[Kind, list[Named]]) -> Figure:
    """The plane with both axes logarithmic."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots()
    ends = np.array([0.9, 18.0])
    axes.plot(ends, ends / DENSE_BITS, color="#999999", linewidth=1)
    for kind, own in found.items():
        low, high = ([abs(p.y - end) for p, end in zip(own, ends_, strict=True)] for ends_ in _ends(own))
        bars = [p.x for p in own], [p.y for p in own], [low, high]
        axes.errorbar(*bars, fmt="o", markersize=4, color=kind.color, capsize=2, linewidth=1, label=kind.says)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=(0.06, 1.3))
    axes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    axes.set_yticks([0.1, 0.2, 0.4, 0.7, 1.0], ["0.1", "0.2", "0.4", "0.7", "1"])
    axes.minorticks_off()
    axes.set(xlabel="stored bits a weight", ylabel="capacity rho, of a dense model of the same loss")
    axes.set_title("What stored bits buy; the line: a smaller dense model", fontsize=10, loc="left")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    every = [point for own in found.values() for point in own]
    place_labels(axes, every, [np.stack([ends, ends / DENSE_BITS], axis=1)])
    return figure


def merged(tables: Iterable[dict[Kind, list[Named]]]) -> dict[Kind, list[Named]]:
    """The points of all tables by kind; of a name that several have, that of the first."""
    found: dict[Kind, list[Named]] = {kind: [] for kind in KINDS}
    for table in tables:
        for kind, own in table.items():
            found[kind] += [point for point in own if point.name not in {each.name for each in found[kind]}]
    return {kind: own for kind, own in found.items() if own}


def _ends(own: list[Named]) -> tuple[list[float], list[float]]:
    return [p.low for p in own], [p.high for p in own]


def main() -> None:
    """Writes the picture of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("tables", type=Path, nargs="+", help="CSV of rows, by scripts/collect_rows.py")
    arguments = parser.parse_args()
    found = merged(points(table, arguments.tables[0]) for table in arguments.tables)
    arguments.picture.write_bytes(image_files("picture", drawn(found))["picture.png"])
    for kind, own in found.items():
        for p in own:
            print(f"{kind.says}: {p.name}: {p.x:.3g} bits, rho {p.y:.3f} ({p.low:.3f} to {p.high:.3f})")


if __name__ == "__main__":
    main()
