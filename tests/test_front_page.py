"""The README is short, its code runs and its links lead somewhere; GitHub's workflow asks what setup.py supports."""

import re
import shlex
import tomllib
from pathlib import Path

import jax
import pytest
from flax import linen as nn

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "DEVIATIONS.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 120


def test_the_readme_compresses_a_model(capsys):
    (block,) = BLOCK.findall(README.read_text(encoding="utf-8"))
    assert len(block.split("\n\n")[-1].splitlines()) <= 5

    class MyLinenModel(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="head")(nn.Dense(128, name="body")(x))

    given = {"MyLinenModel": MyLinenModel, "x": jax.numpy.ones((2, 128)), "key": jax.random.key(0)}
    exec(compile(block, "README.md", "exec"), given)
    assert set(given["params"]) == {"body", "head"}
    assert "int4" in capsys.readouterr().out


@pytest.mark.ci
def test_the_blocks_of_usage_run():
    """Those that end within seconds: `check_kernels` takes minutes, and its own tests run it."""
    quick = [
        block for block in BLOCK.findall((ROOT / "docs" / "usage.md").read_text()) if "check_kernels(" not in block
    ]
    assert quick
    for block in quick:
        exec(compile(block, "docs/usage.md", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, fragment = target.partition("#")
            found = page.parent / path if path else page
            assert found.exists(), target
            assert not fragment or fragment in anchors(found), target


def test_the_workflow_runs_what_ci_runs_on_the_pythons_that_setup_names():
    lines = (ROOT / ".github" / "workflows" / "ci.yml").read_text().splitlines()
    assert not any("\t" in line for line in lines)
    (asked,) = [line.partition(":")[2] for line in lines if line.strip().startswith("python:")]
    setup = (ROOT / "setup.py").read_text()
    assert re.findall(r'"([\d.]+)"', asked) == re.findall(r"Python :: (3\.\d+)", setup)
    steps = [line.partition("run:")[2].strip() for line in lines if line.strip().startswith("- run:")]
    assert [shlex.split(step) for step in steps] == [["bash", ".ci/run"]]
    oldest = re.search(r'python_requires=">=(3\.\d+)"', setup)
    assert oldest is not None
    assert oldest[1] in asked
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["target-version"]
    assert target == "py" + oldest[1].replace(".", "")
