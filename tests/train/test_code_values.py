"""Values that a user's classes read count in the ids of their runs, wherever they come from."""

import pytest
from support.user_code import HELPERS, loading, replaced, run_of

from capscale.errors import UserError

# Classes here are as they were hashed first: theirs says `scope`.
pytestmark = pytest.mark.filterwarnings("ignore:.*scope is now .*granularity")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Imports a format's file as an experiment is, with the module of helpers beside it; gives its module."""
    return loading(tmp_path, monkeypatch)


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
