"""Catalog: short names for the formats that tables and commands speak of."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

from capscale.errors import UserError

from .base import Format, per_row
from .compose import Sparse, Then
from .dense import Dense
from .grids import Int
from .scalar import Scalar
from .sparse import NM, TopK

PATTERNS = ((1, 2), (1, 4), (2, 4), (3, 4), (4, 8))
ROW = "-row"  # suffix of the variant that works row by row, as activations need
PRUNED_PERCENT = (10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90)


def _entries() -> dict[str, Format]:
    entries: dict[str, Format] = {"dense": Dense()}
    entries |= {f"int{b}": Scalar(Int(b)) for b in range(1, 9)}
    entries |= {f"top{p}": TopK(p / 100) for p in PRUNED_PERCENT}
    entries |= {f"{n}:{m}": NM(n, m) for n, m in PATTERNS}
    entries |= {
        f"{first}+{second}": _then(entries, first, second) for first in ("2:4", "top50") for second in ("int4",)
    }
    return entries


def _then(entries: Mapping[str, Format], first: str, second: str) -> Then:
    sparse, scalar = entries[first], entries[second]
    if not isinstance(sparse, Sparse) or not isinstance(scalar, Scalar):
        raise UserError(f"format {first}+{second}: A+B means a sparsity A, then a scalar format B, such as 2:4+int4")
    return Then(sparse, scalar)


FORMATS: Mapping[str, Format] = MappingProxyType(_entries())
"""Every named format, in the order tables print them."""


def find(name: str) -> Format:
    """The format called `name`; `A+B` is A then B, `A-row` is A row by row. Unknown names are refused."""
    if name in FORMATS:
        return FORMATS[name]
    if name.endswith(ROW):
        return per_row(find(name.removesuffix(ROW)))
    first, plus, second = name.partition("+")
    if plus and first in FORMATS and second in FORMATS:
        return _then(FORMATS, first, second)
    close = get_close_matches(name, FORMATS, n=3, cutoff=0.4)
    hint = f"; closest: {', '.join(close)}" if close else ""
    raise UserError(f"unknown format {name!r}{hint}; `capscale gmse` lists all, and A+B means a sparsity A, then B")


def label(format: Format) -> str:
    """Name of a format: its catalog name, `A+B` of a composition, or its repr."""
    if format in _NAMES:
        return _NAMES[format]
    if isinstance(format, Then) and format == Then(format.sparse, format.scalar):
        return f"{label(format.sparse)}+{label(format.scalar)}"
    return repr(format)


_NAMES = {per_row(format): name + ROW for name, format in FORMATS.items()}
_NAMES |= {format: name for name, format in FORMATS.items()}
