"""The clock of a process and the threads that wait by it: those of the machine, unless a simulation puts in its own."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Waitable(Protocol):
    """A flag that threads wait for, as `threading.Event` is."""

    def set(self) -> None:
        """Raises the flag, for all who wait."""
        ...

    def is_set(self) -> bool:
        """Whether it was raised."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is raised, or for so many seconds; whether it is."""
        ...


class Joinable(Protocol):
    """Work in a thread of its own, as `threading.Thread` is."""

    def join(self) -> None:
        """Until it has ended."""
        ...


class SystemClock:
    """The machine's clock and threads.

    Workers of a sweep read time and wait through this alone, so that a clock which is set decides when their leases
    end, their checkpoints are due and their threads go on.
    """

    def monotonic(self) -> float:
        """Seconds since some moment, which never go back."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since 1970, as far as the machine knows."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Waits for so long."""
        time.sleep(seconds)

    def lock(self) -> AbstractContextManager[Any]:
        """A lock that one thread holds."""
        return threading.Lock()

    def event(self) -> Waitable:
        """A flag that is not raised yet."""
        return threading.Event()

    def start(self, work: Callable[[], None], name: str) -> Joinable:
        """Begins work in a thread that does not keep the process alive."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def pool(self, threads: int, name: str) -> Executor:
        """Threads for work that is handed in."""
        return ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    def wait(
        self, futures: Collection[Future[Any]], timeout: float, *, for_all: bool = False
    ) -> tuple[set[Future[Any]], set[Future[Any]]]:
        """Until one of the futures is done, or all are, or for so many seconds: those that are, and the others."""
        done, left = wait(futures, timeout=timeout, return_when=ALL_COMPLETED if for_all else FIRST_COMPLETED)
        return done, left


_IN_USE = [SystemClock()]
"""Clocks that were put in place of one another; the last one is in use."""


def clock() -> SystemClock:
    """The clock in use."""
    return _IN_USE[-1]


@contextmanager
def using(other: SystemClock) -> Iterator[None]:
    """Puts another clock in place of the machine's, for all threads of the process."""
    _IN_USE.append(other)
    try:
        yield
    finally:
        _IN_USE.remove(other)
