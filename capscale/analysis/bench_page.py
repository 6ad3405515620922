"""The bench as files: a page that needs no other, its pictures, and every number as JSON and CSV."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from capscale.analysis.bench_figure import bench_plot
from capscale.analysis.images import image_files
from capscale.analysis.inline_svg import inline_svg
from capscale.analysis.leaderboard import TableBench
from capscale.analysis.pictures import bench_picture
from capscale.analysis.report import as_json, csv_bytes, environment, write_files


def csv_lines(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each table and law."""
    return [{"table": t["table"], **line} for t in numbers["tables"] for line in t["laws"]]


def write_bench(
    benches: Sequence[TableBench], numbers: dict[str, Any], directory: epath.PathLike, command: str
) -> epath.Path:
    """Write index.html, bench.json, bench.csv, bench.png and bench.svg; returns the page's path.

    `numbers` are `bench_numbers` of the benches. Raises UserError where the directory cannot be written.
    """
    drawn = [bench_picture(b, f"bench{i}") for i, b in enumerate(benches)]
    inline = [inline_svg(p.figure, p.name, p.alt) for p in drawn]
    equations = {line["law"]: line["equation"] for t in numbers["tables"] for line in t["laws"]}
    data = {"bench.json": as_json(numbers), "bench.csv": csv_bytes(csv_lines(numbers))}
    page = (
        environment()
        .get_template("bench.html")
        .render(
            numbers=numbers,
            tables_and_pictures=list(zip(numbers["tables"], drawn, inline, strict=True)),
            equations=equations,
            command=command,
            data=data,
        )
    )
    write_files(
        directory,
        {
            "index.html": page.encode(),
            **data,
            **image_files("bench", drawn[0].figure if len(benches) == 1 else bench_plot(benches)),
        },
    )
    return epath.Path(directory) / "index.html"
