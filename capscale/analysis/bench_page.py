"""The bench as files: a page that needs no other, its picture, and every number as JSON and CSV."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from capscale.analysis.bench_figure import CAPTION, bench_plot
from capscale.analysis.leaderboard import TableBench
from capscale.analysis.numbers import json_ready
from capscale.analysis.report import csv_bytes, environment, png, write_files


def csv_lines(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each table and law."""
    return [{"table": t["table"], **line} for t in numbers["tables"] for line in t["laws"]]


def write_bench(
    benches: Sequence[TableBench], numbers: dict[str, Any], directory: epath.PathLike, command: str
) -> epath.Path:
    """Write index.html, bench.json, bench.csv and bench.png; returns the page's path.

    `numbers` are `bench_numbers` of the benches. Raises UserError where the directory cannot be written.
    """
    figures = [bench_plot([b]) for b in benches]
    images = [(t, png(f), int(f.get_figwidth() * 110)) for t, f in zip(numbers["tables"], figures, strict=True)]
    equations = {line["law"]: line["equation"] for t in numbers["tables"] for line in t["laws"]}
    page = (
        environment()
        .get_template("bench.html")
        .render(numbers=numbers, tables_and_images=images, caption=CAPTION, equations=equations, command=command)
    )
    write_files(
        directory,
        {
            "index.html": page.encode(),
            "bench.json": (json.dumps(json_ready(numbers), indent=1) + "\n").encode(),
            "bench.csv": csv_bytes(csv_lines(numbers)),
            "bench.png": images[0][1] if len(benches) == 1 else png(bench_plot(benches)),
        },
    )
    return epath.Path(directory) / "index.html"
