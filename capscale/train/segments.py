"""A text that grows line by line: a file that is appended to, or numbered segments where storage cannot append."""

import itertools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from etils import epath

from capscale.clock import clock
from capscale.files import is_there, write_text, writing
from capscale.storage import appends, children

INTERVAL_S = 30.0
"""Seconds between segments, each of which is an object of its own: one object takes about a write a second."""
GROUP = 64
"""Segments that are folded into the first of them: 100 hours leave 12,000, and to read one takes a request."""
_READERS = 16
"""Threads that read segments: a request takes some 50 ms, most of it waiting."""


class Lines:
    """Lines that were written so far, and where the next ones go.

    Where storage appends, a line is in the file when `append` returns. Elsewhere lines are kept for `interval_s`
    seconds at most and written by a thread, as `metrics-00001.jsonl` and so on; `flush` writes them now, and `finish`
    makes one file of all. What a crash loses are the lines since the last of these.

    Args:
      path: the file.
      kept: text of each segment by its number, 0 for the file itself: what `read` found, or less of it.
      permitted: called before a write from the thread; raises where nothing may be written any more.
      interval_s: seconds that lines may wait.
    """

    def __init__(
        self, path: epath.Path, kept: dict[int, str], permitted: Callable[[], None], interval_s: float = INTERVAL_S
    ):
        self._path, self._permitted, self._interval_s = path, permitted, interval_s
        self._appends = appends(path)
        self._texts = dict(kept)
        self._last = -(-max(kept, default=0) // GROUP) * GROUP  # a new group: the one before may be folded
        self._waiting: list[str] = []
        self._adding, self._writing, self._ended = clock().lock(), clock().lock(), clock().event()
        if self._appends:
            self._join()
            self._texts.clear()
        else:
            self._thread = clock().start(self._keep, "segments")

    def append(self, line: str) -> None:
        """Adds a line, with its end."""
        if self._appends:
            with writing(self._path), self._path.open("a") as file:
                file.write(line)
        else:
            with self._adding:
                self._waiting.append(line)

    def flush(self) -> None:
        """Until every line is stored; `UserError` where storage refuses, whatever it refused in the thread before."""
        with self._writing:
            with self._adding:
                count = len(self._waiting)
            if count:
                text = "".join(self._waiting[:count])
                write_text(segment(self._path, self._last + 1), text)
                self._last += 1
                self._texts[self._last] = text
                with self._adding:
                    del self._waiting[:count]
                self._fold()

    def finish(self) -> None:
        """Stores all lines in one file, and ends."""
        self.flush()
        self.end()
        if not self._appends:
            self._join()

    def end(self) -> None:
        """Ends the thread; lines that wait are given up."""
        self._ended.set()
        if not self._appends:
            self._thread.join()

    def _keep(self) -> None:
        while not self._ended.wait(self._interval_s):
            # What storage refuses now is tried again with the lines that follow, and raised by the next `flush`.
            with suppress(Exception):
                self._permitted()
                self.flush()

    def _fold(self) -> None:
        """Makes one segment of each group that is full. The first grows before the others go: `read` knows repeats."""
        for group, members in itertools.groupby(sorted(set(self._texts) - {0}), lambda number: (number - 1) // GROUP):
            first, *others = members
            if others and group < self._last // GROUP:
                text = "".join(self._texts[number] for number in (first, *others))
                write_text(segment(self._path, first), text)
                for number in others:
                    segment(self._path, number).unlink(missing_ok=True)
                    del self._texts[number]
                self._texts[first] = text

    def _join(self) -> None:
        """Makes one file of all segments."""
        self._texts = {0: "".join(self._texts[number] for number in sorted(self._texts))}
        write_text(self._path, self._texts[0])
        with writing(self._path):
            for number in sorted(numbers(self._path) - {0}):
                segment(self._path, number).unlink(missing_ok=True)


def segment(path: epath.Path, number: int) -> epath.Path:
    """`metrics-00012.jsonl` of `metrics.jsonl`; the file itself for 0."""
    return path if number == 0 else path.parent / f"{path.stem}-{number:05d}{path.suffix}"


def numbers(path: epath.Path) -> set[int]:
    """Numbers of the segments that there are, 0 standing for the file itself."""
    if not is_there(path.parent):
        return set()
    name = re.compile(rf"{re.escape(path.stem)}-(\d{{5,}}){re.escape(path.suffix)}")
    found = {child.name for child in children(path.parent)}
    return {int(match[1]) for match in map(name.fullmatch, found) if match} | ({0} if path.name in found else set())


def read(path: epath.Path) -> dict[int, list[bytes]]:
    """Lines of each segment, with their ends, by its number and in their order."""
    found = sorted(numbers(path))
    if len(found) < 2:
        return {number: _lines(segment(path, number)) for number in found}
    with ThreadPoolExecutor(_READERS) as readers:
        return dict(zip(found, readers.map(lambda number: _lines(segment(path, number)), found), strict=True))


def _lines(path: epath.Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:  # a listing that is late still has what was folded into another segment
        return []
