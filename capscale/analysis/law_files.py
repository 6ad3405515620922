"""A law out of a Python file of the user's."""

from pathlib import Path

from capscale.analysis.law import Law
from capscale.analysis.shipped import SHIPPED
from capscale.errors import UserError
from capscale.outside import load_file


def is_file(name: str) -> bool:
    """Whether a law's name is that of a Python file, with or without `:NAME`."""
    return name.partition(".py:")[1] != "" or name.endswith(".py")


def law_in(text: str) -> Law:
    """The law of the file `PATH.py`, or the one called NAME of `PATH.py:NAME`, by its own name or its variable's.

    The file is run, as a file of experiments is. Laws that it imports count only where they are asked for by name.

    Raises UserError where there is no such file, it raises, or it has no law, or several of which none is named.
    """
    path, colon, name = text.partition(".py:")
    file = Path(path + ".py" if colon else text)
    module = load_file(file, "law")
    found = {variable: value for variable, value in vars(module).items() if isinstance(value, Law)}
    if name:
        named = [law for variable, law in found.items() if name in (variable, law.name)]
        if not named:
            has = ", ".join(law.name for law in found.values()) or "none"
            raise UserError(f"{file} has no law {name!r}; it has {has}")
        return named[0]
    own = {variable: law for variable, law in found.items() if law not in SHIPPED}
    if not own:
        raise UserError(
            f"{file} has no law of its own; end it with one, such as MINE = Law('mine', (A, B, ALPHA, BETA, E), loss, "
            "formula='...', source='...')"
        )
    if len({id(law) for law in own.values()}) > 1:
        names = ", ".join(law.name for law in own.values())
        raise UserError(f"{file} has several laws, {names}; choose one: {file}:{next(iter(own.values())).name}")
    return next(iter(own.values()))
