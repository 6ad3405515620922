"""The laws that ship, by the names that commands know them by, and laws of the user's own files."""

import difflib

from capscale.analysis.law import Law
from capscale.analysis.law_files import is_file, law_in
from capscale.analysis.shipped import SHIPPED
from capscale.errors import UserError

LAWS: dict[str, Law] = {law.name: law for law in SHIPPED}
"""Laws that ship, by name."""


def law_named(name: str) -> Law:
    """The law that ships under `name`, or that of a Python file: `law.py`, or `law.py:NAME` where it has several.

    Raises UserError for a name that no law has, with the closest ones, and for a file without the law.
    """
    if is_file(name):
        return law_in(name)
    if name not in LAWS:
        close = difflib.get_close_matches(name, LAWS, n=3, cutoff=0.4)
        meant = f"did you mean {', '.join(close)}? " if close else ""
        raise UserError(f"law {name!r} is unknown; {meant}The laws are {', '.join(LAWS)}, or give a .py file with one")
    return LAWS[name]
