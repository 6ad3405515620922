"""The code of a user's classes is in the ids of their runs: what changes an id, what does not, what is refused."""

import importlib.util
import itertools
import subprocess
import sys
from dataclasses import dataclass

import pytest
from support import tiny
from support.limits import LIMIT_S

from capscale.errors import UserError
from capscale.estimators import StraightThrough
from capscale.representation import Operand, Representation
from capscale.train.code import code_of
from capscale.train.run import described

# Classes here are as they were hashed first: theirs says `scope`.
pytestmark = pytest.mark.filterwarnings("ignore:.*scope is now .*granularity")

FORMAT = '''\
"""A format of the user's, in an experiment of its own."""

import jax.numpy as jnp
import numpy as np
from dataclasses import dataclass
from functools import cached_property

import helpers
from helpers import offset as shift, TABLE
from capscale.formats.base import Projection

SCALE = 4
UNUSED = 7
LEVELS = np.array([1.0, 2.0])
EXTRA = []
EXTRA.append(3)
KINDS = {"half": lambda x: x / 2}
SIZES = (8, 12)


def largest(x):
    return jnp.max(jnp.abs(x), axis=-1, keepdims=True) / SCALE


class Base:
    @property
    def bits(self):
        return 1.0


@dataclass(frozen=True)
class Mine(Base):
    """The sign of every value."""

    width: int = 3

    @property
    def scope(self):
        return "row"

    def project(self, x, ctx):
        scale = largest(x) + LEVELS[0] + len(EXTRA) + KINDS["half"](1)  # never negative
        return Projection(jnp.sign(x) * scale + shift(x) + helpers.bias(1) + TABLE[0])

    @cached_property
    def late(self):
        from helpers import hidden

        return hidden


def runs(ladder, data):
    return [SIZES, UNUSED, Mine()]
'''
HELPERS = """\
FACTOR = 2
OTHER = 5
TABLE = [1, 2]
hidden = 6

def offset(x):
    return x * FACTOR

def bias(x):
    return inner(x) + 1

def inner(x):
    return x

def unused():
    return OTHER
"""
numbers = itertools.count()


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Imports a format's file as an experiment is, with the module of helpers beside it; gives its module."""

    def load(text=FORMAT, helpers=HELPERS, name="mine"):
        folder = tmp_path / str(next(numbers))  # Python goes by times and sizes when it reads what it compiled
        folder.mkdir()
        (folder / "helpers.py").write_text(helpers)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        monkeypatch.delitem(sys.modules, "helpers", raising=False)
        importlib.invalidate_caches()
        spec = importlib.util.spec_from_file_location(f"capscale_experiment_{name}", folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


def run_of(format):
    """Its id is known from here on, whatever becomes of the modules."""
    run = tiny.run(representation=Representation(Operand(format, StraightThrough())))
    assert run.run_id
    return run


def replaced(text, old, new):
    assert old in text
    return text.replace(old, new)


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


VALUES = """\
from dataclasses import dataclass
from helpers import *

@dataclass(frozen=True)
class Mine:
    scope = "row"
    limit = LIMIT

    def project(self, x, ctx):
        return x * TABLE[0]
"""


@pytest.mark.parametrize(
    "value",
    [
        "int(os.environ['MINE'])",
        "np.arange(int(os.environ['MINE']))",
        "jax.numpy.arange(int(os.environ['MINE']))",
        "{'a': [float(os.environ['MINE'])]}",
        "Levels((-1.0, float(os.environ['MINE'])))",
        "'name ' + os.environ['MINE']",
    ],
)
@pytest.mark.parametrize("name", ["LIMIT", "TABLE"])
def test_values_count_wherever_they_come_from(name, value, load, monkeypatch):
    values = {"LIMIT": "1", "TABLE": "(1, 2)"} | {name: value}
    helpers = "import os, jax, numpy as np\nfrom capscale.formats.levels import Levels\n"
    helpers += "".join(f"{key} = {value}\n" for key, value in values.items())
    ids = []
    for number in ("3", "4", "3"):
        monkeypatch.setenv("MINE", number)
        ids.append(run_of(load(VALUES, helpers).Mine()).run_id)
    assert ids[0] == ids[2] != ids[1]


ALTERED = """\
from dataclasses import dataclass

class Box:
    pass

BOX = Box()
BOX.fill = lambda x: x

@dataclass(frozen=True)
class Mine:
    scope = "row"

    def project(self, x, ctx):
        return BOX.fill(x)
"""


@pytest.mark.parametrize(("old", "new"), [("lambda x: x\n", "lambda x: 2 * x\n"), ("BOX.fill =", "BOX.other =")])
def test_so_does_what_is_done_to_a_value_after_it_is_made(old, new, load):
    before = run_of(load(ALTERED).Mine())
    assert run_of(load(replaced(ALTERED, old, new)).Mine()).run_id != before.run_id


def test_places_on_this_machine_do_not_count(load):
    helpers = "from pathlib import Path\nTABLE = (1, 2)\nLIMIT = __file__\n"
    assert run_of(load(VALUES, helpers).Mine()).run_id == run_of(load(VALUES, helpers).Mine()).run_id


MADE = """\
from dataclasses import dataclass

def offset(x):
    return x

def make(scale, flag=False):
    if flag:
        @dataclass(frozen=True)
        class Made:
            scope = "row"
            def project(self, x, ctx):
                return x
    else:
        @dataclass(frozen=True)
        class Made:
            scope = "row"
            def project(self, x, ctx):
                return x * scale
    return Made

def choose(flag):
    if flag:
        @dataclass(frozen=True)
        class Made:
            scope = "row"
            def project(self, x, ctx):
                return x
    else:
        @dataclass(frozen=True)
        class Made:
            scope = "row"
            def project(self, x, ctx):
                return -x
    return Made

def around(inner):
    @dataclass(frozen=True)
    class Made(inner):
        def project(self, x, ctx):
            return super().project(x, ctx)
    return Made
"""


def test_classes_that_a_function_makes_hold_what_they_took_from_it(load):
    module = load(MADE)
    edited = load(MADE.replace("return x\n\ndef make", "return -x\n\ndef make"))
    ids = [
        run_of(made()).run_id
        for made in (
            *(module.make(2), module.make(3), module.make(2, flag=True), module.make(module.offset)),
            *(
                module.choose(False),
                module.choose(True),
                edited.make(edited.offset),
                module.around(module.make(2)),
                module.around(module.make(3)),
            ),
        )
    ]
    assert len(set(ids)) == len(ids)
    assert run_of(load(MADE).make(2)()).run_id == ids[0]
    with pytest.raises(UserError, match=r"make.<locals>.Made takes scale=<object .*; make it a field of the class"):
        _ = run_of(module.make(object())()).run_id


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


RINGS = """\
from dataclasses import dataclass
from helpers import *

def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

try:
    from nothere import fast
except ImportError:
    fast = None

@dataclass(frozen=True)
class Mine:
    scope = "row"

    def project(self, x, ctx):
        return even(3) + missing + fast + __name__ + len(x)

globals()["missing"] = 3
"""


def test_of_a_module_that_is_passed_on_everything_counts(load):
    text = VALUES.replace("from helpers import *", "import helpers\nLIMIT = 1").replace(
        "TABLE[0]", "getattr(helpers, ctx)"
    )
    before = run_of(load(text).Mine())
    assert run_of(load(text).Mine()).run_id == before.run_id
    assert run_of(load(text, replaced(HELPERS, "OTHER = 5", "OTHER = 6")).Mine()).run_id != before.run_id


def test_names_that_lead_in_circles_or_nowhere_end(load):
    before = run_of(load(RINGS, "def f():\n    from capscale_experiment_mine import *\n".replace("*", "Mine")).Mine())
    assert run_of(load(RINGS.replace("n != 0", "n > 0")).Mine()).run_id != before.run_id
    assert run_of(load(RINGS.replace("fast = None", "fast = 0")).Mine()).run_id != before.run_id
