"""capscale reproduce: figures, tables and claims of the paper, trained and judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from capscale.cli.memory_options import memory_of
from capscale.cli.training import SideBySide, train
from capscale.cli.waiting import each, waiting
from capscale.errors import UserError

if TYPE_CHECKING:
    from capscale.reproduction.chapters import Chapter, Found
    from capscale.sweep import plan
    from capscale.train import run

SUITE = "reproduction"
"""The experiment that is the runs of all chapters."""


@dataclass(kw_only=True)
class Reproduce(SideBySide):
    """Train what a figure or table of the paper asks for, and say of each claim: reproduced, not reproduced, undecided.

    Figures share one directory: a run that two of them ask for is trained once. Started again, it trains what is
    missing; Ctrl-C saves checkpoints. At the end: the verdicts, and a page with every claim, number and picture.

    Examples:
      capscale reproduce fig3
      capscale reproduce all --ladder nano --out runs/reproduction
      capscale reproduce all --from-rows
      capscale reproduce all --ladder paper --plan --topology v5e:4x4 --vocabulary 32000
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Figures and tables, such as fig3 or tab1, or all."""
    out: str | None = None
    """Directory of runs and page: runs/reproduction-LADDER if not given."""
    plan: bool = False
    """Train nothing: print runs, time and the power of every test."""
    from_rows: bool = False
    """Train nothing: judge the rows that come with capscale, or those that --out holds already."""
    topology: str | None = None
    """With --plan: the slice that chip-hours are for, such as v5e:4x4; the hardest run of each size is compiled for
    it."""
    mfu: float = 0.4
    """With --plan and --topology: share of the chips' peak that training is taken to reach."""
    vocabulary: int | None = None
    """With --plan: symbols of the text, where it is not at hand; --text is not read then."""

    def __call__(self) -> int:
        """Trains, judges, prints and writes the page."""
        from capscale.reproduction.chapters import chosen

        self._check()
        chapters = chosen(self.names)
        if self.plan:
            return self._plan(chapters)
        if self.from_rows:
            return self._judge_rows(chapters)
        status = train(self, SUITE, self._out, self.mode, lambda suite: self._wanted(chapters, suite))
        return status or self._judge_trained(chapters)

    @property
    def trains(self) -> bool:
        """Whether accelerators are needed."""
        return not (self.plan or self.from_rows)

    @property
    def _out(self) -> str:
        return self.out or f"runs/{SUITE}-{self.ladder}"

    def _check(self) -> None:
        from capscale.models.ladder import ladder

        self.check_launcher()
        ladder(self.ladder)  # the paper's claims are about ladders that come with capscale
        if not self.names:
            raise UserError("name a figure or table, such as fig3, or all: capscale reproduce all")
        if self.plan and self.from_rows:
            raise UserError("--plan is for runs to come and --from-rows for those that were: give one of them")
        if not self.plan and (self.topology or self.vocabulary):
            raise UserError("--topology and --vocabulary belong to --plan")
        if not 0 < self.mfu <= 1:
            raise UserError(f"--mfu {self.mfu} must lie in (0, 1]")

    def _wanted(self, chapters: "Sequence[Chapter]", suite: "plan.Sweep") -> "list[run.Run]":
        wanted = {run.run_id for chapter in chapters for run in chapter.runs(suite.ladder, suite.data)}
        return [run for run in suite.runs if run.run_id in wanted]

    def _judge_trained(self, chapters: "Sequence[Chapter]") -> int:
        from etils import epath

        from capscale.cli.selecting import read_text
        from capscale.train import distributed

        if not distributed.is_first():
            return 0
        return self._judge(chapters, epath.Path(self._out), read_text(self.text).id)

    def _judge_rows(self, chapters: "Sequence[Chapter]") -> int:
        from etils import epath

        from capscale.cli.selecting import read_text
        from capscale.models.ladder import ladder
        from capscale.reproduction.committed import rows_of

        if self.out is not None:
            return self._judge(chapters, epath.Path(self.out), read_text(self.text).id)
        table, data = rows_of(ladder(self.ladder))
        return self._judge(chapters, table, data)

    def _judge(self, chapters: "Sequence[Chapter]", rows: Any, data: Any) -> int:
        from etils import epath

        from capscale.cli.analysis import command_line
        from capscale.models.ladder import ladder
        from capscale.reproduction.chapters import judged
        from capscale.reproduction.page import write_page

        scale = ladder(self.ladder)
        listed = each(chapters, "figures and tables")
        found = [judged(chapter, chapter.runs(scale, data), rows, self.ladder) for chapter in listed]
        about = {
            "ladder": self.ladder,
            "command": command_line(),
            "rows": str(rows),
            "text": f"{data.name} {data.sha256[:16]}",
        }
        page = write_page(found, about | {"pictures": "."}, epath.Path(self._out) / "report")
        _print(found)
        print(page)
        return 0

    def _plan(self, chapters: "Sequence[Chapter]") -> int:
        from etils import epath

        from capscale.cli.preflight import data_id
        from capscale.models.ladder import ladder
        from capscale.reproduction.planning import planned

        scale, data = ladder(self.ladder), data_id(self.text, self.vocabulary)
        out = epath.Path(self._out)
        listed = planned(chapters, scale, data, out if out.exists() else None)
        _print_plan(listed, self.topology, self.mfu)
        new = [run for each in listed for run in each.new]
        return self._preflight(new) if self.topology and new else 0

    def _preflight(self, runs: "list[run.Run]") -> int:
        from capscale.cli.preflight import DOES_NOT_FIT
        from capscale.reproduction.planning import hardest
        from capscale.sweep.choosing import check
        from capscale.sweep.display import run_name
        from capscale.sweep.preflight import Setting
        from capscale.sweep.slices import find_slice

        setting = Setting(find_slice(str(self.topology)), self.fsdp, memory_of(self))
        print(f"compiled for {setting}, the hardest run of each size:")
        fits, choose = [], self.memory == "auto"
        for checked in check(hardest(runs), setting, quick=True, tell=lambda _: None, during=waiting, choose=choose):
            compiled = checked.compiled
            fits.append(compiled.fits)
            told = (
                f"fits with {checked.setting}" if compiled.fits else "DOES NOT FIT; capscale preflight names what does"
            )
            print(f"  {run_name(checked.runs[0])}: {compiled.bytes / 1e9:.2f} of {compiled.limit / 1e9:.2f} GB, {told}")
        return 0 if all(fits) else DOES_NOT_FIT


def _print(found: "Sequence[Found]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from capscale.reproduction.page import Line, counts

    table = Table(title="The paper's claims", title_justify="left")
    for name in ("element", "claim", "paper", "ours, 95 %", "power", "verdict"):
        table.add_column(name, overflow="fold")
    styles = {"reproduced": "green", "not reproduced": "red", "undecided at this scale": "dim"}
    for f in found:
        for judgement in f.judgements:
            line = Line.of(judgement, f.chapter.explained)
            cells = (f"{f.chapter.name} {line.name}", line.says, line.paper, line.ours, line.power)
            table.add_row(*map(escape, cells), f"[{styles[line.verdict]}]{line.verdict}[/]")
        table.add_section()
    Console().print(table)
    short = [f for f in found if f.finished < f.planned]
    for f in short:
        print(f"{f.chapter.name}: {f.finished} of {f.planned} runs have a row")
    print(", ".join(f"{count} {kind}" for kind, count in counts(found).items()))


def _print_plan(listed: Sequence[Any], topology: str | None, mfu: float) -> None:
    from capscale.cli.analysis_tables import grid
    from capscale.reproduction.planning import chip_hours, core_minutes
    from capscale.sweep.slices import find_slice

    slice_ = None if topology is None else find_slice(topology)

    def time(runs: Sequence[Any]) -> str:
        minutes = core_minutes(runs)
        if slice_ is not None:
            return f"{chip_hours(runs, slice_, mfu):,.1f} chip-hours"
        return "say --topology" if minutes is None else f"{minutes:.0f} core-minutes"

    every = [run for each in listed for run in each.new]
    rows = [(each.chapter.name, str(len(each.runs)), str(len(each.new)), time(each.new)) for each in listed]
    flops = sum(run.flops for run in every)
    grid("Runs; a new one is counted where it is asked for first", ("element", "runs", "new", "time, estimated"), rows)
    print(
        f"{len(every)} runs to train, {flops:.2g} FLOP, {time(every)}"
        + (f" at {mfu:.0%} of the peak" if slice_ else "")
    )
    tests = [(each, claim, power) for each in listed for claim, power in each.powers]
    lines = [
        (each.chapter.name, claim.name, f"{claim.paper:.3g}", f"{claim.deviation:.2g}", _power(claim, power))
        for each, claim, power in tests
    ]
    grid("Power of every test for the paper's effect", ("element", "claim", "paper", "deviation", "power"), lines)


def _power(claim: Any, power: float) -> str:
    if claim.beyond:
        return "paper's scale only"
    return "no chance in it" if claim.deviation == 0 else "–" if math.isnan(power) else f"{power:.2f}"
