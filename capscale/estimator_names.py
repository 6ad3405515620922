"""Estimators as text and back: in tables, labels and on the command line.

    straight-through   clip 1.3        trust            trust-radius 0.3186    hypersphere 1.2    lsq
    fw                 rms 0.1         b-rms 0.1        a-b-rms 0.5            through-scale      fw+trust

A field at its default may be left out: `trust` is `trust 0.5`. `A+B` is `Both(A, B)`, `A+rotated B` is
`BothRotated(A, B)`. What earlier versions wrote (`straight_through`, `abrms(a=0.5)`) is read as what it was.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, cast

from capscale.errors import UserError
from capscale.estimators import (
    ABRms,
    Both,
    BRms,
    Clip,
    Estimator,
    ForwardMask,
    Hypersphere,
    Lsq,
    RmsThreshold,
    StraightThrough,
    ThroughScale,
    Trust,
    TrustRadius,
)
from capscale.estimators_rotated import BothRotated

NAMES: Mapping[str, type[Any]] = {
    "straight-through": StraightThrough,
    "clip": Clip,
    "trust": Trust,
    "trust-radius": TrustRadius,
    "hypersphere": Hypersphere,
    "lsq": Lsq,
    "fw": ForwardMask,
    "rms": RmsThreshold,
    "b-rms": BRms,
    "a-b-rms": ABRms,
    "through-scale": ThroughScale,
}
"""Every estimator of the package with at most one field, by its name."""

ROTATED = "rotated "  # prefix of B in A+B
_CLASSES: Mapping[type[Any], str] = {cls: name for name, cls in NAMES.items()}
_EARLIER: Mapping[str, Callable[..., Any]] = {
    "straight_through": StraightThrough,
    "forward_mask": ForwardMask,
    "brms": BRms,
    "abrms": lambda a: ABRms(1 - a),  # `a` was the share that passed
    "both": lambda: Both(StraightThrough(), Trust()),
}
_CALL = re.compile(r"(?P<name>[a-z_]+)(\((?P<field>[a-z]+)=(?P<value>[^()=,]+)\))?")


def estimator_name(estimator: Estimator) -> str:
    """Text of an estimator, which `find_estimator` reads; of a class from outside its name and the fields it has.

    Example:
      >>> estimator_name(Clip(1.3)), estimator_name(Both(ForwardMask(), Trust()))
      ('clip 1.3', 'fw+trust')
    """
    if type(estimator) in (Both, BothRotated):
        both = cast(Both | BothRotated, estimator)
        prefix = ROTATED if type(estimator) is BothRotated else ""
        return f"{estimator_name(both.sparse)}+{prefix}{estimator_name(both.grid)}"
    shown = [f for f in fields(estimator) if getattr(estimator, f.name) != f.default]  # pyright: ignore[reportArgumentType]
    if type(estimator) in _CLASSES:
        return " ".join([_CLASSES[type(estimator)], *(f"{getattr(estimator, f.name)}" for f in shown)])
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(estimator).__name__).lower()
    values = ", ".join(f"{f.name}={getattr(estimator, f.name)}" for f in shown)
    return f"{name}({values})" if values else name


def find_estimator(text: str) -> Estimator:
    """The estimator that `text` names. Raises `UserError` with the names there are, or with what a number must be.

    Example:
      >>> find_estimator("clip 1.3"), find_estimator("fw+trust")
      (Clip(scale=1.3), Both(sparse=ForwardMask(), grid=Trust(threshold=0.5)))
    """
    first, plus, second = text.partition("+")
    if plus:
        both = BothRotated if second.strip().startswith(ROTATED) else Both
        return both(find_estimator(first), find_estimator(second.strip().removeprefix(ROTATED)))
    name, _, value = text.strip().partition(" ")
    cls = NAMES.get(name)
    if cls is None:
        earlier = _earlier(text.strip())
        if earlier is None:
            raise UserError(f"unknown estimator {text!r}; there are {', '.join(NAMES)}, and A+B of two of them")
        return earlier
    own = fields(cls)
    if not value.strip():
        if any(f.default is MISSING for f in own):
            raise UserError(f"estimator {text!r} needs a number: {own[0].name}, such as '{name} 0.1'")
        return cls()
    if not own:
        raise UserError(f"estimator {name!r} has no number, but {text!r} gives one")
    return cls(value.strip() if cls is ThroughScale else _number(value, text))


def split_name(text: str) -> tuple[str, str]:
    """`top50 [fw]` as its format's and its estimator's name; the latter is empty where there is none."""
    name, bracket, rest = text.partition("[")
    if not bracket:
        return text.strip(), ""
    estimator = rest.strip().removesuffix("]").strip()
    if not rest.strip().endswith("]") or not estimator or not name.strip():
        raise UserError(f"{text!r}: write FORMAT or FORMAT [ESTIMATOR], such as 'top50 [fw]'")
    return name.strip(), estimator


def _earlier(text: str) -> Estimator | None:
    match = _CALL.fullmatch(text)
    make = None if match is None else _EARLIER.get(match["name"]) or NAMES.get(match["name"])
    if match is None or make is None:
        return None
    try:
        return make() if match["field"] is None else make(**{match["field"]: _number(match["value"], text)})
    except TypeError:
        return None


def _number(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UserError(f"estimator {text!r}: {value.strip()!r} is no number") from error
