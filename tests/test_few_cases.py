"""The cases that scripts/few_cases.py leaves to a second release of Python."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = ["a.py::one", *(f"a.py::many[{i}-x]" for i in range(50)), "b.py::one", *(f"b.py::three[{i}]" for i in range(3))]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from few_cases import few

    return few


@pytest.mark.parametrize("most", [1, 2, 3])
def test_every_function_runs_and_every_case_in_its_turn(few, most):
    met = Counter()
    for place in range(0, 256, 4):
        kept = [name for name, run in zip(NAMES, few(NAMES, most, f"{place:02x}" + 38 * "0"), strict=True) if run]
        functions = Counter(name.split("[")[0] for name in kept)
        assert functions == {"a.py::one": 1, "a.py::many": most, "b.py::one": 1, "b.py::three": most}
        met.update(kept)
    assert set(met) == set(NAMES)


def test_a_run_says_how_many_it_left(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n@pytest.mark.parametrize('i', range(8))\ndef test_it(i):\n    assert i != 0\n\n"
        "def test_alone():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "few_cases", "-v", "-n", "0"]
    command += ["--cases", "2", "--commit", "4" + 39 * "0"]
    places = os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"test_it\[(\d)\] PASSED", done.stdout) == ["2", "6"]
    assert "3 passed, 6 deselected" in done.stdout
