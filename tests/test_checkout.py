"""Two checkouts side by side: what is imported from one has nothing of the other's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.limits import LIMIT_S

import capscale

ROOT = Path(capscale.__file__).parents[1]
PRINT = "import capscale, {0}; print(capscale.__file__, {0}.__file__, sep='\\n')"
beside = pytest.mark.skipif(not (ROOT / "kernels").is_dir(), reason="the package is installed, kernels inside of it")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second checkout, of which nothing is installed."""
    into = tmp_path_factory.mktemp("other")
    for name in ("capscale", "kernels", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__", "results", "*.npy", "*.json")
        shutil.copytree(ROOT / name, into / name, ignore=ignored)
    return into


@beside
@pytest.mark.parametrize("module", ["capscale.kernels.dispatch", "capscale.experiments"])
def test_all_of_it_is_of_one_checkout(module, other):
    """This Python has an editable install of the first one."""
    environment = os.environ | {"PYTHONPATH": str(other), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PRINT.format(module)]
    done = subprocess.run(
        command, env=environment, cwd=other, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [Path(line).is_relative_to(other) for line in done.stdout.split()] == [True, True], done.stdout


@beside
def test_the_first_one_is_of_itself():
    from capscale.kernels import dispatch

    assert Path(dispatch.__file__).is_relative_to(ROOT)
