"""Python files from outside, run as modules: experiments, laws."""

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from capscale.errors import UserError


def load_file(path: Path, kind: str) -> ModuleType:
    """The module that the file makes; `kind` is what errors call it, such as "experiment".

    Raises UserError where there is no such file, or what it raises names a line of it.
    """
    if not path.is_file():
        raise UserError(f"{kind} file {str(path)!r} does not exist; check the path")
    spec = importlib.util.spec_from_file_location(f"capscale_{kind}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses defined in the file look their module up here
    with errors_named(f"{kind} {str(path)!r}", str(spec.origin), own=True):
        spec.loader.exec_module(module)
    return module


@contextmanager
def errors_named(name: str, file: str, *, own: bool) -> Iterator[None]:
    """Turns what the code of a file raises into a `UserError` that names `name` and the line of the file.

    What is raised without that file's doing is raised on, unless the file is the user's `own`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if isinstance(error, SyntaxError):
            place = f"{error.filename}, line {error.lineno}"
        elif lines:
            place = f"{file}, line {lines[-1]}"
        elif own:
            place = file  # such as a `runs` that takes other arguments
        else:
            raise
        raise UserError(f"{name} cannot be read: {type(error).__name__}: {error} ({place}); mend the file") from error
