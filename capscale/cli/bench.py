"""The command that compares all laws, on one table or several."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from capscale.cli.fitting import FormName, parse_numbers, parse_shared
from capscale.cli.reading import Reading
from capscale.errors import UserError

if TYPE_CHECKING:
    from capscale.analysis.leaderboard import TableBench
    from capscale.analysis.table import Table


@dataclass(frozen=True)
class Bench:
    """The law bench: all laws on one table or several, ranked by what they predict of larger models and longer
    trainings that they were not fitted to.

    Example:
      capscale bench runs.csv others.csv --out bench
    """

    tables: tyro.conf.Positional[tuple[str, ...]]
    """Sweep directories or tables of runs, which need not have formats in common."""
    delta: float = 1e-3
    """Huber threshold, in nats."""
    laws: tuple[FormName, ...] = ()
    """Laws to compare. None: all that ship and that the table can carry."""
    cuts_N: Annotated[tuple[float, ...], tyro.conf.arg(metavar="PARAMETERS")] = ()
    """Fit up to these sizes and predict larger models. None: the cuts that the table allows."""
    cuts_D: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COUNT|D/N=RATIO")] = ()
    """Leave out this many of the longest trainings of each size (1), or those beyond a ratio (D/N=100), and predict
    them. None: the cuts that the table allows."""
    fix: tuple[str, ...] = ()
    """Numbers held fixed in every law, NAME=VALUE."""
    shared: Annotated[str, tyro.conf.arg(metavar="auto|none|LEVELS")] = "auto"
    """Errors that runs share: those that the table has, none, or of size, cell (N and D) and run, such as size,cell."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory for the page, index.html, and bench.json, bench.csv, bench.png and bench.svg."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Fits every law, holds runs out and prints."""
        from capscale.analysis.bench_numbers import bench_numbers
        from capscale.analysis.numbers import json_ready
        from capscale.cli.analysis import command_line

        benches = self._benches()
        numbers = bench_numbers(benches)
        page = None
        if self.out is not None:
            from capscale.analysis.bench_page import write_bench

            page = write_bench(benches, numbers, self.out, command_line())
        if self.json:
            print(json.dumps(json_ready(numbers), indent=1))
            return 0
        _print(numbers)
        if page is not None:
            print(page)
        return 0

    def _benches(self) -> "list[TableBench]":
        """All tables, read before the first is fitted; UserError where none carries any of the laws."""
        from capscale.analysis.bench_numbers import by_reason
        from capscale.analysis.cut_offs import parse_cut_offs, refuse_impossible
        from capscale.analysis.ensemble import MOST_CUTS
        from capscale.analysis.fit import Settings
        from capscale.analysis.laws import law_named
        from capscale.analysis.leaderboard import law_bench
        from capscale.cli.waiting import waiting

        laws = [law_named(name) for name in self.laws]
        settings = Settings(self.delta, shared=parse_shared(self.shared))
        constraints, cut_offs = parse_numbers(self.fix, ()), parse_cut_offs(self.cuts_N, self.cuts_D, MOST_CUTS)
        tables = self._tables()
        refuse_impossible(cut_offs, tables)
        with waiting(f"fitting {len(laws)} laws to {sum(map(len, tables))} rows"):
            benches = [law_bench(table, laws, settings, constraints, cut_offs) for table in tables]
        if not any(v.fit is not None for b in benches for v in b.lines):
            why = "; ".join(reason for b in benches for reason in by_reason(b.left_out))
            raise UserError(f"{', '.join(self.tables)}: no law can be fitted: {why}")
        return benches

    def _tables(self) -> "list[Table]":
        if not self.tables:
            raise UserError("no table to compare laws on; give one or several: capscale bench runs.csv others.csv")
        twice = [name for i, name in enumerate(self.tables) if name in self.tables[:i]]
        if twice:
            raise UserError(f"{twice[0]}: given twice; give every table once")
        return [self.reading.table(path) for path in self.tables]


def _print(numbers: dict[str, Any]) -> None:
    from capscale.cli.analysis_tables import grid, sentences

    tables = numbers["tables"]
    if len(tables) > 1:
        columns = ("law", "mean rank", *(f"{t['table']}, {axis}" for t in tables for axis in ("N", "D")))
        grid("Leaderboard", columns, [_standing(s, tables) for s in numbers["leaderboard"]])
        sentences("To be known", numbers["notes"])
    for t in tables:
        columns = ("law", "numbers", "fit", "larger N", "longer D", "new format", "inside", "width")
        grid(f"{t['table']}: RMSE of the loss of {t['runs']} runs in nats", columns, [_line(v) for v in t["laws"]])
        one = numbers["notes"] if len(tables) == 1 else []
        sentences("To be known", [*one, *t["notes"]])
        sentences("What the table asks of the additive law", (t["further"] or {}).get("words", []))
        sentences("Rows", [f"{r['row']}: {r['what']}" for r in t["remarks"]])
        sentences("Outlying runs", t["outlying_runs"])
        sentences("Given numbers", t["given"])
        sentences("Left out", t["left_out_by_reason"])


def _standing(s: dict[str, Any], tables: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    from capscale.cli.analysis_tables import number

    found = [s["law"], number(s["mean_rank"], ".3g")]
    for t in tables:
        mark = " *" if t["table"] in s["not_fitted_on"] else ""
        ranks = s["ranks"][t["table"]]
        found += [number(ranks.get(axis, float("nan")), ".3g") + mark for axis in ("N", "D")]
    return tuple(found)


def _line(v: dict[str, Any]) -> tuple[str, ...]:
    from capscale.cli.analysis_tables import number

    errors = (number(v[name], ".4f") for name in ("rmse", "rmse_N", "rmse_D", "rmse_format"))
    return (v["law"], str(v["numbers"]), *errors, number(v["inside"], ".0%"), number(v["width"], ".3f"))
