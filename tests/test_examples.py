"""Examples of docstrings are run: interactive ones as doctests, and every expression behind "Example:"."""

import ast
import doctest
import importlib
import math
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import capscale.kernels
import jax
import pytest

import capscale
from capscale import estimators, formats
from capscale.formats import floats
from capscale.testing import CHECKS

NOT_RUN = {
    'Tensors(Path("model")).read("lm_head.weight")': "it reads a checkpoint (tests/checkpoints has some)",
    "unstated(Half(Int(4)), CLOSED_FORM)": "of a class that its sentence makes up (tests/formats/test_stated.py)",
    "check_kernels(Scalar(Levels((-3.0, -1.0, 1.0, 3.0)), Absmax(), group=32))": "it takes minutes: test_kernel_checks",
}
"""Examples that are named and not evaluated, and why."""


def modules() -> Iterator[ModuleType]:
    """Every module that imports jax and less, commands and what needs an extra aside."""
    for package in (capscale, capscale.kernels):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not re.search(r"\.(cli|experiments|on_ray)\b", found.name):
                yield importlib.import_module(found.name)


MODULES = {module.__name__: module for module in modules()}


def docstrings(module: ModuleType) -> Iterator[str]:
    """Docstrings of the module, and of what it defines."""
    with open(str(module.__file__)) as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text


def expressions(text: str) -> Iterator[tuple[str, str]]:
    """Expressions in backticks of the paragraph behind "Example:", and what is said right behind each."""
    for paragraph in re.findall(r"Example: (.*?)(?:\n\n|\Z)", text, flags=re.DOTALL):
        for code, behind in re.findall(r"`([^`]+)`([^`]*)", paragraph.replace("\n", " ")):
            try:
                ast.parse(code, mode="eval")
            except SyntaxError:
                continue  # a statement, such as a decorator
            if "(" in code:
                yield code, behind


EXAMPLES = [
    pytest.param(name, code, behind, id=code)
    for name, module in MODULES.items()
    for text in docstrings(module)
    for code, behind in expressions(text)
]


def names_of(module: ModuleType) -> dict[str, Any]:
    """Public names that a reader has: the module's own, the facade's, formats, their number formats and estimators."""
    facade = {name: getattr(capscale, name) for name in capscale.__all__}
    public = {k: v for of in (floats, formats, estimators) for k, v in vars(of).items() if not k.startswith("_")}
    return {**public, **facade, **vars(module)}


@pytest.mark.parametrize(("name", "code", "behind"), EXAMPLES)
def test_an_example_is_what_it_says(name, code, behind):
    if code in NOT_RUN:
        pytest.skip(NOT_RUN[code])
    found = eval(code, names_of(MODULES[name]))
    if number := re.match(r" is (\d+\.\d+)\.?$", behind.rstrip()):
        assert math.isclose(found, float(number[1]), rel_tol=1e-8)


INTERACTIVE = [name for name, module in MODULES.items() if any(">>>" in text for text in docstrings(module))]


@pytest.mark.parametrize("name", INTERACTIVE)
def test_interactive_examples_give_what_stands_below_them(name):
    module = MODULES[name]
    given = {**names_of(module), "jnp": jax.numpy}
    tests = [test for test in doctest.DocTestFinder().find(module, globs=given) if test.examples]
    assert tests
    for test in tests:
        assert not any("SKIP" in str(example.options) or "SKIP" in example.source for example in test.examples)
        assert doctest.DocTestRunner().run(test).failed == 0, test.name


def test_there_are_examples():
    assert len(EXAMPLES) >= 20
    assert len(INTERACTIVE) >= 3
    assert len(CHECKS) >= 14
