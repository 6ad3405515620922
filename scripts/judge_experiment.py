"""Verdicts on the statements of an experiment about work other than the paper's, from a table of its rows.

    python scripts/judge_experiment.py bitnet experiments/results/bitnet.csv

An experiment that is judged here has `STATEMENTS` and `estimates(evidence)`; `capscale reproduce` judges the paper's.
With `--figure FILE`, one that has `figure(evidence)` is drawn as well; `--where N=55536` takes the rows of one size.
"""

import argparse
import csv
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capscale.analysis.claims import Judgement, judge
from capscale.analysis.evidence import Evidence


def judged(
    experiment: str, table: Path, ladder: str = "nano", where: Mapping[str, Any] | None = None
) -> list[Judgement]:
    """Every statement with its estimate and verdict, by the rows whose columns hold the values of `where`."""
    module = importlib.import_module(f"capscale.experiments.{experiment}")
    found = module.estimates(evidence_of(table, ladder).only(**where or {}))
    return [judge(claim, found[claim.name]) for claim in module.STATEMENTS]


def evidence_of(table: Path, ladder: str = "nano") -> Evidence:
    """Rows of a table, whose values are numbers where they look like it."""
    with table.open(newline="") as file:
        records = tuple({name: _value(text) for name, text in row.items()} for row in csv.DictReader(file))
    return Evidence(records, str(table), ladder)


def _value(text: str) -> str | float | bool | None:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text or None


def main() -> None:
    """Prints a line for every statement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of an experiment with STATEMENTS")
    parser.add_argument("table", type=Path, help="CSV of its rows, by scripts/collect_rows.py")
    parser.add_argument("--ladder", default="nano", help="that it was trained on")
    parser.add_argument("--where", nargs="+", default=[], metavar="COLUMN=VALUE", help="rows to judge by; all if none")
    parser.add_argument("--figure", type=Path, help="picture to draw")
    arguments = parser.parse_args()
    where = {name: _value(value) for name, _, value in (text.partition("=") for text in arguments.where)}
    for found in judged(arguments.experiment, arguments.table, arguments.ladder, where):
        said = found.estimate
        numbers = said.missing or f"{said.value:.3g} ({said.low:.3g} to {said.high:.3g})"
        print(f"{found.verdict}: {found.claim.says} {found.claim.effect}: {numbers}. {found.reason}.")
    if arguments.figure:
        module = importlib.import_module(f"capscale.experiments.{arguments.experiment}")
        module.figure(evidence_of(arguments.table, arguments.ladder)).savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
