"""A module's source, taken apart into the statements that make each of its names."""

import __future__

import ast
import dis
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple

from capscale.errors import UserError

Space = dict[str, Any]
"""Names of a module, with the values they have."""


class Import(NamedTuple):
    """One name of an import statement: `from module import name`, or `import module` where `name` is None."""

    module: str
    name: str | None
    level: int


@dataclass(frozen=True)
class Parsed:
    """Names of a module, as its source defines them.

    Attributes:
      made: top-level statements that bind a name or alter its value in place, by name; plain imports apart.
      imports: plain top-level imports, by the name that they bind.
      starred: modules all of whose names are imported.
      flags: of the compiler, from the module's future imports.
    """

    made: dict[str, list[ast.stmt]]
    imports: dict[str, Import]
    starred: tuple[Import, ...]
    flags: int

    def used(self, statement: ast.stmt) -> set[str]:
        """Names that a statement, and the functions and classes in it, look up in the module."""
        return set(_used(statement, self.flags))


def parsed(space: Space) -> Parsed:
    """The source of the module with these names; `UserError` where it has none that can be read."""
    spec, path = space.get("__spec__"), space.get("__file__")
    try:
        if hasattr(getattr(spec, "loader", None), "get_source"):
            text = spec.loader.get_source(spec.name)  # pyright: ignore[reportOptionalMemberAccess]
        else:
            assert path is not None
            with tokenize.open(path) as file:
                text = file.read()
        if text is not None:
            return _parse(text)
    except (OSError, SyntaxError, ImportError, AssertionError):
        pass
    raise UserError(
        f"module {space.get('__name__')!r} has no source that can be read, and a run's id holds the code of its "
        "formats: define them in a .py file and import them from there"
    )


@lru_cache(maxsize=64)
def _parse(text: str) -> Parsed:
    statements = ast.parse(text).body
    future = [node.names for node in statements if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    flags = 0
    for alias in (alias for names in future for alias in names):
        flags |= getattr(__future__, alias.name).compiler_flag
    found = Parsed({}, {}, tuple(_starred(statements)), flags)
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found.imports.update(imported(statement))
            continue
        for name in _bound(statement, flags) | set(_altered(statement)):
            found.made.setdefault(name, []).append(statement)
    return found


def imported(statement: ast.Import | ast.ImportFrom) -> dict[str, Import]:
    """Names that an import statement binds, but for stars."""
    if isinstance(statement, ast.ImportFrom):
        module, level = statement.module or "", statement.level
        names = [alias for alias in statement.names if alias.name != "*"]
        return {alias.asname or alias.name: Import(module, alias.name, level) for alias in names}
    whole = {alias.asname: Import(alias.name, None, 0) for alias in statement.names if alias.asname}
    tops = [alias.name.partition(".")[0] for alias in statement.names if not alias.asname]
    return whole | {top: Import(top, None, 0) for top in tops}


def _starred(statements: list[ast.stmt]) -> Iterator[Import]:
    for node in statements:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield Import(node.module or "", "*", node.level)


def _bound(statement: ast.stmt, flags: int) -> set[str]:
    outer, *inner = _codes(_compiled(statement, flags))
    names = {step.argval for step in dis.get_instructions(outer) if step.opname in ("STORE_NAME", "STORE_GLOBAL")}
    return names | {s.argval for code in inner for s in dis.get_instructions(code) if s.opname == "STORE_GLOBAL"}


def _altered(statement: ast.stmt) -> Iterator[str]:
    """Names whose value a statement alters in place: `name.append(1)`, `name[0] = 1`, `name.field = 1`."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    for node in ast.walk(statement):
        changed: list[ast.expr] = []
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            changed = [node.value.func]
        elif isinstance(node, ast.Assign | ast.Delete):
            changed = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            changed = [node.target]
        for target in changed:
            root: ast.expr = target
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name) and root is not target:
                yield root.id


@lru_cache(maxsize=4096)
def _used(statement: ast.stmt, flags: int) -> frozenset[str]:
    opcodes = {"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
    codes = _codes(_compiled(statement, flags))
    return frozenset(step.argval for code in codes for step in dis.get_instructions(code) if step.opname in opcodes)


def _compiled(statement: ast.stmt, flags: int) -> CodeType:
    module = ast.Module([statement], [])
    return compile(module, "<statement>", "exec", flags=flags, dont_inherit=True)


def _codes(code: CodeType) -> list[CodeType]:
    """A code object and all in it."""
    return [code, *(inner for found in code.co_consts if isinstance(found, CodeType) for inner in _codes(found))]


def plain_tree(node: Any) -> Any:
    """A piece of source as JSON: without comments, docstrings, places and formatting, the same on every Python."""
    if isinstance(node, list):
        return [plain_tree(item) for item in node]
    if isinstance(node, ast.Constant):
        return ["Constant", type(node.value).__name__, repr(node.value)]
    if not isinstance(node, ast.AST):
        return node
    shown = {}
    for name, value in ast.iter_fields(node):
        kept = [item for item in value if not _is_docstring(item)] if isinstance(value, list) else value
        if isinstance(node, ast.JoinedStr):
            kept = list(_joined(node))
        if name not in ("ctx", "kind", "type_comment") and kept is not None and kept != []:
            shown[name] = plain_tree(kept)
    return [type(node).__name__, shown]


def _joined(node: ast.JoinedStr) -> Iterator[ast.expr]:
    """Parts of an f-string; what stands between its fields is one part, which some Pythons make several of."""
    text = ""
    for part in [*node.values, None]:
        if isinstance(part, ast.Constant):
            text += str(part.value)
            continue
        if text:
            yield ast.Constant(text)
        if part is not None:
            yield part
        text = ""


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
