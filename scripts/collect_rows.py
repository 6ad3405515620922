"""Rows of a sweep's directory as one CSV: every result with its run id, text and versions, in the sweep's order.

    python scripts/collect_rows.py runs/micro experiments/results/micro_capacity.csv

This is how the tables of experiments/results are made; `capscale` reads them as it reads the directory. Of the
reproduction, whose runs are chosen by their ids, a .json beside the table says which text they were trained on:

    python scripts/collect_rows.py runs/reproduction-nano experiments/results/reproduction-nano.csv
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from etils import epath

from capscale.artifacts import sweep_listing


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """One mapping a finished run, and one for each further slice of nested weights, in the order of the sweep."""
    sweep = listing(directory)
    rows = []
    for run in sweep["runs"]:
        path = directory / "runs" / run / "result.json"
        if path.is_file():
            result = json.loads(path.read_text())
            made = {"run": run, "data_sha256": result["run"]["data"]["sha256"], "jax": result["versions"]["jax"]}
            made |= {"device": result["versions"]["device"], "status": result["status"]}
            rows.append(result["row"] | made | {"wall_s": round(result["timing"]["wall_s"], 1)})
            rows += [row | made for row in result.get("slices", [])]
    return rows


def listing(directory: Path) -> dict[str, Any]:
    """Content of sweep.json, with the runs that later starts added."""
    return sweep_listing(epath.Path(directory), "name the directory of a sweep")


def about(directory: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The text of a sweep, its ladder, and what its rows were made with."""
    sweep = listing(directory)
    made = {name: sorted({row[name] for row in rows}) for name in ("jax", "device")}
    told = {"ladder": sweep["ladder"], "data": sweep["data"], "expected": len(sweep["runs"]), "rows": len(rows)}
    return told | made | {"run_minutes": round(sum(row.get("wall_s", 0) for row in rows) / 60, 1)}


def main() -> None:
    """Writes the table of a sweep's results."""
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
    if listing(arguments.sweep)["experiment"] == "reproduction":
        told = json.dumps(about(arguments.sweep, rows), indent=1)
        arguments.table.with_suffix(".json").write_text(told + "\n")
    print(f"{len(rows)} rows in {arguments.table}")


if __name__ == "__main__":
    main()
