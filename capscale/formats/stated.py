"""Derived properties hold for the definition that states them, not for classes derived from it.

A closed form, a packed layout and a kernel are computed from the stages of a format (`project`, `measure`, `nearest`,
...). A class that overrides a stage computes something else, and has none of them until it states its own:

    class Half(Scalar):                  # neither an exact error, nor a kernel, nor packed storage
        def project(self, x, ctx): ...

    class Renamed(Scalar):               # all three, as no stage differs
        def __str__(self): ...

One that knows an inherited one to hold says so by naming it: `error = Scalar.error`.
"""

from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from typing import Any

CLOSED_FORM = ("error", "survival", "levels", "pieces", "of_maximum", "jumps")
"""Methods that the exact error rests on: of formats, scale rules, sparsities, grids, rules that follow the maximum."""
PACKING = ("layout", "store", "load", "mask_layout", "encode_mask", "decode_mask", "encode", "decode")
"""Methods that packed storage rests on: of formats, sparsities, grids and scale rules."""
KERNEL = ("kernel_spec", "kernel_rule")
"""Methods that the kernel of a projection rests on: of formats and scale rules. Grids are evaluated as they are."""
GIVEN = ("kernel_given",)
"""Numbers that a kernel is given, where its rule reads one of every row."""

_NO_STAGE = frozenset(
    (
        *CLOSED_FORM,
        *PACKING,
        *KERNEL,
        *GIVEN,
        "bits",
        "codes",
        "mask_bits",
        "part_bits",
        "parts",
        "check_grid",
        "granularity",
        "per_row",
        "draws",
    )
)


def unstated(value: Any, derived: tuple[str, ...]) -> str | None:
    """Why none of `derived` holds for `value`, or for a part of it (a field that is a dataclass); None where all do.

    Example: `unstated(Half(Int(4)), CLOSED_FORM)` is "Half overrides project of Scalar and states no error of its own".
    """
    reason = _unstated(type(value), derived)
    if reason is not None or not is_dataclass(value):
        return reason
    parts = (getattr(value, field.name) for field in fields(value))
    return next((found for part in parts if is_dataclass(part) and (found := unstated(part, derived))), None)


@cache
def _unstated(cls: type, derived: tuple[str, ...]) -> str | None:
    for name in derived:
        if not hasattr(cls, name):
            continue
        for depth, line in enumerate(cls.__mro__):
            if name in vars(line):
                break
            for stage in sorted(_stages(line)):
                origin = next((base for base in cls.__mro__[depth + 1 :] if stage in vars(base)), None)
                if origin is not None:
                    return f"{line.__name__} overrides {stage} of {origin.__name__} and states no {name} of its own"
    return None


def _stages(cls: type) -> set[str]:
    """Attributes that a class defines and that values may rest on: no fields, and nothing that is derived itself."""
    own = {field.name for field in fields(cls)} if is_dataclass(cls) else set()
    named = {name: value for name, value in vars(cls).items() if name not in own and name not in _NO_STAGE}
    return {
        name
        for name, value in named.items()
        if name == "__call__" or not name.startswith("_") or (name[1] != "_" and _computes(value))
    }


def _computes(value: Any) -> bool:
    return callable(value) or isinstance(value, property | cached_property)
