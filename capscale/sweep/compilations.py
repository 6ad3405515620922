"""Threads that train runs of one program side by side: one of them compiles it, the others wait for that."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Lock
from typing import TypeVar

Item = TypeVar("Item")
LOOK_S = 0.2
"""Seconds between looks at whether to stop, while a thread waits."""


class Compilations:
    """Which programs are compiled, and which are being so.

    JAX compiles a program once for every thread that calls it before the first is done: two seeds of one run, started
    together, would both pay for it.
    """

    def __init__(self) -> None:
        self._lock, self._compiled = Lock(), dict[Hashable, Event]()

    @contextmanager
    def once(self, program: Hashable, stop: Event) -> Iterator[Callable[[], None]]:
        """Waits while another thread compiles `program`; yields what is to be called once it has run.

        A thread that fails before that lets the others go, and with `stop` set none waits.
        """
        with self._lock:
            mine = program not in self._compiled
            compiled = self._compiled.setdefault(program, Event())
        while not mine and not compiled.wait(LOOK_S) and not stop.is_set():
            pass
        try:
            yield compiled.set
        finally:
            if mine:
                compiled.set()


def programs_first(items: Sequence[Item], program: Callable[[Item], Hashable]) -> list[Item]:
    """`items` in their order, those whose program has come before after all others: few wait for a compilation."""
    seen: set[Hashable] = set()
    first, later = [], []
    for item in items:
        (later if program(item) in seen else first).append(item)
        seen.add(program(item))
    return first + later
