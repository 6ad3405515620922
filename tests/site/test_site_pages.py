"""The site's sources: docstrings as reStructuredText, pages that run, modules that have a page."""

import json
import re
import subprocess
import sys

import pytest
from support.limits import LIMIT_S
from support.pages import DOCS, blocks

import capscale

sys.path.insert(0, str(DOCS / "extensions"))
docstrings = pytest.importorskip("docstrings", reason="sphinx is not installed: pip install 'capscale[docs]'")

CONF = (DOCS / "conf.py").read_text(encoding="utf-8")
EXECUTED = re.findall(r'"docs/(\w+)"', re.findall(r"^executed_pages = \[(.*?)\]", CONF, re.M | re.S)[0])
OTHER_TESTS = {"usage": "tests/test_front_page.py"}
"""Pages whose code is run by tests alone, and not where the site is built."""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Shape of `x`, and `Law`s."], ["Shape of ``x``, and :py:obj:`Law <m.Law>`\\ s."]),
        (["Sum of |x|, a*b, x_ of `a_ * |b|`."], [r"Sum of \|x\|, a\*b, x\_ of ``a_ * |b|``."]),
        (["Opens `a", "b` later."], ["Opens ``a", "b`` later."]),
        (["Text:", "", "    x -> y", "", "More."], ["Text:", "", "", "  ::", "", "    x -> y", "", "", "More."]),
        (["Args:", "  x: `y`", "    and more."], ["Args:", "  x: ``y``", "    and more."]),
        (["Example:", "  f(`x`)"], ["**Example**", "", "::", "", "  f(`x`)", ""]),
        ([">>> f('`x`')", "3", "", "Then `x`."], [">>> f('`x`')", "3", "", "Then ``x``."]),
    ],
)
def test_docstrings_become_restructured_text(lines, expected):
    assert docstrings.restructured(lines, {"Law": "m.Law"}) == expected


def run_blocks(given: list[tuple[str, str]], tmp_path) -> subprocess.CompletedProcess:
    """The runner, given (language, code) pairs, in an empty directory."""
    command = [sys.executable, str(DOCS / "extensions" / "run_blocks.py")]
    return subprocess.run(
        command, input=json.dumps(given), cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_blocks_share_names_and_say_what_they_print(tmp_path):
    done = run_blocks([("python", "x = 3"), ("python", "print(x)"), ("bash", "capscale --version  # which")], tmp_path)
    assert json.loads(done.stdout) == ["", "3\n", f"capscale {capscale.__version__}\n"], done.stderr


@pytest.mark.parametrize(
    ("language", "code", "said"),
    [
        ("python", "print('so far'); 1 / 0", "so far"),
        ("python", "import warnings; warnings.warn('old')", "UserWarning: old"),
        ("bash", "capscale gmze", "exit status 2"),
        ("bash", "capscale --version  # exit status 2", "exit status 0"),
        ("bash", "rm -r x", "only capscale is run"),
    ],
)
def test_a_block_that_fails_says_why(language, code, said, tmp_path):
    done = run_blocks([(language, code)], tmp_path)
    assert done.returncode == 1
    assert said in done.stderr


def test_every_page_with_code_is_run():
    with_code = {page.stem for page in DOCS.glob("*.md") if blocks(page.stem) or blocks(page.stem, "bash")}
    assert with_code == {*EXECUTED, *OTHER_TESTS}


def test_every_page_is_in_the_contents():
    listed = (DOCS / "index.md").read_text(encoding="utf-8").replace("<", " ").replace(">", " ").split()
    pages = [*DOCS.glob("*.md"), *DOCS.glob("api/*.rst"), *DOCS.glob("benchmarks/*.md")]
    lacking = [str(page.relative_to(DOCS).with_suffix("")) for page in pages if page.name != "index.md"]
    assert not [name for name in lacking if name not in listed]


MODULES = [name for page in DOCS.glob("api/*.rst") for name in docstrings.MODULE.findall(page.read_text())]


def test_a_module_has_one_page():
    assert len(set(MODULES)) == len(MODULES) > 80


def test_public_names_are_on_a_page():
    values = [(name, getattr(capscale, name)) for name in capscale.__all__]
    values += [(name, getattr(capscale.formats, name)) for name in capscale.formats.__all__]
    homes = {name: getattr(value, "__module__", None) for name, value in values}
    of_ours = {name: home for name, home in homes.items() if home and home.startswith("capscale.")}
    assert len(of_ours) > 50
    assert {name: home for name, home in of_ours.items() if home not in MODULES} == {}
