"""A pytest plugin for a second release of Python: every test function runs, with a few of its cases, which turn.

    PYTHON=python3.12 PYTHONPATH=scripts bash scripts/test.sh -p few_cases --cases 2 --commit "$(git rev-parse HEAD)"

What differs between releases of Python, and of jax and numpy with them, is how they take our code; any case that runs
the code sees it. That each of many formats or shapes has the right numbers is seen on the first release, where all
cases run. Cases lie evenly among a function's own, and begin at the commit's share of all hashes as in `slow_tests`, so
that each comes to run here too.
"""

from collections.abc import Iterable
from itertools import groupby

import pytest
from slow_tests import commit_hash


def chosen(count: int, most: int, commit: str) -> set[int]:
    """Indices of at most `most` of `count` cases, evenly apart, from the place on that the commit says."""
    start = int(commit, 16) * count // 16 ** len(commit)
    return {(start + i * count // most) % count for i in range(min(most, count))} if count > most else set(range(count))


def few(names: Iterable[str], most: int, commit: str) -> list[bool]:
    """Of names of tests in their order, `file::function[case]`, which are run."""
    kept: list[bool] = []
    for _, cases in groupby(name.split("[")[0] for name in names):
        count = len(list(cases))
        places = chosen(count, most, commit)
        kept += [i in places for i in range(count)]
    return kept


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many cases, and the commit."""
    group = parser.getgroup("few cases")
    group.addoption("--cases", type=int, required=True, help="most cases of a test function that are run")
    group.addoption("--commit", type=commit_hash, required=True, help="hash that says which cases those are")


@pytest.hookimpl(trylast=True)  # once -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the other cases."""
    kept = few([item.nodeid for item in items], config.option.cases, config.option.commit)
    config.hook.pytest_deselected(items=[item for item, run in zip(items, kept, strict=True) if not run])
    items[:] = [item for item, run in zip(items, kept, strict=True) if run]
