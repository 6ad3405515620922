"""Names of before, which are read for one release, with a warning that says the new one."""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def old_names(module: str, new_of_old: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` for names of before.

    Args:
      module: `__name__` of the module.
      new_of_old: its names of before, and which they are now.

    Raises:
      AttributeError: when called with any other name.

    Example: `__getattr__ = old_names(__name__, {"Given": "ExternalScale"})`.
    """

    def get(name: str) -> Any:
        if name not in new_of_old:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_of_old(f"{module}.{name}", f"{module}.{new_of_old[name]}")
        return getattr(sys.modules[module], new_of_old[name])

    return get


def old_attribute(old: str, new: str) -> Any:
    """A property `old` of a class, which reads its attribute `new`.

    Example: `radius = old_attribute("radius", "relative_magnitude")`.
    """

    def get(self: Any) -> Any:
        warn_of_old(f"{type(self).__name__}.{old}", f"{type(self).__name__}.{new}")
        return getattr(self, new)

    return property(get)


def warn_of_old(old: str, new: str, stacklevel: int = 3) -> None:
    """Warns whoever reads the name of before, at the line that reads it."""
    text = f"{old} is now {new}; the old name goes with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)
