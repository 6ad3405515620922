"""Ladders of one's own are read from JSON and Python, and what is wrong in them is named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from capscale.errors import UserError
from capscale.models.config import ModelConfig
from capscale.models.ladder import NANO
from capscale.models.ladder_files import find_ladder

SHARED = {"layers": 2, "heads": 1, "context": 64, "multiple_of": 8}
CONTENT = {
    "name": "mine",
    "batch": 8,
    "shared": SHARED,
    "sizes": {
        "mine-8": {"width": 8, "learning_rate": 0.05},
        "mine-16": {"width": 16, "layers": 3, "learning_rate": 0.025, "biases": ["query", "key"]},
    },
}


@pytest.fixture
def write(tmp_path):
    def written(content, name="mine.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return written


def test_json_is_read_and_own_fields_go_before_shared_ones(write):
    found = find_ladder(write(CONTENT))
    assert (found.name, found.batch, list(found.sizes)) == ("mine", 8, ["mine-8", "mine-16"])
    assert found.learning_rates == {"mine-8": 0.05, "mine-16": 0.025}
    small = ModelConfig(layers=2, heads=1, width=8, vocabulary=96, context=64, multiple_of=8)
    assert found.model("mine-8", 96) == small
    assert found.model("mine-16", 96) == replace(small, layers=3, width=16, biases=("query", "key"))


def test_python_is_read(write):
    code = """
from dataclasses import replace
from capscale.models.ladder import NANO, Ladder
from capscale.models.rope import LinearRope

LADDER = Ladder("own", {"own-8": replace(NANO.sizes["nano-8"], rope_scaling=LinearRope(2.0))}, {"own-8": 0.1}, 4)
"""
    found = find_ladder(write(code, "mine.py"))
    assert (found.name, found.batch, found.learning_rates) == ("own", 4, {"own-8": 0.1})


def test_names_are_found_as_ever():
    assert find_ladder("nano") is NANO
    with pytest.raises(UserError, match="ladder 'mirco' is unknown; did you mean micro"):
        find_ladder("mirco")


def changed(**fields):
    return CONTENT | fields


def size(**fields):
    return changed(sizes={"mine-8": {"width": 8, "learning_rate": 0.05} | fields})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"mine.json' is not readable JSON \(.*\); mend it"),
        ("[1]", "holds list, not an object of name, batch and sizes"),
        ("[" * 100_000, "nested too deep"),
        ('{"name": "a", "name": "b"}', "says 'name' twice in one object"),
        ({"name": "mine"}, "lacks batch, sizes"),
        (changed(size={}), r"unknown field 'size'; did you mean sizes"),
        (changed(shared=3), "shared is int, not an object of fields"),
        (changed(shared=SHARED | {"contex": 64}), "shared has an unknown field 'contex'; did you mean context"),
        (changed(sizes=[]), "sizes is list, not an object"),
        (changed(sizes={}), "has no sizes"),
        (changed(sizes={"mine-8": 8}), "size 'mine-8' is int, not an object"),
        (changed(shared={}), "size 'mine-8' lacks layers, heads, context"),
        (changed(sizes={"mine-8": {"width": 8}}), "size 'mine-8' lacks learning_rate"),
        (size(widht=9), "size 'mine-8' has an unknown field 'widht'; did you mean width"),
        (size(vocabulary=9), "size 'mine-8' has an unknown field 'vocabulary'"),
        (size(width="8"), "size 'mine-8': .*width='8' must be a whole number, not str"),
        (size(width=9, heads=2), "size 'mine-8': width=9 over heads=2"),
        (size(learning_rate=0), "learning rate 0 of 'mine-8'"),
        (size(learning_rate="fast"), "learning rate 'fast' of 'mine-8'"),
        (size(biases=["query", 3]), "size 'mine-8': biases="),
        (changed(batch=0), "batch=0 must be"),
        (changed(name="nano"), "name 'nano' is that of a ladder that comes with capscale"),
        (changed(name="../up"), "name '../up' must be letters"),
        (changed(name=3), "name 3 must be letters"),
        (changed(sizes={"30M": {"width": 8, "learning_rate": 0.05}}), "size '30M' is that of a size that comes with"),
        (changed(sizes={"a b": {"width": 8, "learning_rate": 0.05}}), "size 'a b' must be letters"),
    ],
)
def test_json_that_is_no_ladder_is_refused(content, message, write):
    with pytest.raises(UserError, match=message):
        find_ladder(write(content))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", r"defines no LADDER = Ladder\(...\)"),
        ("LADDER = 3", r"defines no LADDER = Ladder\(...\)"),
        ("1 / 0", r"mine.py' cannot be read: ZeroDivisionError.*line 1\); mend the file"),
        (
            "from capscale.models.ladder import NANO, Ladder\nLADDER = Ladder('own', NANO.sizes, {}, 4)",
            "sizes and learning rates must have the same names",
        ),
        ("from capscale.models.ladder import NANO as LADDER", "name 'nano' is that of a ladder that comes with"),
    ],
)
def test_python_that_makes_no_ladder_is_refused(code, message, write):
    with pytest.raises(UserError, match=message):
        find_ladder(write(code, "mine.py"))


@pytest.mark.parametrize("name", ["absent.json", "absent.py"])
def test_absent_files_are_named(name):
    with pytest.raises(UserError, match=f"ladder file '{name}' does not exist; check the path"):
        find_ladder(name)


def test_the_ladder_of_the_page_is_one(write):
    page = (Path(__file__).parents[2] / "docs" / "own_ladder.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert list(find_ladder(write(block)).sizes) == ["mine-8", "mine-12", "mine-16", "mine-24"]
