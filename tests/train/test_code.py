"""The code of a user's classes is in the ids of their runs: what changes an id, what does not, what is refused."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
from support import tiny
from support.limits import LIMIT_S
from support.user_code import FORMAT, HELPERS, loading, replaced, run_of

from capscale.errors import UserError
from capscale.estimators import StraightThrough
from capscale.representation import Operand, Representation
from capscale.train.code import code_of
from capscale.train.run import described

# Classes here are as they were hashed first: theirs says `scope`.
pytestmark = pytest.mark.filterwarnings("ignore:.*scope is now .*granularity")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Imports a format's file as an experiment is, with the module of helpers beside it; gives its module."""
    return loading(tmp_path, monkeypatch)


CHANGES = [
    ("SCALE = 4", "SCALE = 40"),
    ("SCALE = 4", 'SCALE = float("4")'),
    ("/ SCALE", "/ SCALE / 2"),
    ("return 1.0", "return 2.0"),
    ("[1.0, 2.0]", "[1.5, 2.0]"),
    ("EXTRA.append(3)", "EXTRA.append(4)"),
    ("lambda x: x / 2", "lambda x: x / 3"),
    ("jnp.sign(x)", "jnp.tanh(x)"),
    ("class Mine(Base)", "@(lambda cls: cls)\nclass Mine(Base)"),
    ("import jax.numpy as jnp", "import numpy as jnp"),
    ("def runs(", "Mine.late = 3\ndef runs("),
    ('KINDS = {"half"', 'KINDS = {"a": 1, "half"'),
]
HELPER_CHANGES = [
    ("FACTOR = 2", "FACTOR = 3"),
    ("TABLE = [1, 2]", "TABLE = [2, 2]"),
    ("hidden = 6", "hidden = 7"),
    ("    return x\n", "    return -x\n"),
    ("inner(x) + 1", "inner(x) + 2"),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_edited_code_is_another_run(old, new, load):
    before = run_of(load().Mine())
    assert run_of(load(replaced(FORMAT, old, new)).Mine()).run_id != before.run_id


@pytest.mark.parametrize(("old", "new"), HELPER_CHANGES)
def test_so_is_edited_code_of_another_file_that_it_uses(old, new, load):
    before = run_of(load().Mine())
    assert run_of(load(helpers=replaced(HELPERS, old, new)).Mine()).run_id != before.run_id


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # never negative", ""),
        ("SCALE = 4", "# A comment.\n\n\nSCALE   =   4"),
        ('"""The sign of every value."""', '"""Other words."""\n\n    "And more."'),
        ("UNUSED = 7", "UNUSED = 8"),
        ("SIZES = (8, 12)", "SIZES = (8, 12, 16)"),
        ("return [SIZES", "return [2 * SIZES"),
        ("def largest", "def another(x):\n    return 3\n\ndef largest"),
        ("return 1.0", "return (\n            1.0\n        )"),
    ],
)
def test_comments_words_and_the_rest_of_an_experiment_are_no_part_of_it(old, new, load):
    before = run_of(load().Mine())
    assert run_of(load(replaced(FORMAT, old, new)).Mine()).run_id == before.run_id
    assert run_of(load(helpers=replaced(HELPERS, "OTHER = 5", "OTHER = 6")).Mine()).run_id == before.run_id


def test_code_that_is_moved_to_another_file_is_the_same(load):
    before = run_of(load().Mine())
    assert run_of(load(name="renamed").Mine()).run_id == before.run_id
    function = FORMAT[FORMAT.index("def largest") : FORMAT.index("class Base")]
    apart = replaced(FORMAT, function, "").replace("SCALE = 4\n", "from helpers import largest\n")
    helpers = f"{HELPERS}\nimport jax.numpy as jnp\nSCALE = 4\n\n{function}"
    assert run_of(load(apart, helpers).Mine()).run_id == before.run_id


def test_classes_of_one_name_are_told_apart(load):
    first, second = load().Mine(), load(replaced(FORMAT, "SCALE = 4", "SCALE = 5"), name="other").Mine()
    one, other = (Operand(format, StraightThrough()) for format in (first, second))
    pairs = [(one, one), (one, other), (other, one), (other, other)]
    found = [tiny.run(representation=Representation(*pair)) for pair in pairs]
    assert len({run.run_id for run in found}) == 4
    code = described(found[1])["code"]
    assert code.keys() == {"representation.weights.format", "representation.activations.format"}
    assert len(set(code.values())) == 2
    assert described(found[2])["code"] == dict(zip(code, reversed(code.values()), strict=True))


def test_fields_and_parts_of_a_users_class_are_followed_too(load):
    module = load(FORMAT + "\n\n@dataclass(frozen=True)\nclass Around(Mine):\n    inner: Mine = Mine()\n")
    found = code_of(run_of(module.Around()))
    assert found.keys() == {"representation.weights.format", "representation.weights.format.inner"}
    assert code_of((3, (module.Mine(),))).keys() == {"[1][0]"}


def test_runs_of_the_packages_own_classes_hold_no_code():
    assert code_of(tiny.run()) == {}
    assert described(tiny.run()).keys().isdisjoint({"code", "numerics"})


@pytest.mark.ci
def test_equal_code_has_one_id_in_every_process(load, tmp_path):
    run = run_of(load().Mine())
    folder = next(path.parent for path in tmp_path.rglob("mine.py"))
    code = (
        "import mine\nfrom support import tiny\nfrom capscale.representation import Operand, Representation\n"
        "print(tiny.run(representation=Representation(Operand(mine.Mine()))).run_id)"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join([str(folder), *sys.path]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    assert done.stdout.strip() == run.run_id


SYNTAX = """\
from __future__ import annotations
from dataclasses import dataclass

WIDE = {1: "a", **{2: b"b"}}

async def later(x, /, *rest, key=None, **more):
    async with x as y:
        yield y

@dataclass(frozen=True)
class Mine:
    scope: str = "row"

    def project(self, x: "Array", ctx: Context | None):
        match x:
            case {"a": [1, *others], **rest} if (n := len(others)) > 1.5e-3:
                return f"{x!r:>{n}} {n=} {{}}" "and" f'{rest["b"]}'
            case Mine(scope=("row" | None)) | -1j:
                lambda y=...: later(y)[1:2, ::3]
        try:
            del self.x
        except* ValueError as error:
            raise KeyError from error
        return [*WIDE, {v for v in x if not v}]
"""


def test_golden_hashes(load):
    """Written down once: Pythons and versions of this package that hashed otherwise would orphan results."""
    assert code_of(load().Mine()) == {"": "bdbf536d53f3b258"}
    assert code_of(load(SYNTAX).Mine()) == {"": "1ada9848fd13da48"}


def test_classes_without_source_are_refused():
    script = (
        "from support import tiny\nfrom dataclasses import dataclass\n"
        "from capscale.representation import Operand, Representation\n"
        "@dataclass(frozen=True)\nclass Mine:\n    scope = 'row'\n"
        "print(tiny.run(representation=Representation(Operand(Mine()))).run_id)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 1
    assert "UserError: module '__main__' has no source that can be read" in done.stderr
    assert "define them in a .py file and import them from there" in done.stderr


def test_classes_that_no_statement_makes_are_refused():
    made = dataclass(frozen=True)(type("Made", (), {"scope": "row", "__module__": __name__}))
    with pytest.raises(UserError, match=r"Made is not defined in the source of module .*: define it in a .py file"):
        _ = run_of(made()).run_id
