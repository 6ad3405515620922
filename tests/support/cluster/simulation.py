"""A clock that is set: threads run one at a time, and seconds pass only where all of them wait.

Every thread is real, and does what it does elsewhere, but it hands over where it waits: to the one whose time comes
next. So an hour takes as long as what happens in it, and a seed gives one and the same history.
"""

import heapq
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any

from capscale.clock import SystemClock


class Killed(BaseException):
    """Raised in threads of a process that was killed, by whatever they do; no `except Exception` catches it."""


class Process:
    """A process that is simulated: whose threads end together, and whose clock is its own.

    Args:
      name: for messages.
      place: of its machine and process namespace, as a lease knows it.
      skew_s: how far its wall clock is off.
    """

    def __init__(self, name: str, place: str = "", skew_s: float = 0.0):
        self.name, self.place, self.skew_s = name, place, skew_s
        self.is_dead = False
        self.stands_still_until = 0.0
        self.tasks: list[_Task] = []

    def at_end(self) -> None:
        """Called when it was killed."""


class _Task:
    """A thread, and its place in the queue; entries with an earlier ticket are over."""

    def __init__(self, process: Process | None, name: str):
        self.process, self.name = process, name
        self.baton = threading.Semaphore(0)
        self.ticket, self.has_ended = 0, False
        self.joining: list[_Task] = []


class Simulation(SystemClock):
    """Seconds, threads, locks and flags for all processes of a cluster.

    What it does not know (threads that compute beside the others, and end by themselves) goes on in real time.

    Args:
      most_s: seconds after which it ends, whatever is under way.
    """

    def __init__(self, most_s: float = math.inf):
        self.now, self._most_s, self._is_over = 0.0, most_s, False
        self.errors: list[BaseException] = []
        self._queue: list[tuple[float, int, _Task | Callable[[], object], int]] = []
        self._numbers = itertools.count()
        self._here = threading.local()
        self._main = _Task(None, "main")
        self._tasks: list[_Task] = []

    def process(self) -> Process | None:
        """The process of the thread that asks; None for a thread that is not simulated."""
        task = self._me()
        return None if task is None else task.process

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Calls something that does not wait, at a time."""
        heapq.heappush(self._queue, (when, next(self._numbers), call, 0))

    def spawn(self, work: Callable[[], object], process: Process, name: str) -> "_Started":
        """Begins work in a thread of a process."""
        task = _Task(process, f"{process.name} {name}")
        process.tasks.append(task)
        self._tasks.append(task)

        def run() -> None:
            self._here.task = task
            task.baton.acquire()
            try:
                self._check(task)
                work()
            except Killed:
                pass
            except BaseException as error:  # told by `run`
                self.errors.append(error)
            task.has_ended = True
            for other in task.joining:
                self._wake(other)
            self._next_or_main().baton.release()

        threading.Thread(target=run, name=task.name, daemon=True).start()
        self._wake(task)
        return _Started(self, task)

    def kill(self, process: Process) -> None:
        """Ends a process as SIGKILL does: nothing that its threads still do has any effect."""
        process.is_dead = True
        process.at_end()
        for task in process.tasks:
            if not task.has_ended:
                self._wake(task)

    def run(self) -> None:
        """Until nothing is left to happen; raises what a thread has raised, and where threads wait for ever."""
        self._hand_over(self._main)
        waiting, self._most_s = [task.name for task in self._tasks if not task.has_ended], math.inf
        for task in self._tasks:
            if task.process is not None:
                self.kill(task.process)
        self._hand_over(self._main)
        if self.errors:
            raise self.errors[0]
        if waiting and not self._is_over:
            raise AssertionError(f"for ever waits {', '.join(sorted(waiting)[:20])}")

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        process = self.process()
        return 1.8e9 + self.now + (0.0 if process is None else process.skew_s)

    def sleep(self, seconds: float) -> None:
        task = self._me()
        if task is not None:
            self._wait(task, self.now + seconds)

    def lock(self) -> "SimulatedLock":
        return SimulatedLock(self)

    def event(self) -> "SimulatedEvent":
        return SimulatedEvent(self)

    def start(self, work: Callable[[], None], name: str) -> "_Started":
        process = self.process()
        assert process is not None, "a thread of no process begins one"
        return self.spawn(work, process, name)

    def pool(self, threads: int, name: str) -> "_Pool":
        return _Pool(self, threads, name)

    def wait(
        self, futures: Collection[Future[Any]], timeout: float, *, for_all: bool = False
    ) -> tuple[set[Future[Any]], set[Future[Any]]]:
        task, until = self._me(), self.now + timeout
        assert task is not None
        for future in futures:
            future.add_done_callback(lambda _, task=task: self._wake(task))
        while self.now < until:
            done = {future for future in futures if future.done()}
            if done and (not for_all or len(done) == len(futures)):
                break
            self._wait(task, until)
        done = {future for future in futures if future.done()}
        return done, set(futures) - done

    def _me(self) -> _Task | None:
        return getattr(self._here, "task", None)

    def _wake(self, task: _Task) -> None:
        heapq.heappush(self._queue, (self.now, next(self._numbers), task, task.ticket))

    def _wait(self, task: _Task, until: float | None = None) -> None:
        """Until the task is woken, or the time has come."""
        self._check(task)
        if until is not None:
            heapq.heappush(self._queue, (until, next(self._numbers), task, task.ticket))
        self._hand_over(task)
        self._check(task)

    def _check(self, task: _Task) -> None:
        if task.process is not None and task.process.is_dead:
            raise Killed

    def check_alive(self) -> None:
        """Raises `Killed` in a thread of a process that was killed."""
        task = self._me()
        if task is not None:
            self._check(task)

    def _hand_over(self, task: _Task) -> None:
        following = self._next_or_main()
        if following is not task:
            following.baton.release()
            task.baton.acquire()

    def _next_or_main(self) -> _Task:
        while self._queue:
            when, _, found, ticket = heapq.heappop(self._queue)
            if when > self._most_s:
                self._queue.clear()
                self._is_over = True
                break
            if not isinstance(found, _Task):
                self.now = max(self.now, when)
                found()
            elif not found.has_ended and found.ticket == ticket:
                process = found.process
                if process is not None and process.stands_still_until > when and not process.is_dead:
                    heapq.heappush(self._queue, (process.stands_still_until, next(self._numbers), found, ticket))
                    continue
                self.now = max(self.now, when)
                found.ticket += 1
                return found
        return self._main


class _Started:
    """Of `Joinable`."""

    def __init__(self, simulation: Simulation, task: _Task):
        self._simulation, self._task = simulation, task

    @property
    def has_ended(self) -> bool:
        return self._task.has_ended

    def join(self) -> None:
        me = self._simulation._me()
        while not self._task.has_ended:
            assert me is not None
            self._task.joining.append(me)
            self._simulation._wait(me)


class SimulatedLock:
    """Held by one thread; a second time by the same one only where that is allowed."""

    def __init__(self, simulation: Simulation, again: bool = False):
        self._simulation, self._again = simulation, again
        self._holder: _Task | None = None
        self._depth = 0
        self._waiting: deque[_Task] = deque()

    def __enter__(self) -> bool:
        me = self._simulation._me()
        if me is None:
            return True
        self._simulation._check(me)
        assert self._again or self._holder is not me, "it would wait for itself"
        while self._holder not in (None, me):
            self._waiting.append(me)
            self._simulation._wait(me)
        self._holder, self._depth = me, self._depth + 1
        return True

    def __exit__(self, *exc: object) -> None:
        if self._simulation._me() is None:
            return
        self._depth -= 1
        if not self._depth:
            self._holder = None
            while self._waiting:
                self._simulation._wake(self._waiting.popleft())


class SimulatedEvent:
    """Of `Waitable`."""

    def __init__(self, simulation: Simulation):
        self._simulation, self._is_set = simulation, False
        self._waiting: list[_Task] = []

    def set(self) -> None:
        self._is_set = True
        for task in self._waiting:
            self._simulation._wake(task)
        self._waiting.clear()

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        me, until = self._simulation._me(), None if timeout is None else self._simulation.now + timeout
        assert me is not None
        while not self._is_set and (until is None or self._simulation.now < until):
            self._waiting.append(me)
            self._simulation._wait(me, until)
        return self._is_set


class _Pool(Executor):
    """Of `concurrent.futures.Executor`: threads of the process that made it."""

    def __init__(self, simulation: Simulation, threads: int, name: str):
        self._simulation, self._name, self._process = simulation, name, simulation.process()
        self._free, self._work = threads, deque[tuple[Future[Any], Callable[[], Any]]]()
        self._threads: list[_Started] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._work.append((future, lambda: fn(*args, **kwargs)))
        if self._free:
            self._free -= 1
            self._threads.append(self._simulation.start(self._do, self._name))
        return future

    def _do(self) -> None:
        while self._work:
            future, call = self._work.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except Killed:
                    raise
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
        self._free += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            for future, _ in self._work:
                future.cancel()
            self._work.clear()
        if self._process is not None and self._process.is_dead:
            return  # and what waited for it is collected by whichever thread is at work
        with suppress(Killed):  # in a generator that is collected; whatever comes next raises it again
            for thread in self._threads if wait else ():
                thread.join()
