"""Names of nested integers: `nested-8-4-2`, with groups, weights of the losses, and the slice that is held."""

import re

from .affine import Range
from .nested import Nested
from .scale import Absmax


def read_nested(found: re.Match[str]) -> Nested:
    """The format of a match of the rule in `spelling`."""
    return Nested(
        tuple(int(width) for width in found["widths"].split("-")),
        Absmax() if found["rule"] else Range(),
        int(found["group"]) if found["group"] else "row",
        tuple(float(weight) for weight in found["weights"].split("-")[1:]) if found["weights"] else (),
        int(found["at"]) if found["at"] else None,
    )


def nested_name(format: Nested) -> str:
    """Name of nested integers, which that rule reads."""
    rule = "absmax-" if isinstance(format.scale, Absmax) else ""
    group = "" if format.group == "row" else f"-g{format.group}"
    weights = "".join(f"-{weight:g}" for weight in format.weights)
    slice_ = "" if format.at is None else f"-at{format.at}"
    widths = "-".join(map(str, format.widths))
    return f"{rule}nested-{widths}{group}{f'-weighted{weights}' if weights else ''}{slice_}"
