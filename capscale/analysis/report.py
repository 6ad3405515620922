"""The report of a study: one self-contained HTML page, its figures as PNG, and every number as CSV and JSON."""

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from etils import epath
from matplotlib.figure import Figure

from capscale.analysis.bench_numbers import table_numbers
from capscale.analysis.leaderboard import TableBench
from capscale.analysis.names import as_cell
from capscale.analysis.numbers import CAPACITY_COLUMNS, json_ready, numbers
from capscale.analysis.pictures import pictures
from capscale.analysis.study import Study
from capscale.files import writing
from capscale.realised import ERROR_FACTOR, PASS_SHARE
from capscale.storage import make_directory

DPI = 160


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def environment(package: str = "capscale.analysis", *, escape: bool = True) -> jinja2.Environment:
    """Templates of a package, and those of the analysis, with numbers shortened for reading.

    `escape`: what is filled in is escaped for HTML.
    """
    loaders = [jinja2.PackageLoader(name, "templates") for name in dict.fromkeys((package, "capscale.analysis"))]
    env = jinja2.Environment(loader=jinja2.ChoiceLoader(loaders), autoescape=escape, undefined=jinja2.StrictUndefined)
    env.filters["g"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.4g}"
    env.filters["g3"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.3g}"
    env.filters["f3"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.3f}"
    env.filters["percent"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.0%}"
    env.filters["base64"] = lambda b: base64.b64encode(b).decode()
    return env


def content_of(study: Study, command: str, bench: TableBench | None = None) -> dict[str, Any]:
    """Every number of the report, those of the law bench under `bench`, which is empty without one."""
    return numbers(study, command) | {"bench": table_numbers(bench) if bench else {}}


def write_report(study: Study, directory: epath.PathLike, command: str, bench: TableBench | None = None) -> epath.Path:
    """Write report.html, the figures, capacities.csv, rows.csv and report.json; returns the page's path."""
    content = content_of(study, command, bench)
    images = [(p, png(p.figure)) for p in pictures(study, bench)]
    page = (
        environment()
        .get_template("report.html")
        .render(
            study=study,
            numbers=content,
            images=images,
            laws=study.inspections,
            provenance=content["provenance"],
            factor=ERROR_FACTOR,
            share=PASS_SHARE,
        )
    )
    files: dict[str, bytes] = {
        "report.html": page.encode(),
        "report.json": (json.dumps(json_ready(content), indent=1) + "\n").encode(),
        "capacities.csv": csv_bytes(content["capacities"], CAPACITY_COLUMNS),
        "rows.csv": csv_bytes(content["rows"]),
        **{f"{p.name}.png": image for p, image in images},
    }
    write_files(directory, files)
    return epath.Path(directory) / "report.html"


def write_files(directory: epath.PathLike, files: Mapping[str, bytes]) -> None:
    """Write files into a directory, made if need be; UserError where that cannot be done."""
    directory = epath.Path(directory)
    with writing(directory):
        make_directory(directory)
        for name, content in files.items():
            (directory / name).write_bytes(content)


def csv_bytes(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    """Rows as CSV, with a header of `columns`, by default those of the first row; see `as_cell`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(columns or rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: as_cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()
