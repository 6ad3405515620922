"""A sweep that is looked at while it runs: on the terminal, and as a page that is made anew."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from capscale.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Group

    from capscale.sweep.history import RunHistory

SHOWN = 30
"""Runs that the terminal shows; a page has all of them."""
LEAST_S = 1.0
"""Seconds between two looks, at least: each reads every run."""


@dataclass(frozen=True)
class View:
    """A sweep to look at, and how.

    Attributes:
      directory: of the sweep.
      every_s: seconds between looks; None to look once.
      html: file for the page; None for the terminal alone.
      price: of a device-hour, in dollars.
    """

    directory: str
    every_s: float | None = None
    html: str | None = None
    price: float | None = None

    def __post_init__(self):
        if self.every_s is not None and not LEAST_S <= self.every_s < math.inf:
            raise UserError(f"--watch {self.every_s} must be {LEAST_S:g} second or more, and finite")
        if self.price is not None and not 0 <= self.price < math.inf:
            raise UserError(f"--price {self.price} must be 0 dollars or more, and finite")


def look(view: View) -> int:
    """Shows the sweep, again and again if asked to, until every run is over or Ctrl-C."""
    from etils import epath

    from capscale.storage import is_passing, reason
    from capscale.sweep.history import read_history
    from capscale.sweep.status import OVER

    out, is_first = epath.Path(view.directory), True
    try:
        with _screen(view) as show:
            while True:
                try:
                    histories = read_history(out)
                except Exception as error:
                    if is_first or not is_passing(error):
                        raise
                    show(None, f"{view.directory} does not answer ({reason(error)}); looking again")
                else:
                    is_first = False
                    _write(view, histories)
                    show(histories, "")
                    if all(each.status.state in OVER for each in histories):
                        return 0
                if view.every_s is None:
                    return 0
                time.sleep(view.every_s)
    except KeyboardInterrupt:
        if is_first:
            raise
        return 0


def _write(view: View, histories: "list[RunHistory]") -> None:
    from etils import epath

    from capscale.files import write_text
    from capscale.monitor.page import page

    if view.html is not None:
        made_at = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        content = page(histories, view.directory, made_at, price=view.price, every_s=view.every_s)
        write_text(epath.Path(view.html), content, durable=False)


@contextmanager
def _screen(view: View) -> "Iterator[Callable[[list[RunHistory] | None, str], None]]":
    """Yields what shows the runs, or why there is nothing new to show: in place on a terminal, below elsewhere."""
    from rich.console import Console
    from rich.live import Live

    console, shown = Console(), []
    if view.every_s is None or not sys.stdout.isatty():

        def add(histories: "list[RunHistory] | None", words: str) -> None:
            if histories is None:
                console.print(words, highlight=False, markup=False, soft_wrap=True)
            else:
                console.print(_table(view, histories))

        yield add
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

        def renew(histories: "list[RunHistory] | None", words: str) -> None:
            from rich.console import Group

            if histories is not None:
                shown[:] = [_table(view, histories)]
            live.update(Group(*shown, *([words] if words else [])), refresh=True)

        yield renew


def _table(view: View, histories: "list[RunHistory]") -> "Group":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from capscale.files import printable
    from capscale.monitor.page import ORDER, facts
    from capscale.sweep.status import counts, device_hours

    statuses = [each.status for each in histories]
    found = ", ".join(f"{number} {state}" for state, number in counts(statuses).items() if number)
    lines: list[Any] = [Text(f"{time.strftime('%H:%M:%S')}  {found}")]
    lines += [Text(f"{name}: {said}") for name, said in facts(histories, device_hours(statuses), view.price)]
    table = Table(box=None, pad_edge=False)
    for name in ("run", "state", "step", "loss", "tokens/s", "starts", "latest start, or what is wrong"):
        table.add_column(name, justify="left" if name in ("run", "state") or name.startswith("latest") else "right")
    wanted = [each for each in histories if each.status.state not in ("done", "to do") or each.spikes]
    wanted.sort(key=lambda each: ORDER.index(each.status.state))
    for each in wanted[:SHOWN]:
        step, loss = each.curve[-1] if each.curve else (0, None)
        jump = f"loss jumps at step {each.spikes[-1]}; " if each.spikes else ""
        wrong = each.status.detail if each.status.state in ("failed", "damaged") else each.said
        cells = [
            each.name or each.status.run_id,
            each.status.state,
            f"{step}/{each.steps or '?'}",
            "–" if loss is None else f"{loss:.3f}",
            f"{each.tokens_per_s:,.0f}" if each.tokens_per_s and each.status.state == "running" else "–",
            str(each.starts),
            f"{jump}{wrong}",
        ]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    more = [Text(f"and {len(wanted) - SHOWN} more")] if len(wanted) > SHOWN else []
    return Group(*lines, *([table] if wanted else []), *more)
