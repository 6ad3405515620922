"""Rows of a sweep's directory as one CSV: every result with its run id, text and versions, in the sweep's order.

    python scripts/collect_rows.py runs/micro experiments/results/micro_capacity.csv

This is how the tables of experiments/results are made; `capscale` reads them as it reads the directory.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """One mapping a finished run, in the order of sweep.json."""
    sweep = json.loads((directory / "sweep.json").read_text())
    rows = []
    for run in sweep["runs"]:
        path = directory / "runs" / run / "result.json"
        if path.is_file():
            result = json.loads(path.read_text())
            made = {"run": run, "data_sha256": result["run"]["data"]["sha256"], "jax": result["versions"]["jax"]}
            rows.append(result["row"] | made | {"device": result["versions"]["device"]})
    return rows


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="directory of `capscale sweep --out`")
    parser.add_argument("table", type=Path, help="CSV to write")
    arguments = parser.parse_args()
    rows = rows_of(arguments.sweep)
    if not rows:
        parser.error(f"{arguments.sweep}: no finished run")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with arguments.table.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows in {arguments.table}")


if __name__ == "__main__":
    main()
