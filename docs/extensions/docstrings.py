"""Docstrings, which are written as Markdown reads, as the reStructuredText that autodoc takes.

Code in backticks becomes a link where it names something of the reference, and is set as code elsewhere; so are blocks
that stand four columns further in, behind an empty line, or below "Example:".
"""

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

CODE = re.compile(r"``[^`]+``|`[^`]+`")
SPECIAL = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")
MODULE = re.compile(r"^\.\. automodule:: (\S+)", re.M)
FURTHER_IN = 4
"""Columns by which code stands further in than the text before it."""
AHEAD, BEHIND = 400, 600
"""Priorities around napoleon's, which reads "Args:" at 500."""
ATTRIBUTES = ("attribute", "data", "property")
STASH = "docstring of an attribute"
UNSTATED = "Alias for field number"
"""Beginning of what Python says of a NamedTuple's field that has no docstring."""


def inline(text: str, targets: dict[str, str]) -> str:
    """Text with its code marked up, and with what would be markup elsewhere escaped.

    Args:
      text: lines in which a backtick opens or closes code.
      targets: full names of what can be linked to, by the names that docstrings use.
    """
    out, end = [], 0
    for found in CODE.finditer(text):
        code = found[0].strip("`")
        out.append(SPECIAL.sub(r"\\\g<0>", text[end : found.start()]))
        out.append(f":py:obj:`{code} <{targets[code]}>`" if code in targets else f"``{code}``")
        # Markup ends at a space or a sign: an empty escape stands for one.
        out.append("\\ " if text[found.end() : found.end() + 1].isalnum() else "")
        end = found.end()
    return "".join(out) + SPECIAL.sub(r"\\\g<0>", text[end:])


def columns(line: str) -> int:
    """Spaces that a line begins with."""
    return len(line) - len(line.lstrip())


def marked(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each line with its kind: "text", "code", or "session", which is interactive."""
    before, code_column, session = "", None, False
    for previous, line in zip(["", *lines], lines, strict=False):
        if code_column is not None and line.strip() and columns(line) < code_column:
            code_column = None
        session = bool(line.strip()) and (session or line.lstrip().startswith(">>>"))
        if code_column is None and line.strip() and not session:
            example = before.strip() == "Example:" and columns(line) > columns(before)
            within = columns(before) + (2 if before.lstrip().startswith("- ") else 0)
            if example or (before and not previous.strip() and columns(line) >= within + FURTHER_IN):
                code_column = columns(line)
        yield "session" if session else "code" if code_column is not None else "text", line
        before = line if line.strip() else before


def restructured(lines: list[str], targets: dict[str, str]) -> list[str]:
    """Lines of a docstring as reStructuredText; `targets` as `inline` takes them."""
    out: list[str] = []
    for kind, stretch in groupby(marked(lines), key=lambda pair: pair[0]):
        found = [line for _, line in stretch]
        if kind == "text":
            out += inline("\n".join(found), targets).split("\n")
        elif kind == "session":
            out += found
        else:
            if out[-1].strip() == "Example:":  # which napoleon would fill as text
                out[-1] = out[-1].replace("Example:", "**Example**")
            out += ["", " " * (columns(found[0]) - 2) + "::", "", *found, ""]
    return out


def names_of(modules: Iterable[str]) -> dict[str, str]:
    """Full names of the classes, methods and functions that modules define: those that one thing alone is called by.

    A function is left out where its name is one word, such as `project`, which is as often that of a method.
    """
    out: dict[str, list[str]] = {}
    for name in modules:
        for key, value in vars(importlib.import_module(name)).items():
            if key.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            if inspect.isclass(value) or "_" in key:
                out.setdefault(key, []).append(f"{name}.{key}")
            if inspect.isclass(value):
                for method, found in vars(value).items():
                    if callable(found) and not method.startswith("_"):
                        out.setdefault(f"{key}.{method}", []).append(f"{name}.{key}.{method}")
    return {key: places[0] for key, places in out.items() if len(places) == 1}


@cache
def targets(app: Sphinx) -> dict[str, str]:
    """Names of all that the pages of the reference define."""
    pages = sorted((app.srcdir / "docs" / "api").glob("*.rst"))
    return names_of(module for page in pages for module in MODULE.findall(page.read_text(encoding="utf-8")))


def convert(app: Sphinx, what: str, *about: Any) -> None:
    """Replaces the lines of a docstring, which autodoc gives last, by their conversion.

    Of attributes napoleon takes what stands before a colon for the type, so that it is given none of their lines.
    """
    lines = about[-1]
    stated = [] if lines and lines[0].startswith(UNSTATED) else lines
    converted = restructured(stated, targets(app))
    if what in ATTRIBUTES:
        app.env.temp_data[STASH] = converted
        converted = []
    lines[:] = converted


def restore(app: Sphinx, what: str, *about: Any) -> None:
    """Gives attributes their lines, once napoleon is done."""
    if what in ATTRIBUTES:
        about[-1][:] = app.env.temp_data.pop(STASH)


def set_plain(app: Sphinx, env: object, node: pending_xref, shown: nodes.TextElement) -> nodes.TextElement | None:
    """Text in place of a link to what exists and has no page: names of other libraries, and what is internal.

    A name that cannot be imported is a mistake, and stays a warning.
    """
    if node.get("refdomain") != "py":
        return None
    words = node["reftarget"].split(".")
    for end in range(len(words), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(words[:end]))
        except ImportError:
            continue
        for word in words[end:]:
            found = getattr(found, word, None)
        return shown if found is not None else None
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the conversion, around napoleon's."""
    app.connect("autodoc-process-docstring", convert, priority=AHEAD)
    app.connect("autodoc-process-docstring", restore, priority=BEHIND)
    app.connect("missing-reference", set_plain)
    return {"parallel_read_safe": True}
