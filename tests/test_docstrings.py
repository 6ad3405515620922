"""Three rules for docstrings: a subject in front, four words at least, and the field's words for its things."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("capscale", "kernels", "experiments", "scripts", "tests")
FIELD = {
    "learned numbers": "learnable parameters, or learned scales",
    "first weights": "initial weights",
    "the masters": "master weights",
    "dealt": "interleaved",
}
"""Everyday words, and the term that the field has instead."""


class Docstring(NamedTuple):
    """A docstring of a module, a class, a function or a name, and where it stands."""

    place: str
    text: str
    of_name: bool
    """Whether it stands below a name that is given a value."""


def docstrings(path: Path) -> Iterator[Docstring]:
    """All docstrings of a file, those below names included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = node.body if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) else []
        for before, statement in zip([None, *body], body, strict=False):
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
                continue
            if isinstance(statement.value.value, str):
                named = isinstance(before, ast.Assign | ast.AnnAssign)
                yield Docstring(f"{path.name}:{statement.lineno}", statement.value.value, named)


def faults(found: Docstring) -> list[str]:
    """The rules that a docstring breaks."""
    said = " ".join(found.text.split())
    out = []
    if re.match(r"What\b", said):
        out.append("starts with What: name the thing")
    if len(said.split()) < 4 and not found.of_name:
        out.append("says it in under four words")
    out += [f"says {word!r}: {term}" for word, term in FIELD.items() if re.search(rf"\b{word}\b", said)]
    return [f"{found.place}: {said[:60]!r} {fault}" for fault in out]


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_keep_the_rules(folder):
    files = [p for p in (ROOT / folder).rglob("*.py") if p != Path(__file__).resolve()]
    found = [fault for path in sorted(files) for one in docstrings(path) for fault in faults(one)]
    if folder == "tests":  # names of tests say what these hold
        found = [fault for fault in found if "under four words" not in fault]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("What a run is.", "name the thing"),
        ("The law.", "four words"),
        ("Gradients of learned numbers of it.", "scales"),
    ],
)
def test_each_rule_finds_its_fault(text, fault, tmp_path):
    (tmp_path / "one.py").write_text(f'def f():\n    """{text}"""\n')
    (one,) = docstrings(tmp_path / "one.py")
    (found,) = faults(one)
    assert fault in found


KERNELS = [
    f"{folder}/{name}.py"
    for folder, names in {
        "project/tpu": ("project", "encode"),
        "project/gpu": ("project", "encode"),
        "matmul": ("tpu", "gpu"),
        "select": ("tpu", "gpu"),
    }.items()
    for name in names
]


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_opens_with_a_picture_of_what_lies_where(name):
    """Arrays with their axes, the block of a step, and what registers hold of it, in one indented drawing."""
    text = ast.get_docstring(ast.parse((ROOT / "kernels" / name).read_text()))
    drawing = [line for line in text.splitlines() if line.startswith("    ")]
    words = " ".join(drawing)
    assert len(drawing) >= 2
    assert "-->" in words or "+--" in words
    assert any(place in words for place in ("registers", "VMEM", "memory"))


def test_what_the_glossary_names_is_there():
    """Every row of the glossary says where its thing is, and it is there."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 25
    assert len({word for word, _, _ in rows}) == len(rows)
    for _, meaning, place in rows:
        assert len(meaning.split()) >= 4
        module, _, name = place.strip(" |`").rpartition(".")
        found = importlib.import_module(f"capscale.{module}" if module else "capscale")
        assert hasattr(found, name) or importlib.import_module(f"{found.__name__}.{name}"), place
