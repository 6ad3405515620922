"""Checks of the fields of a value where it is made: numbers, flags, words.

A frozen dataclass calls these in `__post_init__`, so that whatever it holds can be computed with and written as JSON.
Each takes the instance and the names of its fields, and raises `UserError` that names class, field and value.
"""

import struct
import sys
from collections.abc import Collection
from typing import Any, NamedTuple

from capscale.errors import UserError

LARGEST = 3.4028234663852886e38
"""The largest number of float32, in which models are computed (IEEE 754)."""
SMALLEST = 1.1754943508222875e-38
"""The smallest number above zero that XLA does not take for zero in float32 (IEEE 754: the smallest normal one)."""
LARGEST_WHOLE = 2**31 - 1
"""The largest int32: steps, seeds and indices are such."""
LARGEST_COUNT = 2**63 - 1
"""The largest int64, for counts of bytes and tokens on disk."""


class Bounds(NamedTuple):
    """Where a number may lie: `least` and `most` are closed, `above` and `below` open."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, number: float) -> bool:
        """Whether a number lies there."""
        low = (self.least is None or number >= self.least) and (self.above is None or number > self.above)
        return low and (self.most is None or number <= self.most) and (self.below is None or number < self.below)

    def __str__(self) -> str:
        words = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound:,}" for word, bound in words.items() if bound is not None)


def check_real(value: object, *names: str, optional: bool = False, **bounds: float) -> None:
    """Fields that hold a finite number within `Bounds`, and still do in float32: 1 - 1e-9 is not below 1 there.

    None passes where it is `optional`.
    """
    for name in names:
        found = getattr(value, name)
        if found is not None or not optional:
            _check_real(found, _of(value, name), Bounds(**bounds))


def check_reals(value: object, name: str, **bounds: float) -> None:
    """A field that holds a tuple of such numbers."""
    found = getattr(value, name)
    if not isinstance(found, tuple):
        raise UserError(f"{_of(value, name)} must be a tuple of numbers, not {type(found).__name__}")
    for number in found:
        _check_real(number, f"{_of(value, name)}: {number!r}", Bounds(**bounds))


def check_finite(value: object, *names: str, optional: bool = False, **bounds: float) -> None:
    """Fields that hold a finite number within `Bounds`, for what is computed in float64; see `check_real`."""
    for name in names:
        found = getattr(value, name)
        if found is not None or not optional:
            check_number(found, _of(value, name), **bounds)


def check_number(number: object, place: str, **bounds: float) -> None:
    """A finite number of float64 within `Bounds`; `place` says in an error which one it is."""
    if not (limits := Bounds(**bounds)).hold(_finite(number, place, sys.float_info.max)):
        raise UserError(f"{place} must be {limits}")


def check_whole(value: object, *names: str, least: int = 0, most: int = LARGEST_WHOLE, optional: bool = False) -> None:
    """Fields that hold an integer within closed bounds; None passes where it is `optional`."""
    for name in names:
        found = getattr(value, name)
        if found is None and optional:
            continue
        if isinstance(found, bool) or not isinstance(found, int):
            raise UserError(f"{_of(value, name)} must be a whole number, not {type(found).__name__}; give an int")
        if not least <= found <= most:
            raise UserError(f"{_of(value, name)} must be {Bounds(least, most)}")


def check_flag(value: object, *names: str) -> None:
    """Fields that hold True or False."""
    for name in names:
        if not isinstance(getattr(value, name), bool):
            raise UserError(f"{_of(value, name)} must be True or False")


def check_choice(value: object, name: str, choices: Collection[Any]) -> None:
    """A field that holds one of some words."""
    if getattr(value, name) not in choices:
        raise UserError(f"{_of(value, name)} is unknown; use {' or '.join(repr(choice) for choice in choices)}")


def _check_real(number: object, place: str, bounds: Bounds) -> None:
    found = _finite(number, place, LARGEST)
    if 0 < abs(found) < SMALLEST:
        raise UserError(f"{place} is zero in float32; give at least {SMALLEST:.3g}, or 0")
    opened = bounds._replace(least=None, most=None)  # rounding takes no number across a bound that it may lie on
    if not bounds.hold(found) or not opened.hold(struct.unpack("f", struct.pack("f", found))[0]):
        raise UserError(f"{place} must be {bounds}")


def _finite(number: object, place: str, largest: float) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UserError(f"{place} must be a number, not {type(number).__name__}; give an int or a float")
    if not abs(number) <= largest:  # nor is NaN
        raise UserError(f"{place} must be finite, and at most {largest:.3g} in magnitude")
    return number


def _of(value: object, name: str) -> str:
    shown = repr(getattr(value, name))
    return f"{type(value).__name__}: {name}={shown if len(shown) <= 60 else shown[:57] + '...'}"
