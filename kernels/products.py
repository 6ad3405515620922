"""Which product layers of two compressed operands take: that of their values, or of their codes.

`CAPSCALE_PRODUCTS` chooses: "values" (default); "codes", which is refused where a format has none that matrix units
take; or "auto": codes where they were estimated faster on this chip for such rows (`estimated`), values elsewhere.
"""

from collections.abc import Hashable
from contextlib import AbstractContextManager
from math import prod
from typing import Literal, cast, get_args

import jax

from . import dispatch
from .config import PRODUCTS, setting
from .estimated import slower_codes
from .matmul.codes import Kind, Pair
from .mesh import automatic_axes, dividing

Products = Literal["values", "auto", "codes"]

# Part of jit's cache key, so that a function traced under one is traced again under another.
_MODE = jax.make_user_context(None)

_told: set[Hashable] = set()
_taken: set[Kind] = set()


def force(mode: Products) -> AbstractContextManager[None]:
    """Context in which `mode` stands in place of `CAPSCALE_PRODUCTS`; in this thread, and in what is traced here."""
    return _MODE(_checked(mode, "force"))


def mode() -> Products:
    """The mode in force: that of the innermost `force`, else the environment's. A bad value raises ValueError."""
    forced = _MODE.value
    if forced is not None:
        return cast(Products, forced)
    given = setting(PRODUCTS)
    return "values" if given is None else _checked(given, PRODUCTS)


def faster(pair: Pair, width: int, rows: int, detail: str) -> bool:
    """Whether "auto" multiplies codes for rows of `width` inputs, of which devices have a share each; logged once."""
    own = rows_of_device(rows)
    reason = slower_codes(dispatch.chip(), pair, width, own)
    told = f"codes in {pair.kind}" if reason is None else f"values, as {reason}"
    tell(f"{own} rows of {width}, {detail}: {told}")
    return reason is None


def rows_of_device(rows: int) -> int:
    """Rows that a device of the context mesh has of so many."""
    mesh, auto = automatic_axes()
    return rows // prod(mesh.shape[axis] for axis in dividing(mesh, auto, rows))


def take(kind: Kind) -> None:
    """Notes that a program multiplies codes, for `decisions`."""
    _taken.add(kind)


def tell(message: str) -> None:
    """Logs a choice once in this process."""
    if message not in _told:
        _told.add(message)
        dispatch.logger.info("product %s", message)


def decisions() -> str:
    """Products of codes that programs of this process were traced with, `product int8`; empty where there are none."""
    return f"product {' and '.join(sorted(_taken))}" if _taken else ""


def _checked(value: str, source: str) -> Products:
    if value not in get_args(Products):
        raise ValueError(f"{source}={value!r}: use {', '.join(get_args(Products))}")
    return cast(Products, value)
