"""Whether a checkpoint that cannot be read is damaged, or its storage or this machine fails for a while."""

import re

from jax.errors import JaxRuntimeError

_SIGNS = (ValueError, LookupError, AssertionError, EOFError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors of orbax, tensorstore and the readers of JSON for files that are cut short, altered or missing."""

_PASSING = re.compile(
    r"\b(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE"
    r"|UNIMPLEMENTED|UNKNOWN): "
)
"""Status that tensorstore writes ahead of the message of its `ValueError`s, where it is none of the file's content: see
https://github.com/abseil/abseil-cpp/blob/master/absl/status/status.h. An input/output error is UNKNOWN to it."""


def is_damage(error: BaseException) -> bool:
    """Whether `error`, raised by reading a checkpoint, is a sign of damage, and nothing behind it is passing.

    What nobody has thought of is no sign: a good checkpoint that is given up costs more than a start tried again.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_damage(part) for part in error.exceptions)
    if type(error) is Exception and error.__cause__ is not None:  # orbax says so which part of an array it was reading
        return is_damage(error.__cause__)
    return isinstance(error, _SIGNS) and not any(_is_passing(link) for link in _links(error))


def _is_passing(error: BaseException) -> bool:
    """Whether an error says of itself that the machine, the storage or the right to read it was wanting."""
    if isinstance(error, OSError):
        return not isinstance(error, _SIGNS)
    return isinstance(error, (MemoryError, JaxRuntimeError)) or bool(_PASSING.search(str(error)))


def _links(error: BaseException) -> list[BaseException]:
    """The error, what it was raised from or beside, and so on; the parts of groups as well."""
    found, left = [], [error]
    while left:
        link = left.pop()
        if link not in found:
            found.append(link)
            parts = link.exceptions if isinstance(link, BaseExceptionGroup) else ()
            left += [behind for behind in (link.__cause__, link.__context__, *parts) if behind is not None]
    return found
