"""The report of a study: report.html, one page with its data and figures inside that asks nothing of a network.

Beside it lie the same figures as PNG and SVG, and the same numbers as JSON and CSV, for programs and papers.
"""

import base64
import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from capscale.analysis.bench_numbers import table_numbers
from capscale.analysis.images import image_files
from capscale.analysis.inline_svg import inline_svg
from capscale.analysis.leaderboard import TableBench
from capscale.analysis.names import as_cell
from capscale.analysis.numbers import CAPACITY_COLUMNS, json_ready, numbers
from capscale.analysis.pictures import pictures
from capscale.analysis.study import Study
from capscale.files import writing
from capscale.realised import ERROR_FACTOR, PASS_SHARE
from capscale.storage import make_directory


def environment(package: str = "capscale.analysis", *, escape: bool = True) -> jinja2.Environment:
    """Templates of a package, and those of the analysis, with numbers shortened for reading.

    `escape`: what is filled in is escaped for HTML.
    """
    loaders = [jinja2.PackageLoader(name, "templates") for name in dict.fromkeys((package, "capscale.analysis"))]
    env = jinja2.Environment(loader=jinja2.ChoiceLoader(loaders), autoescape=escape, undefined=jinja2.StrictUndefined)
    env.filters["g"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.4g}"
    env.filters["g3"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.3g}"
    env.filters["f3"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.3f}"
    env.filters["signed"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:+z.3g}"
    env.filters["percent"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.0%}"
    env.filters["base64"] = lambda b: base64.b64encode(b).decode()
    env.globals["script"], env.globals["script_digest"] = page_script()
    return env


def page_script() -> tuple[Markup, str]:
    """The script of every page, which sorts tables and shows what marks say, and its digest.

    A page's policy lets run what has this digest and nothing else, whatever names in a table hold.
    """
    text = (files("capscale.analysis") / "templates" / "page.js").read_text(encoding="utf-8")
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def as_json(content: Any) -> bytes:
    """Numbers of a page as the JSON file that it offers."""
    return (json.dumps(json_ready(content), indent=1) + "\n").encode()


def content_of(study: Study, command: str, bench: TableBench | None = None) -> dict[str, Any]:
    """Every number of the report, those of the law bench under `bench`, which is empty without one."""
    return numbers(study, command) | {"bench": table_numbers(bench) if bench else {}}


def write_report(study: Study, directory: epath.PathLike, command: str, bench: TableBench | None = None) -> epath.Path:
    """Write report.html, the figures as PNG and SVG, capacities.csv, rows.csv and report.json; returns the page's path.

    The page holds all of that itself: it can be mailed alone.
    """
    content = content_of(study, command, bench)
    drawn = pictures(study, bench)
    data = {
        "capacities.csv": csv_bytes(content["capacities"], CAPACITY_COLUMNS),
        "rows.csv": csv_bytes(content["rows"]),
        "report.json": as_json(content),
    }
    page = (
        environment()
        .get_template("report.html")
        .render(
            study=study,
            numbers=content,
            pictures=[(p, inline_svg(p.figure, p.name, p.alt)) for p in drawn],
            laws=study.inspections,
            provenance=content["provenance"],
            factor=ERROR_FACTOR,
            share=PASS_SHARE,
            data=data,
        )
    )
    images = {name: image for p in drawn for name, image in image_files(p.name, p.figure).items()}
    write_files(directory, {"report.html": page.encode(), **data, **images})
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
