"""The code behind the classes of a run that are not the package's own: edited, it makes another run.

What is hashed of a class is its source without comments, docstrings and formatting, and with it whatever that refers
to: functions, classes and values of its module and of other modules of the user's, and so on from there; of
module-level numbers, strings and arrays also the values themselves, wherever they come from. It is no file's hash, so
that an experiment may be edited beside the format that it defines; and no module's name is in it, so that code may be
moved.
Of classes the plain attributes are in it as well, and of those made in a function what they hold of it.

Not followed: packages that are installed, but for the one that the class is from; names looked up while code runs, as
by `getattr`; and files that a function reads when it is called.
"""

import ast
import hashlib
import importlib
import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import jax
import numpy as np

from capscale.errors import UserError
from capscale.formats.serialize import to_json
from capscale.train.parsed import Import, Parsed, Space, imported, parsed, plain_tree

OWN = "capscale"
"""The package whose code a run's id holds by version, not by content."""


def code_of(value: Any) -> dict[str, str]:
    """Hashes of the code of each foreign class in a value, 16 hex digits, by the path of its instance.

    Raises `UserError` for a class whose source cannot be found: of a notebook, of a prompt, or made as the code runs.
    """
    return {path: _hash(cls) for path, cls in _classes(value, "") if _top(cls.__module__) != OWN}


def _classes(value: Any, path: str) -> Iterator[tuple[str, type]]:
    if isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from _classes(item, f"{path}[{number}]")
    elif is_dataclass(value) and not isinstance(value, type):
        yield path, type(value)
        for field in fields(value):
            yield from _classes(getattr(value, field.name), f"{path}.{field.name}".removeprefix("."))


def _hash(cls: type) -> str:
    graph = _Graph(_top(cls.__module__))
    root = graph.of_class(cls)
    return hashlib.sha256(json.dumps([root, graph.nodes], sort_keys=True).encode()).hexdigest()[:16]


class _Graph:
    """Names that code refers to, each a node: its statements, its value where that is plain, and what it refers to.

    Nodes are numbered in the order of a walk from the class, so that equal code gives equal graphs.
    """

    def __init__(self, package: str):
        self.nodes: list[Any] = []
        self._package = package
        self._numbers: dict[tuple[int, str], int] = {}
        self._sources: dict[int, Parsed] = {}
        self._sought: set[tuple[int, str]] = set()

    def of_class(self, cls: type) -> Any:
        """A class with its bases, and what its methods hold of the function that it was made in."""
        bases = [base for base in cls.__mro__ if base is cls or self._is_followed(_space_of(base))]
        return [
            [self._of_definition(base), self._which(base), _attributes(base), self._closures(base)] for base in bases
        ]

    def _which(self, cls: type) -> list[int]:
        """Which of several classes of its name in one statement, such as on two sides of an `if`, a class is."""
        made = self._source(_space_of(cls)).made.get(_first(cls), [])
        nodes = [node for statement in made for node in ast.walk(statement)]
        found = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
        lines = {function.__code__.co_firstlineno for function in _functions(cls) if _is_inside(function, cls)}
        return [n for n, node in enumerate(found) if any(node.lineno <= i <= (node.end_lineno or 0) for i in lines)]

    def _of_definition(self, thing: Any) -> int:
        number = self._reference(_space_of(thing), _first(thing))
        if not isinstance(number, int):
            raise UserError(
                f"{thing.__qualname__} is not defined in the source of module {thing.__module__!r}, and a run's id "
                "holds the code of its formats: define it in a .py file, by a class statement"
            )
        return number

    def _closures(self, thing: Any) -> dict[str, Any]:
        """Values of names that methods take from the function around their class."""
        found = {}
        for function in (function for function in _functions(thing) if _is_inside(function, thing)):
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
                if cell.cell_contents is thing or name in found:  # itself, for super()
                    continue
                found[name] = self._closed_over(cell.cell_contents)
                if found[name] is None:
                    shown = str(cell.cell_contents)[:80]
                    raise UserError(
                        f"{thing.__qualname__} takes {name}={shown} from the function around it, which a run's id "
                        "cannot hold; make it a field of the class"
                    )
        return found

    def _closed_over(self, value: Any) -> Any:
        if not isinstance(value, type | FunctionType):
            return _value(value)
        if not self._is_followed(_space_of(value)):
            return f"{_top(value.__module__)}:{value.__qualname__}"
        return self.of_class(value) if isinstance(value, type) else [self._of_definition(value), self._closures(value)]

    def _reference(self, space: Space, name: str) -> int | str | ModuleType | None:
        """A name of a module: the number of its node, the module it stands for, or words for what is not followed."""
        if name.startswith("__") or (id(space), name) in self._sought:
            return None  # modules that import all names of one another have none of it
        source = self._source(space)
        if name in source.made:
            return self._node(space, name)
        if name in source.imports:
            return self._imported(space, source.imports[name])
        for star in source.starred:
            module = _module(space, star)
            if module is not None and name in vars(module):
                self._sought.add((id(space), name))
                found = self._imported(space, star._replace(name=name))
                self._sought.discard((id(space), name))
                return found
        return None

    def _source(self, space: Space) -> Parsed:
        if id(space) not in self._sources:
            self._sources[id(space)] = parsed(space)
        return self._sources[id(space)]

    def _imported(self, space: Space, what: Import) -> int | str | ModuleType | None:
        module, name = _module(space, what), what.name
        if name is not None:
            submodule = _module(space, Import(f"{what.module}.{name}".strip("."), None, what.level))
            if module is None or not isinstance(vars(module).get(name, submodule), ModuleType):
                if module is not None and self._is_followed(vars(module)):
                    return self._reference(vars(module), name)
                return f"{_top(what.module)}:{name}"
            module = vars(module).get(name, submodule)
        return module if module is not None and self._is_followed(vars(module)) else f"{_top(what.module)}:{name or ''}"

    def _node(self, space: Space, name: str) -> int:
        key = id(space), name
        if key not in self._numbers:
            self._numbers[key] = len(self.nodes)
            self.nodes.append(None)
            source, uses = self._source(space), {}
            for statement in source.made[name]:
                inner = [node for node in ast.walk(statement) if isinstance(node, ast.Import | ast.ImportFrom)]
                aliases = {alias: what for node in inner for alias, what in imported(node).items()}
                for used in sorted(source.used(statement) - {name} | set(aliases)):
                    here = aliases.get(used)
                    found = self._reference(space, used) if here is None else self._imported(space, here)
                    if found is not None:
                        uses[used] = self._parts(found, statement, used) if isinstance(found, ModuleType) else found
            statements = [plain_tree(statement) for statement in source.made[name]]
            self.nodes[self._numbers[key]] = [statements, _value(space.get(name)), uses]
        return self._numbers[key]

    def _parts(self, module: ModuleType, statement: ast.stmt, name: str) -> Any:
        """Names that a statement uses of a module called `name`; all, where the module itself is passed on."""
        chains, inside = [], set()
        for node in ast.walk(statement):
            attributes, root = [], node
            while isinstance(root, ast.Attribute):
                attributes, root = [root.attr, *attributes], root.value
            if isinstance(root, ast.Name) and root.id == name and id(root) not in inside:
                inside.add(id(root))  # the walk meets the longest chain first
                chains.append(attributes)
        parts = {}
        for chain in sorted(chains):
            part: Any = module
            for attribute in chain:
                if isinstance(part, ModuleType) and self._is_followed(vars(part)):
                    inner = vars(part).get(attribute)
                    part = inner if isinstance(inner, ModuleType) else self._reference(vars(part), attribute)
            if isinstance(part, ModuleType):
                part = self._all(part) if self._is_followed(vars(part)) else f"{_top(part.__name__)}:"
            parts[".".join(chain)] = part
        return parts

    def _all(self, module: ModuleType) -> dict[str, Any]:
        return {name: self._node(vars(module), name) for name in sorted(self._source(vars(module)).made)}

    def _is_followed(self, space: Space) -> bool:
        """Whether code is the user's to edit: neither this package's nor installed, unless with the class itself."""
        name = str(space.get("__name__", ""))
        if _top(name) in (OWN, "builtins"):
            return False
        place = space.get("__file__") or next(iter(space.get("__path__", ())), None)
        if place is None or (space.get("__file__") and Path(place).suffix not in (".py", "")):
            return False
        return _top(name) == self._package or not _is_installed(Path(place).resolve())


@cache
def _installation() -> set[Path]:
    return {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def _is_installed(place: Path) -> bool:
    folders = _installation()
    return bool({"site-packages", "dist-packages"} & set(place.parts)) or bool(folders & set(place.parents))


def _top(module: str) -> str:
    return module.partition(".")[0]


def _module(space: Space, what: Import) -> ModuleType | None:
    """The module of an import statement, imported if it is the user's and was not yet; None if there is none."""
    try:
        name = importlib.util.resolve_name("." * what.level + what.module, space.get("__package__"))
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or _is_installed(Path(spec.origin).resolve()):
            return None
        return importlib.import_module(name)
    except (ImportError, ValueError, AttributeError):
        return None


def _space_of(thing: Any) -> Space:
    """Names of the module that a class or function was made in. Another module may have taken its name since."""
    spaces = (function.__globals__ for function in _functions(thing))
    here = next((space for space in spaces if space.get("__name__") == thing.__module__), None)
    return vars(sys.modules[thing.__module__]) if here is None and thing.__module__ in sys.modules else here or {}


def _functions(thing: Any) -> Iterator[FunctionType]:
    """Functions in a class, or a function itself, and those that decorators have put something around."""
    for found in vars(thing).values() if isinstance(thing, type) else [thing]:
        parts = [found, *(getattr(found, name, None) for name in ("fget", "fset", "func", "__func__"))]
        while parts:
            part = parts.pop(0)
            if isinstance(part, FunctionType):
                yield part
            if (inner := getattr(part, "__wrapped__", None)) is not None:
                parts.append(inner)


def _is_inside(function: FunctionType, thing: Any) -> bool:
    """Whether a function is written in that class, or is that function."""
    return function is thing or function.__code__.co_qualname.startswith(f"{thing.__qualname__}.")


def _first(thing: Any) -> str:
    """The name at the top level of a module that a class or function is written under."""
    return thing.__qualname__.partition(".")[0]


def _attributes(cls: type) -> dict[str, Any]:
    """Plain values that a class has, whoever gave it them."""
    found = {name: _value(value) for name, value in vars(cls).items() if not name.startswith("__")}
    return {name: value for name, value in found.items() if value is not None}


def _value(value: Any) -> Any:
    """A number, string, array or collection of them as JSON; None for what is nothing of the kind.

    A string that is a place on this machine is none: elsewhere the same code has another.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        is_place = isinstance(value, str) and os.path.isabs(value)
        return None if is_place else [type(value).__name__, repr(value)]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        return ["array", str(array.dtype), list(array.shape), hashlib.sha256(content).hexdigest()]
    items = value.items() if isinstance(value, dict) else value
    if isinstance(value, dict | set | frozenset | tuple | list):
        found = [_value(item) for item in items]
        return [type(value).__name__, sorted(found, key=repr) if isinstance(value, set | frozenset) else found]
    try:
        return to_json(value)
    except UserError:
        return None
