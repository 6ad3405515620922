"""English prose that every Python carries: the docstrings and help topics of its own standard library."""

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"})
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def standard_library_text() -> bytes:
    """About 2 MB of prose, UTF-8: module docstrings in path order, then `pydoc`'s help topics.

    Sources are parsed, never imported. The text depends on the Python patch version, so whoever trains
    on it records its hash.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    documents = [
        "\n\n".join(_docstrings(path))
        for path in sorted(root.rglob("*.py"))
        if not _SKIPPED.intersection(path.relative_to(root).parts)
    ]
    from pydoc_data.topics import topics

    documents += [topics[name] for name in sorted(topics)]
    return "\n\n\n".join(document for document in documents if document).encode()


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of one source file in source order; nothing for a file this Python cannot parse."""
    try:
        with warnings.catch_warnings(action="ignore"):  # old escapes; the text must not depend on -W flags
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # deliberately broken fixtures of the standard library
        return
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield inspect.cleandoc(docstring)
