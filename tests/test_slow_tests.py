"""The order and the clock of scripts/slow_tests.py: none is left for ever, and none begins too late."""

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = [f"test-{i}" for i in range(5000)]


def commits(count: int) -> list[str]:
    return [hashlib.sha1(str(i).encode()).hexdigest() for i in range(count)]


@pytest.fixture
def turned(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from slow_tests import turned

    return turned


def test_a_turn_keeps_all_and_their_order(turned):
    for commit in commits(50):
        found = turned(TESTS, commit)
        start = TESTS.index(found[0])
        assert found == TESTS[start:] + TESTS[:start]
        assert found == turned(TESTS, commit)
    assert turned([], commits(1)[0]) == []
    assert turned(TESTS, "0" * 40) == TESTS
    assert turned(TESTS, "f" * 40)[0] == TESTS[-1]
    with pytest.raises(ValueError):
        turned(TESTS, "HEAD")


@pytest.mark.parametrize(("share", "at_most"), [(0.5, 12), (0.2, 45)])
def test_all_are_reached_within_a_few_commits(turned, share, at_most):
    """Of runs that have time for a share of the tests each, wherever one begins to count."""
    for first in range(0, 300, 5):
        left, count = set(TESTS), 0
        for commit in commits(first + at_most)[first:]:
            left -= set(turned(TESTS, commit)[: int(share * len(TESTS))])
            count += 1
            if not left:
                break
        assert not left, f"{len(left)} tests were not reached in {count} commits from {first} on"


def run(tmp_path: Path, *arguments: str, workers: int = 0, commit: str = "8" + 39 * "0") -> tuple[int, str]:
    """A run of eight slow tests that take 0.2 seconds and one that is not slow; what it wrote."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (tmp_path / "test_some.py").write_text(
        "import time, pytest\n\n"
        "@pytest.mark.slow\n@pytest.mark.parametrize('i', range(8))\ndef test_it(i):\n    time.sleep(0.2)\n"
        "    assert i != 5\n\n"
        "def test_quick():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "slow_tests", "-v", "-m", "slow"]
    command += ["-n", str(workers), "--commit", commit, *arguments]
    places = os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def begun(text: str) -> list[int]:
    return [int(i) for i in re.findall(r"test_it\[(\d)\] (?:PASSED|FAILED)", text)]


@pytest.mark.parametrize("workers", [0, 2])
def test_all_run_where_there_is_time_and_a_failure_is_one(tmp_path, workers):
    status, text = run(tmp_path, "--begin-before", str(time.time() + 600), workers=workers)
    assert status == 1
    assert "8 of 8 run, 0 left to other commits" in text
    assert "1 failed, 7 passed" in text
    if workers == 0:
        assert begun(text) == [4, 5, 6, 7, 0, 1, 2, 3], "half way round"


@pytest.mark.parametrize("workers", [0, 2])
def test_none_begins_when_the_time_is_up(tmp_path, workers):
    status, text = run(tmp_path, "--begin-before", str(time.time()), workers=workers)
    assert status == 0
    assert "0 of 8 run, 8 left to other commits" in text


def test_what_has_begun_is_finished_and_the_rest_is_left(tmp_path):
    """The fault of test 5 is not met: the clock stops before it."""
    plugin = "import time, slow_tests\nslow_tests.time.time = iter([0, 1, 2, *[3] * 9]).__next__\n"
    (tmp_path / "ticking.py").write_text(plugin)
    status, text = run(tmp_path, "-p", "ticking", "--begin-before", "2.5", commit=40 * "0")
    assert status == 0, text
    assert begun(text) == [0, 1, 2]
    assert "3 of 8 run, 5 left to other commits" in text


@pytest.mark.parametrize("given", [["--commit", "HEAD"], []])
def test_a_commit_that_is_none_is_refused(tmp_path, given):
    status, text = run(tmp_path, *given, *([] if given else ["--begin-before", "soon"]))
    assert status == 4
    assert re.search(r"argument --(commit|begin-before): invalid", text)
