"""Ladders of one's own: a JSON file of sizes, or a Python file that makes a `Ladder`.

    {"name": "mine", "batch": 8,
     "shared": {"layers": 2, "heads": 1, "context": 64, "multiple_of": 8, "tied_embeddings": true},
     "sizes": {"mine-8": {"width": 8, "learning_rate": 0.05}, "mine-16": {"width": 16, "learning_rate": 0.025}}}

Fields of a size, or of `shared`, are those of `ModelConfig` but for the vocabulary, which is the text's, and
`learning_rate`. A size's own field goes before the shared one. A Python file says `LADDER = Ladder(...)`.

Experiments of the paper take the recipe of the ladder from the first word of its name: nano-..., micro-..., and the
paper's for all others (`capscale.train.grid`).
"""

import difflib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from etils import epath

from capscale.errors import UserError
from capscale.files import unreadable
from capscale.models.config import ModelConfig
from capscale.models.ladder import LADDERS, Ladder, ladder
from capscale.outside import load_file

SUFFIXES = (".json", ".py")
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names that can stand in a label, a table and a job."""
NOT_IN_JSON = ("vocabulary", "rope_scaling")
SHAPE = tuple(field.name for field in fields(ModelConfig) if field.name not in NOT_IN_JSON)
NEEDED = tuple(f.name for f in fields(ModelConfig) if f.default is MISSING and f.name not in NOT_IN_JSON)
RATE = "learning_rate"


def find_ladder(name: str) -> Ladder:
    """The ladder of a name, or of a file of one's own.

    Raises:
      UserError: a name that is unknown, or a file that is none, naming its size and field and what is near to it.
    """
    if not name.endswith(SUFFIXES):
        return ladder(name)
    found = _of_python(name) if name.endswith(".py") else _of_json(name)
    _check_name(found.name, LADDERS, f"ladder file {name!r}: name", "ladder")
    if not found.sizes:
        raise UserError(f"ladder file {name!r} has no sizes; add one")
    if set(found.sizes) != set(found.learning_rates):
        raise UserError(f"ladder file {name!r}: sizes and learning rates must have the same names; add what is missing")
    known = {size: of for of in LADDERS.values() for size in of.sizes}
    for size in found.sizes:
        _check_name(size, known, f"ladder file {name!r}: size", "size")
    return found


def _check_name(name: object, taken: Collection[str], where: str, kind: str) -> None:
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        raise UserError(f"{where} {name!r} must be letters, digits, points, hyphens and underscores")
    if name in taken:
        raise UserError(f"{where} {name!r} is that of a {kind} that comes with capscale; choose another")


def _of_python(path: str) -> Ladder:
    module = load_file(Path(path), "ladder")
    found = getattr(module, "LADDER", None)
    if not isinstance(found, Ladder):
        raise UserError(f"ladder file {path!r} defines no LADDER = Ladder(...) of capscale.models.ladder; add one")
    return found


def _of_json(path: str) -> Ladder:
    where = f"ladder file {path!r}"
    content = _read(path, where)
    _check_fields(content, ("name", "batch", "sizes", "shared"), ("name", "batch", "sizes"), where)
    shared, sizes = content.get("shared", {}), content["sizes"]
    for field, value in (("shared", shared), ("sizes", sizes)):
        if not isinstance(value, dict):
            raise UserError(f"{where}: {field} is {type(value).__name__}, not an object of fields; mend it")
    _check_fields(shared, (*SHAPE, RATE), (), f"{where}: shared")
    models, rates = {}, {}
    for size, own in sizes.items():
        place = f"{where}: size {size!r}"
        if not isinstance(own, dict):
            raise UserError(f"{place} is {type(own).__name__}, not an object of fields; mend it")
        _check_fields(own, (*SHAPE, RATE), (), place)
        told = {**shared, **own}
        _check_fields(told, (*SHAPE, RATE), (*NEEDED, RATE), place)
        rates[size] = told.pop(RATE)
        if isinstance(told.get("biases"), list):
            told["biases"] = tuple(told["biases"])
        models[size] = _named(place, lambda told=told: ModelConfig(**told, vocabulary=1))
    return _named(where, lambda: Ladder(content["name"], models, rates, content["batch"]))


def _named(place: str, make: Any) -> Any:
    """The value that `make` gives; its error names the place that it was read from."""
    try:
        return make()
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _read(path: str, where: str) -> Mapping[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UserError(f"{where} says {key!r} twice in one object; drop one")
            found[key] = value
        return found

    file = epath.Path(path)
    try:
        value = json.loads(file.read_bytes(), object_pairs_hook=once)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{where} does not exist; check the path") from error
    except OSError as error:
        raise UserError(unreadable(file, error)) from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deep; give an object of name, batch and sizes") from error
    except ValueError as error:
        raise UserError(f"{where} is not readable JSON ({str(error)[:120]}); mend it") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} holds {type(value).__name__}, not an object of name, batch and sizes; mend it")
    return value


def _check_fields(found: Collection[str], possible: Collection[str], needed: Collection[str], where: str) -> None:
    for field in found:
        if field not in possible:
            close = difflib.get_close_matches(field, possible, n=2, cutoff=0.5)
            guess = f"did you mean {' or '.join(close)}? " if close else ""
            raise UserError(f"{where} has an unknown field {field!r}; {guess}The fields are {', '.join(possible)}")
    if missing := [field for field in needed if field not in found]:
        raise UserError(f"{where} lacks {', '.join(missing)}; add it")
