"""A pytest plugin for tests that are too many for one change: their order turns with the commit, and a clock ends it.

    PYTHONPATH=scripts bash scripts/test.sh -m slow -p slow_tests \\
      --commit "$(git rev-parse HEAD)" --begin-before "$(($(date +%s) + 1800))"

Tests keep their order, so that those that share what is compiled stay together; what turns is where it begins. The
place is that of the commit's hash on a circle of all tests, so that it needs no memory, and no history, which a shallow
clone lacks: whatever a run has no time for, other commits begin with.
"""

import time
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def turned(items: list[T], commit: str) -> list[T]:
    """`items` from another place on, and round to it: the place is the commit's share of all hashes.

    Raises:
      ValueError: `commit` is no hexadecimal number.
    """
    start = int(commit, 16) * len(items) // 16 ** len(commit)
    return items[start:] + items[:start]


class Clock:
    """Begins no test after a moment, in seconds since 1970, and tells how many were run and how many were left."""

    def __init__(self, commit: str, begin_before: float):
        self.commit, self.begin_before = commit, begin_before
        self.chosen = 0
        self.run: set[str] = set()

    @pytest.hookimpl(trylast=True)  # once -m and -k have chosen
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Turns the tests to their starting place."""
        items[:] = turned(items, self.commit)
        self.chosen = len(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Counts, in the process that collects nothing itself."""
        self.chosen = len(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> bool | None:
        """True where there is no time: the test is done with, and nothing is reported of it."""
        return True if time.time() >= self.begin_before else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts what has begun, here or in a worker."""
        self.run.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Says how many were left."""
        left = self.chosen - len(self.run)
        terminalreporter.section("tests by the clock")
        terminalreporter.write_line(f"{len(self.run)} of {self.chosen} run, {left} left to other commits")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The commit and the moment, without which nothing is run."""
    group = parser.getgroup("slow tests")
    group.addoption("--commit", type=commit_hash, required=True, help="hash that says where the order begins")
    group.addoption("--begin-before", type=float, required=True, help="no test begins later (seconds since 1970)")


def commit_hash(text: str) -> str:
    """`text`, for argparse, which says that a value is wrong where this raises ValueError."""
    int(text, 16)
    return text


def pytest_configure(config: pytest.Config) -> None:
    """Starts the clock of the session."""
    clock = Clock(config.option.commit, config.option.begin_before)
    config.pluginmanager.register(clock, "slow-clock")
