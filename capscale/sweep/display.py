"""Progress of a sweep while it trains: bars on a terminal, one line a result elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from capscale.cache_names import cache_name
from capscale.clock import clock
from capscale.gradient_names import gradients_name
from capscale.policy_names import policy_name
from capscale.recipes import recipe_name
from capscale.representation import Representation
from capscale.train import loop
from capscale.train.run import Run

LINE_S = 60.0
"""Seconds between two lines about one run where the screen is no terminal."""


def run_name(run: Run) -> str:
    """`nano-16 int4 seed 0`, with what else differs from most runs.

    Formats of activations, gradients and cache, estimators that are not the default, and gradients that are rounded
    between devices.

    Of a policy its rules, of a recipe its name.
    """
    chosen = run.representation
    end = f"{'' if run.optimizer.reduce == 'float32' else f', reduce {run.optimizer.reduce},'} seed {run.seed}"
    if not isinstance(chosen, Representation):
        return f"{run.size} {policy_name(chosen)}{end}"
    if (recipe := recipe_name(chosen)) is not None:
        return f"{run.size} {recipe}{end}"
    sides = [operand.name(chosen.hadamard is not None) for operand in (chosen.weights, chosen.activations)]
    sides[0] = sides[0] if chosen.parametrization is None else chosen.weights_label
    gradients = "" if chosen.gradients.is_dense else f", gradients {gradients_name(chosen.gradients)},"
    cache = f", cache {cache_name(chosen)}," if chosen.caches_compressed else ""
    return f"{run.size} {' x '.join(sides[:1] if sides[1] == 'dense' else sides)}{gradients}{cache}{end}"


class Display:
    """Progress of a sweep on `console`; a context manager. Its methods may be called from any thread."""

    def __init__(self, console: Console):
        self._console = console
        self._done = 0
        self._total = 0
        self._waiting_for = ""
        self._said: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description}", justify="left", markup=False),  # an estimator stands in brackets
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def begin(self, total: int, present: int, stopped: int = 0) -> None:
        """`present` of `total` runs have results already, and `stopped` others were stopped early."""
        self._total, self._done = total, present + stopped
        note = f"{self._done}/{total} runs"
        self._sweep = self._bars.add_task("sweep", total=total, completed=self._done, note=note)
        if present:
            self._console.print(f"{present} of {total} results are present", highlight=False)
        if stopped:
            self._console.print(f"{stopped} of {total} runs were stopped early", highlight=False)

    @contextmanager
    def running(self, runs: list[Run]) -> Iterator[Callable[[loop.Progress], None]]:
        """A bar for runs trained side by side, and a line where one is stopped early; yields the loop's observer."""
        name = run_name(runs[0]) + (f" (+{len(runs) - 1})" if len(runs) > 1 else "")
        bar = self._bars.add_task(name, total=runs[0].steps, note="compiling")

        def observe(progress: loop.Progress) -> None:
            note = f"loss {progress.loss:.3f}  {progress.tokens_per_s / 1e3:,.0f}k tok/s"
            note += "" if progress.mfu is None else f"  MFU {progress.mfu:.0%}"
            note += f"  {timedelta(seconds=round(progress.left_s))} left"
            self._bars.update(bar, completed=progress.step, note=note)
            self._line(name, progress, note)

        try:
            yield observe
        except loop.StoppedEarly as why:
            self._ended(runs[0], str(why))
            raise
        finally:
            self._bars.remove_task(bar)

    def _line(self, name: str, progress: loop.Progress, note: str) -> None:
        """Where there are no bars: a line for every run that takes long, every so often."""
        now = clock().monotonic()
        if self._console.is_terminal or now - self._said.setdefault(name, now) < LINE_S:
            return
        self._said[name] = now
        self._console.print(
            f"{name}: step {progress.step}/{progress.steps}  {note}", markup=False, highlight=False, soft_wrap=True
        )

    def waiting(self, runs: int) -> None:
        """`runs` that are missing are held by other workers; said once for every number."""
        self.say(f"waiting for {runs} runs that other workers hold")

    def say(self, waiting: str) -> None:
        """One line on what is waited for, said once as long as it stays the same."""
        if waiting != self._waiting_for:
            self._console.print(waiting, markup=False, highlight=False, soft_wrap=True)
        self._waiting_for = waiting

    def finished(self, run: Run, result: dict[str, Any]) -> None:
        """One line for a result."""
        row = result["row"]
        loss = f"diverged at step {row['diverged_at_step']}" if row["loss"] is None else f"loss {row['loss']:.4f}"
        self._ended(run, f"{loss}  ({result['timing']['wall_s']:.1f} s)")

    def stopped(self, run: Run, why: str) -> None:
        """One line for a run that was stopped early."""
        self._ended(run, why)

    def _ended(self, run: Run, how: str) -> None:
        self._done += 1
        self._bars.update(self._sweep, completed=self._done, note=f"{self._done}/{self._total} runs")
        said = f"[{self._done}/{self._total}] {run_name(run)}: {how}"
        self._console.print(said, markup=False, highlight=False, soft_wrap=True)
