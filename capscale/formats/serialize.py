"""Frozen dataclasses as JSON and back: the class name and its fields, nothing executable.

Run ids are hashes of this JSON, and stored results hold it, so a class that changes says how:

- `JSON_ADDED`, a class variable, maps a field that came later to the value that reproduces what was before. A field of
  that value is not written, and one that is missing is read as that value: unchanged runs keep their ids.
- `JSON_VERSION`, a class variable, is raised where the same fields come to mean something else: ids change with it, and
  JSON of another version is refused.
- `JSON_NAME`, a class variable, is the name that a class had before it was renamed, and keeps in JSON;
  `JSON_FIELDS` maps a renamed field to the name that it keeps there, in classes derived from it too.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from capscale.errors import UserError


def to_json(value: Any) -> Any:
    """A frozen dataclass of numbers, strings, tuples and the like, as `{"type": name, field: value, ...}`.

    Equal values give equal JSON: a float that is whole is written as an integer. Raises `UserError` for anything else,
    so that nothing that is recorded rests on a memory address.
    """
    if is_dataclass(value) and not isinstance(value, type):
        added = _added(type(value))
        shown = {field.name: getattr(value, field.name) for field in fields(value)}
        kept = _field_names(type(value))
        named = {kept.get(name, name): to_json(v) for name, v in shown.items() if name not in added or v != added[name]}
        version = _version(type(value))
        return {"type": _name(type(value)), **({"version": version} if version > 1 else {}), **named}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{value!r} cannot be written as JSON; use dataclasses of numbers, strings and tuples")


def from_json(value: Any, known: tuple[type, ...] = ()) -> Any:
    """Inverse of `to_json` for the package's own classes and `known` ones; other names are refused."""
    if isinstance(value, list):
        return tuple(from_json(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    classes = {_name(cls): cls for cls in (*own_classes(), *known)}
    name = value.get("type")
    if name not in classes:
        raise UserError(f"unknown format class {name!r}; pass it as known=(...,) if it comes from outside capscale")
    version = value.get("version", 1)
    if version != _version(classes[name]):
        raise UserError(
            f"{name} is of version {version!r}, which means something else by the same fields; "
            f"this version of capscale reads {_version(classes[name])}"
        )
    arguments = dict(_added(classes[name]))
    arguments |= {key: from_json(item, known) for key, item in value.items() if key not in ("type", "version")}
    kept = _field_names(classes[name])
    expected = {kept.get(field.name, field.name): field.name for field in fields(classes[name])}
    if set(arguments) != set(expected):
        raise UserError(f"{name} is described with the fields {sorted(arguments)}, it has {sorted(expected)}")
    return classes[name](**{expected[key]: item for key, item in arguments.items()})


def _added(cls: type) -> Mapping[str, Any]:
    return vars(cls).get("JSON_ADDED", {})


def _field_names(cls: type) -> Mapping[str, str]:
    return {field: kept for base in reversed(cls.__mro__) for field, kept in vars(base).get("JSON_FIELDS", {}).items()}


def _name(cls: type) -> str:
    return vars(cls).get("JSON_NAME", cls.__name__)


def _version(cls: type) -> int:
    return vars(cls).get("JSON_VERSION", 1)


def own_classes() -> tuple[type, ...]:
    """Every dataclass that a format of this package is made of."""
    from capscale.parametrizations import KroneckerSum, LowRank

    from . import (
        affine,
        compensated,
        dense,
        double_quantized,
        e8p,
        floats,
        grids,
        hif4,
        kquant,
        levels,
        magnitude,
        nearest,
        nested,
        noise,
        outliers,
        pattern,
        rigl,
        scale,
        schedule,
        sparse,
        stochastic,
        training_scales,
        unbiased,
        vector,
    )
    from .compose import SparseQuantized
    from .rotated import ThenRotated
    from .scalar import Scalar

    return (
        *(
            dense.Dense,
            Scalar,
            SparseQuantized,
            sparse.TopK,
            pattern.NM,
            rigl.RigL,
            vector.Vector,
            outliers.Outliers,
            noise.Noise,
            nested.Nested,
            nearest.Nearest,
            compensated.Compensated,
        ),
        *(LowRank, KroneckerSum),
        *(grids.Int, floats.Float, levels.Levels, scale.Rms, scale.Absmax, scale.PowerOfTwo, scale.TwoLevel),
        *(
            scale.Learned,
            magnitude.Magnitude,
            affine.Range,
            affine.SignedMax,
            kquant.KQuant,
            stochastic.StochasticRounding,
            double_quantized.DoubleQuantized,
            hif4.HiF4Scales,
            e8p.E8P,
            unbiased.Unbiased,
            training_scales.PowerOfTwoTimes,
            training_scales.PowerOfTwoOfRms,
            training_scales.MsEden,
            schedule.Constant,
            schedule.Cubic,
            ThenRotated,
        ),
    )


__all__ = ["from_json", "own_classes", "to_json"]
