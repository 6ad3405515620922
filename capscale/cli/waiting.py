"""Words of a command while it works: a line or a bar on a terminal's stderr, nothing in pipes and files."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import TypeVar

T = TypeVar("T")

DELAY_S = 0.5
"""Work that is done by then is not spoken of."""


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows `text` while its body runs, where stderr is a terminal; gone when it is done, and stdout is never touched.

    The body prints nothing.
    """
    if not _is_terminal():
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    # Live would send what is printed meanwhile to its own console, which is stderr.
    spinner, console = Spinner("dots", Text(f"{text} ...")), Console(stderr=True)
    shown = Live(spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    late = Timer(DELAY_S, shown.start, kwargs={"refresh": True})
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
        late.join()  # it may be starting the line just now
        shown.stop()


def each(items: Sequence[T], text: str) -> Iterator[T]:
    """The items, under a bar that counts them where stderr is a terminal."""
    if not _is_terminal() or len(items) < 2:
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
        yield from bars.track(items, description=text)


def _is_terminal() -> bool:
    return sys.stderr.isatty()
