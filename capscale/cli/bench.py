"""The command that compares all laws on one table."""

import json
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from capscale.cli.fitting import FormName, parse_numbers, parse_shared
from capscale.cli.reading import Reading


@dataclass(frozen=True)
class Bench:
    """The law bench: every law on one table, on runs that it has and has not seen.

    Example:
      capscale bench runs.csv --out bench
    """

    table: tyro.conf.Positional[str]
    """Sweep directory or table of runs."""
    delta: float = 1e-3
    """Huber threshold, in nats."""
    laws: tuple[FormName, ...] = ()
    """Laws to compare. None: all but the dense one."""
    fix: tuple[str, ...] = ()
    """Numbers held fixed in every law, NAME=VALUE."""
    shared: Annotated[str, tyro.conf.arg(metavar="auto|none|LEVELS")] = "auto"
    """Errors that runs share: those that the table has, none, or of size, cell (N and D) and run, such as size,cell."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory for bench.png, bench.json and bench.csv."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Fits every law, holds runs out and prints."""
        from capscale.analysis.fit import Settings
        from capscale.analysis.inspection import inspect
        from capscale.analysis.numbers import comparison_numbers, json_ready, outlying_numbers
        from capscale.analysis.report import csv_bytes, png, write_files
        from capscale.analysis.sentences import fits, outlying
        from capscale.analysis.sentences.notes import BENCH as BENCH_NOTES
        from capscale.analysis.sentences.rule import texts
        from capscale.analysis.validation import BENCH, law_bench
        from capscale.cli.analysis_tables import grid, number, sentences

        table = self.reading.table(self.table)
        bench = law_bench(
            table,
            self.laws or BENCH,
            Settings(self.delta, shared=parse_shared(self.shared)),
            parse_numbers(self.fix, ()),
        )
        lines = [{"law": v.law.name, "equation": v.law.equation, "rows": v.rows, **v.line} for v in bench]
        given = [(v.law.name, inspect(v.fit, profiled=False)) for v in bench if v.fit is not None]
        folds = {
            v.law.name: {f.name: f.rmse for f in (*v.sizes, *v.formats, *([v.largest] if v.largest else []))}
            for v in bench
        }
        text = json.dumps(
            json_ready(
                {
                    "laws": lines,
                    "folds": folds,
                    "left_out": {v.law.name: v.why for v in bench if v.why},
                    "against_free_fit": {name: comparison_numbers(i.comparison) for name, i in given},
                    "outlying": {name: outlying_numbers(i.outlying) for name, i in given},
                    "notes": texts(BENCH_NOTES, bench),
                }
            ),
            indent=1,
        )
        if self.out is not None:
            from capscale.analysis.figures import bench_plot

            files = {"bench.json": text.encode(), "bench.csv": csv_bytes(lines), "bench.png": png(bench_plot(bench))}
            write_files(self.out, files)
        if self.json:
            print(text)
            return 0
        shown = [
            (
                v.law.name,
                str(v.rows) if v.fit else "–",
                number(v.line["numbers"], ".0f"),
                *(number(x, ".4f") for x in [*v.line.values()][1:]),
            )
            for v in bench
        ]
        columns = ("law", "runs", "numbers", "fit", "size held out", "format held out", "largest held out")
        grid("RMSE of the loss in nats", columns, shown)
        sentences("To be known", texts(BENCH_NOTES, bench))
        sentences("Rows", [f"{r.row}: {r.what}" for r in table.remarks])
        sentences("Outlying runs", texts(outlying.BENCH, [i for _, i in given]))
        sentences("Given numbers", [f"{name}: {text}" for name, i in given for text in texts(fits.GIVEN, i)])
        sentences("Left out", [f"{v.law.name}: {v.why}" for v in bench if v.why])
        return 0
