"""Names made by rules, for formats that the catalog does not list; and the rules backwards.

    [absmax-|affine-]GRID[-gN|-gRxC|-matrix][-bf16|-fp16|@e8m0[-even|-ceil|-three-quarters|-rms]|@e4m3[-ms-eden]]
    topP[-unitsU|-unitsRxC]   gmpP   riglP[-everyT]   N:M[-pairs|-unitsU]   higgs-dD-nN   vq@FILE   SCALAR-outliersP
    noiseB   noise-as-SCALAR   noise-gmseX, each with -matrix or without
    [absmax-]nested-B-B-...[-gN][-weighted-W-W-...][-atB]
    nearest-SET   SCALAR~SET[-roundsT]

GRID: `intB`, `mid-tread-intB`, `twos-intB`, `lloydB`, `eXmY`, `ternary`, or `nf4` and `af4`, in groups of 64 where it
says none. One scale a row, unless it says. `@` names the float that scales are stored in, and how they come to it:
`e2m1-g32@e8m0` is MXFP4, `e2m1-g16@e4m3` NVFP4; see `STORED_AS`.
P is percent, with decimals if need be. `nested-8-4-2` is one tensor of three widths, `nested-8-4-2-at2` its slice of 2
bits, W are weights of the losses. SET: `lowrankX` or `kroneckerX`, X the share of the numbers that is stored, or
`lowrank-rK` of rank K, `kronecker-kK` of K terms: the nearest matrix of the set, and a format, of outliers too, with
the nearest of the set to what it leaves, by T rounds of both.
"""

import re
from collections.abc import Callable
from typing import Literal

from capscale.errors import UserError
from capscale.parametrizations import OfRank, find_parametrization

from .affine import Range
from .base import Format
from .compensated import Compensated
from .distributions import NORMAL
from .floats import E4M3, E5M2, Float
from .grids import Grid, Int
from .groups import GroupSize
from .levels import AF4, NF4, TERNARY, lloyd_max
from .nearest import Nearest
from .nested import Nested
from .nested_names import nested_name, read_nested
from .noise import Noise
from .outliers import Outliers
from .pattern import NM
from .points import named_points
from .rigl import RigL
from .rounding import Rounding
from .scalar import Scalar
from .scale import GAUSSIAN_RMS, Absmax, PowerOfTwo, TwoLevel
from .scale_rule import Number, ScaleRule
from .schedule import Cubic
from .sparse import TopK
from .training_scales import MsEden, PowerOfTwoOfRms, PowerOfTwoTimes
from .vector import Vector

STORED_AS: dict[tuple[str, str | None], ScaleRule] = {
    ("e8m0", None): PowerOfTwo(),
    ("e8m0", "even"): PowerOfTwo("even"),
    ("e8m0", "ceil"): PowerOfTwo("ceil"),
    ("e8m0", "three-quarters"): PowerOfTwoTimes(),
    ("e8m0", "rms"): PowerOfTwoOfRms(),
    ("e4m3", None): TwoLevel(),
    ("e4m3", "ms-eden"): MsEden(),
}
"""Rules of scales by the float that they are stored in, and the word behind it."""
KINDS: dict[str, Literal["mid-rise", "mid-tread", "twos-complement"]] = {
    "": "mid-rise",
    "mid-tread-": "mid-tread",
    "twos-": "twos-complement",
}
NUMBERS: dict[str, Number] = {"": "float32", "-bf16": "bfloat16", "-fp16": "float16"}
TABLES = {"nf4": NF4, "af4": AF4}
TABLE_GROUP = 64
GRID = (
    r"(?P<kind>mid-tread-|twos-)?int(?P<bits>\d+)|lloyd(?P<lloyd>\d+)|e(?P<x>\d)m(?P<y>\d)|(?P<named>ternary|nf4|af4)"
)
GROUP = r"(?:-g(?P<group>\d+)(?:x(?P<columns>\d+))?|(?P<matrix>-matrix))?"
STORED = r"(?P<number>-bf16|-fp16)?(?:@(?P<float>e8m0|e4m3)(?:-(?P<how>even|ceil|three-quarters|rms|ms-eden))?)?"
SCALAR = re.compile(rf"(?P<rule>absmax-|affine-)?(?:{GRID}){GROUP}{STORED}")
PERCENT = r"(?P<percent>\d+(?:\.\d+)?)"

Find = Callable[[str], Format]
"""Reads a name that stands inside of another: SCALAR is any of the catalog or of these rules."""


def parse(name: str, find: Find) -> Format | None:
    """The format that a name of these rules means; None for other names.

    Raises UserError, in the words of the format, for numbers that it cannot have, such as `int9`.
    """
    for rule, build in _RULES.items():
        if found := re.fullmatch(rule, name):
            try:
                inside = (find(found["scalar"]),) if "scalar" in found.groupdict() else ()
                return build(found, *inside)
            except UserError as error:
                raise UserError(f"format {name!r}: {error}") from None
    return None


def spell(format: Format, find: Find) -> str | None:
    """The name that `parse` reads as `format`; None where no rule says it."""
    name = _spelled(format)
    if name is None:
        return None
    try:
        return name if parse(name, find) == format else None
    except UserError:
        return None


def _scalar(found: re.Match[str]) -> Scalar:
    f, grid = found.groupdict(), _grid(found)
    group: GroupSize = TABLE_GROUP if f["named"] in TABLES else "row"
    if f["matrix"]:
        group = "matrix"
    elif f["group"]:
        group = (int(f["group"]), int(f["columns"])) if f["columns"] else int(f["group"])
    return Scalar(grid, _rule(found), group)


def _grid(found: re.Match[str]) -> Grid:
    f = found.groupdict()
    if f["named"]:
        return TABLES.get(f["named"], TERNARY)
    if f["lloyd"]:
        return lloyd_max(int(f["lloyd"]))
    if f["bits"]:
        if f["rule"] == "affine-":
            if f["kind"]:
                raise UserError(f"an offset goes with the grid 0, 1, ...; leave {f['kind']!r} out")
            return Int(int(f["bits"]), "unsigned")
        if f["float"] == "e8m0" and not f["kind"]:
            return Int(int(f["bits"]), "mid-tread")  # as MXINT8 of the OCP specification
        return Int(int(f["bits"]), KINDS[f["kind"] or ""])
    x, y = int(f["x"]), int(f["y"])
    return next((known for known in (E4M3, E5M2) if (known.exponent, known.mantissa) == (x, y)), Float(x, y))


def _rule(found: re.Match[str]) -> ScaleRule:
    f, name = found.groupdict(), found[0]
    stored = f"{f['number'] or ''}{'@' + f['float'] if f['float'] else ''}"
    if f["float"]:
        if (f["float"], f["how"]) not in STORED_AS:
            other = next(number for number, how in STORED_AS if how == f["how"])
            raise UserError(f"-{f['how']} is how scales are rounded to {other.upper()}; use @{other}")
        if f["rule"] or f["number"] or f["named"] in TABLES:
            raise UserError(f"@{f['float']} says the rule of its scales; leave the other words out")
        return STORED_AS[f["float"], f["how"]]
    if f["rule"] == "affine-":
        if stored:
            raise UserError(f"scales with an offset are stored as they are; leave {stored!r} out")
        return Range()
    if f["rule"] or f["named"] in TABLES:
        return Absmax(NUMBERS[f["number"] or ""])
    if f["number"]:
        raise UserError(f"only scales of the largest magnitude have 16 bits; use absmax-{name}")
    return GAUSSIAN_RMS


def _share(found: re.Match[str]) -> float:
    return float(found["percent"]) / 100


def _unit(found: re.Match[str]) -> int | tuple[int, int]:
    unit = int(found["unit"] or 1)
    return (unit, int(found["columns"])) if found["columns"] else unit


def _outliers(found: re.Match[str], inner: Format) -> Outliers:
    if not isinstance(inner, Rounding):
        raise UserError("outliers are kept beside a scalar format or a codebook, such as int4-outliers1")
    return Outliers(inner, _share(found))


def _noise_as(found: re.Match[str], inner: Format) -> Noise:
    error = inner.error(NORMAL, None) if isinstance(inner, Scalar) else None
    if error is None:
        raise UserError("noise as a scalar format of known error, such as noise-as-int4")
    gmse = float(f"{error.value:.9g}")  # part of run ids, which the last bits of an optimizer must not change
    return Noise(gmse, *_matrix(found))


def _nearest(found: re.Match[str]) -> Nearest:
    of = find_parametrization(found["set"])
    if not isinstance(of, OfRank):
        raise UserError(f"no nearest matrix is found of {found['set']!r}; use lowrank0.25, lowrank-r8 or kronecker0.25")
    return Nearest(of)


def _compensated(found: re.Match[str], inner: Format) -> Compensated:
    if not isinstance(inner, Rounding | Outliers):
        raise UserError(
            "a low rank stands beside a scalar format or a codebook, with outliers or without, such as int2~lowrank0.05"
        )
    return Compensated(inner, _nearest(found), int(found["rounds"] or 1))


def _pattern(found: re.Match[str]) -> NM:
    unit = 2 if found["pairs"] else int(found["unit"] or 1)
    return NM(int(found["n"]), int(found["m"]), unit=unit)


_RULES: dict[str, Callable[..., Format]] = {
    SCALAR.pattern: _scalar,
    rf"top{PERCENT}(?:-units(?P<unit>\d+)(?:x(?P<columns>\d+))?)?": lambda m: TopK(_share(m), unit=_unit(m)),
    rf"gmp{PERCENT}": lambda m: TopK(_share(m), schedule=Cubic()),
    rf"rigl{PERCENT}(?:-every(?P<period>\d+))?": lambda m: RigL(_share(m), **_period(m)),
    r"(?P<n>\d+):(?P<m>\d+)(?:(?P<pairs>-pairs)|-units(?P<unit>\d+))?": _pattern,
    r"higgs-d(?P<d>\d+)-n(?P<n>\d+)": lambda m: Vector(int(m["d"]), int(m["n"])),
    r"vq@(?P<file>.+)": lambda m: Vector.of(named_points(m["file"])),
    r"noise(?P<bits>\d+)(?P<matrix>-matrix)?": lambda m: Noise(4.0 ** -int(m["bits"]), *_matrix(m)),
    r"noise-gmse(?P<gmse>0?\.\d+)(?P<matrix>-matrix)?": lambda m: Noise(float(m["gmse"]), *_matrix(m)),
    r"noise-as-(?P<scalar>.+?)(?P<matrix>-matrix)?": _noise_as,
    rf"(?P<scalar>.+)-outliers{PERCENT}": _outliers,
    r"nearest-(?P<set>.+)": _nearest,
    r"(?P<scalar>.+)~(?P<set>.+?)(?:-rounds(?P<rounds>\d+))?": _compensated,
    r"(?P<rule>absmax-)?nested-(?P<widths>\d(?:-\d)+)(?:-g(?P<group>\d+))?"
    r"(?:-weighted(?P<weights>(?:-\d+(?:\.\d+)?)+))?(?:-at(?P<at>\d))?": read_nested,
}


def _period(found: re.Match[str]) -> dict[str, int]:
    return {"period": int(found["period"])} if found["period"] else {}


def _matrix(found: re.Match[str]) -> tuple[Literal["matrix"], ...]:
    return ("matrix",) if found["matrix"] else ()


def percent(share: float) -> str:
    """A share as names say it, in percent."""
    return f"{share * 100:.12g}"


def _spelled(format: Format) -> str | None:
    """A name that may mean `format`."""
    match format:
        case Scalar():
            name = _scalar_name(format)
        case TopK():
            unit = "x".join(map(str, format.unit if isinstance(format.unit, tuple) else (format.unit,)))
            units = "" if format.unit == 1 else f"-units{unit}"
            name = f"{'gmp' if format.schedule == Cubic() else 'top'}{percent(format.sparsity)}{units}"
        case RigL():
            every = "" if format == RigL(format.sparsity) else f"-every{format.period}"
            name = f"rigl{percent(format.sparsity)}{every}"
        case NM():
            name = f"{format.n}:{format.m}{'' if format.unit == 1 else f'-units{format.unit}'}"
        case Vector():
            name = f"higgs-d{format.dimension}-n{format.codewords}"
        case Noise():
            name = f"noise-gmse{format.gmse!r}{'-matrix' if format.granularity == 'matrix' else ''}"
        case Nested():
            name = nested_name(format)
        case Nearest():
            name = str(format)
        case _:
            name = None
    return name


def _scalar_name(format: Scalar) -> str | None:
    grid, rule, group = _grid_name(format.grid), format.scale, format.group
    if grid is None:
        return None
    prefix = suffix = ""
    if isinstance(rule, Absmax):
        prefix = "" if grid in TABLES else "absmax-"
        suffix = next((s for s, number in NUMBERS.items() if number == rule.number), "")
    elif isinstance(rule, Range):
        prefix = "affine-"
    elif (stored := next((name for name, known in STORED_AS.items() if known == rule), None)) is not None:
        suffix = f"@{'-'.join(filter(None, stored))}"
        if stored[0] == "e8m0" and isinstance(format.grid, Int):
            grid = f"int{format.grid.bits}"
    where = {"row": "", "matrix": "-matrix"}.get(str(group)) if isinstance(group, str) else None
    if where is None:
        where = f"-g{'x'.join(map(str, group))}" if isinstance(group, tuple) else f"-g{group}"
    return f"{prefix}{grid}{where}{suffix}"


def _grid_name(grid: Grid) -> str | None:
    if isinstance(grid, Int):
        word = {"unsigned": "", **{kind: word for word, kind in KINDS.items()}}[grid.kind]
        return f"{word}int{grid.bits}"
    if isinstance(grid, Float):
        return f"e{grid.exponent}m{grid.mantissa}"
    tables = {**TABLES, "ternary": TERNARY}
    return next((name for name, levels in tables.items() if levels == grid), None) or _lloyd(grid)


def _lloyd(grid: Grid) -> str | None:
    bits = grid.codes.bit_length() - 1
    return f"lloyd{bits}" if grid.codes == 2**bits <= 256 and grid == lloyd_max(bits) else None
