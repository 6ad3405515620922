"""Catalog: short names for the formats that tables and commands speak of."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

from capscale.errors import UserError
from capscale.parametrizations import KroneckerSum, LowRank, find_parametrization

from .affine import Range, SignedMax
from .base import Format, Rowwise, granularity_of, per_row
from .capabilities import HasShortName
from .compensated import Compensated
from .compose import SparseQuantized
from .dense import Dense
from .distributions import NORMAL
from .double_quantized import DoubleQuantized
from .e8p import E8P
from .floats import E1M2, E2M1, E2M3, E2M5, E3M0, E3M2, E3M4, E4M1, E4M3, E5M2, E6M1
from .grids import Int
from .hif4 import HiF4Scales
from .kquant import KQuant
from .levels import AF4, NF4, TERNARY, lloyd_max
from .magnitude import Magnitude
from .nearest import Nearest
from .noise import Noise
from .outliers import Outliers
from .pattern import NM
from .rigl import RigL
from .rotated import ThenRotated
from .rounding import Rounding
from .scalar import Scalar
from .scale import Absmax, Learned, PowerOfTwo, TwoLevel
from .schedule import Cubic
from .sparse import Sparse, TopK
from .spelling import parse, percent, spell
from .stochastic import StochasticRounding
from .unbiased import Unbiased
from .vector import Vector

ROW = "-row"  # suffix of the variant that works row by row, as activations need
RAGGED = "-ragged"  # suffix of groups of which the last of a row holds what is left
STOCHASTIC = "-stochastic"  # suffix of scalar formats that round by chance, without bias
UNBIASED = "-unbiased"  # suffix of scalar formats whose scales are unbiased under random rotations
ROTATED = "rotated-"  # prefix of B in A+B: A in the given basis, then B in a rotated one
DENSE_SCALES = "-dense-scales"  # suffix of A+B whose scales are those of the row before pruning

PRUNED_PERCENT = (10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90)
METHOD_PERCENT = (10, 30, 50, 70, 75, 90)  # of RigL and GMP: Figures 5d and 11, and 75
PATTERNS = ((1, 2), (1, 4), (2, 4), (3, 4), (2, 8), (4, 8))
GROUPS = (4, 8, 16, 32, 64, 128, 256)  # Figure 4a of arXiv 2506.01863 has 4 to 128
OUTLIER_PERCENT = (1, 2, 5)  # Figure 4b: 0 to 5 %
FIGURE_4_BITS = (2, 3, 4)
CODEBOOKS = ((2, 4), (2, 8), (2, 16), (2, 64), (2, 256), (4, 16), (4, 256), (4, 4096))
FLOATS = {
    f"e{each.exponent}m{each.mantissa}": each
    for each in (E2M1, E1M2, E3M0, E2M3, E3M2, E4M1, E2M5, E3M4, E4M3, E5M2, E6M1)
}
MX = {"mxfp4": E2M1, "mxfp6-e2m3": E2M3, "mxfp6-e3m2": E3M2, "mxfp8-e4m3": E4M3, "mxfp8-e5m2": E5M2}
MX_GROUP = 32  # OCP Microscaling Formats v1.0
NVFP4_GROUP = 16
AFFINE = ((4, 32), (4, 64), (4, 128), (3, 128), (2, 64))  # bits and groups that GPTQ and AWQ checkpoints have
GGML_GROUP = 32  # of llama.cpp's Q4_0 to Q5_K
COMPOSED = (
    *(f"{sparse}+{scalar}" for sparse in ("2:4", "4:8-pairs", "top50") for scalar in ("int2", "int4", "int8")),
    *("2:4+absmax-int4", "top50+absmax-int4", "2:4+e2m1", "2:4+mxfp4", "top50+nvfp4", "top50+rotated-int4"),
    *("2:4+ternary", "top50+ternary", "top50-units16x16+int4", "4:8-pairs+higgs-d2-n16", "top50-units4+higgs-d4-n256"),
)


def _scalars() -> dict[str, Format]:
    ints = {bits: Int(bits) for bits in range(1, 9)}
    named: dict[str, Format] = {f"int{b}": Scalar(grid) for b, grid in ints.items()}
    named |= {"ternary": Scalar(TERNARY)}
    named |= {f"mid-tread-int{b}": Scalar(Int(b, "mid-tread")) for b in (2, 3, 4, 8)}
    named |= {f"twos-int{b}": Scalar(Int(b, "twos-complement")) for b in (2, 4, 8)}
    named |= {f"lloyd{b}": Scalar(lloyd_max(b)) for b in range(1, 9)}
    named |= {name: Scalar(grid) for name, grid in FLOATS.items()}
    named |= {f"absmax-int{b}": Scalar(ints[b], Absmax()) for b in range(2, 9)}
    named |= {f"int{b}-g{size}": Scalar(ints[b], group=size) for b in FIGURE_4_BITS for size in GROUPS}
    named |= {f"absmax-int4-g{size}": Scalar(ints[4], Absmax(), size) for size in GROUPS}
    named |= {f"absmax-int4-g{size}-bf16": Scalar(ints[4], Absmax("bfloat16"), size) for size in GROUPS}
    named |= {f"absmax-int4-g{size}-fp16": Scalar(ints[4], Absmax("float16"), size) for size in (32, 128)}
    named |= {f"absmax-e2m1-g{size}": Scalar(E2M1, Absmax(), size) for size in (16, 32)}
    named |= {"absmax-e4m3-g128": Scalar(E4M3, Absmax(), 128), "nf4": Scalar(NF4, Absmax(), 64)}
    named |= {"af4": Scalar(AF4, Absmax(), 64), "absmax-e4m3-g128x128": Scalar(E4M3, Absmax(), (128, 128))}
    named |= {name: Scalar(grid, PowerOfTwo(), MX_GROUP) for name, grid in MX.items()}
    named |= {f"mxfp4-{rounding}": Scalar(E2M1, PowerOfTwo(rounding), MX_GROUP) for rounding in ("even", "ceil")}
    named |= {"mxint8": Scalar(Int(8, "mid-tread"), PowerOfTwo(), MX_GROUP)}
    named |= {f"affine-int{b}-g{n}": Scalar(Int(b, "unsigned"), Range(), n) for b, n in AFFINE}
    named |= {f"q{b}_0": Scalar(Int(b, "twos-complement"), SignedMax(), GGML_GROUP) for b in (4, 5)}
    named |= {f"q{b}_1": Scalar(Int(b, "unsigned"), Range("minimum"), GGML_GROUP) for b in (4, 5)}
    named |= {"q4_k": Scalar(Int(4, "unsigned"), KQuant(), GGML_GROUP)}
    named |= {"q5_k": Scalar(Int(5, "unsigned"), KQuant(start=-0.5, steps=15), GGML_GROUP)}
    named |= {"nf4-double-quantized": Scalar(NF4, DoubleQuantized(), 64), "hif4": Scalar(E1M2, HiF4Scales(), 4)}
    named |= {"nvfp4": Scalar(E2M1, TwoLevel(), NVFP4_GROUP)}
    named |= {"nvfp4-g16x16": Scalar(E2M1, TwoLevel(), (NVFP4_GROUP, NVFP4_GROUP))}
    named |= {"nvfp4-four-over-six": Scalar(E2M1, TwoLevel(candidates=(6.0, 4.0)), NVFP4_GROUP)}
    named |= {f"ternary-{of}": Scalar(TERNARY, Magnitude(of), "matrix") for of in ("mean", "median")}
    named |= {f"lsq{b}": Scalar(ints[b], Learned(), "matrix") for b in (2, 3, 4, 8)}  # one step a tensor, as LSQ's
    named |= {f"{name}{STOCHASTIC}": _stochastic(named[name], name) for name in ("int4", "mxfp4-ceil", "nvfp4")}
    named |= {f"{name}{UNBIASED}": _unbiased(named[name], name) for name in ("lloyd1", "lloyd2", "lloyd4", "int4")}
    named |= {f"lsq{b}-per-channel": Scalar(ints[b], Learned()) for b in (2, 4)}
    return named


def _sparsities() -> dict[str, Format]:
    named: dict[str, Format] = {f"top{percent}": TopK(percent / 100) for percent in PRUNED_PERCENT}
    named |= {f"{n}:{m}": NM(n, m) for n, m in PATTERNS}
    named |= {"4:8-pairs": NM(4, 8, unit=2)}
    named |= {"top50-units4": TopK(0.5, unit=4), "top50-units16x16": TopK(0.5, unit=(16, 16))}
    named |= {f"gmp{percent}": TopK(percent / 100, schedule=Cubic()) for percent in METHOD_PERCENT}
    named |= {f"rigl{percent}": RigL(percent / 100) for percent in METHOD_PERCENT}
    named |= {f"rigl{percent}-every1": RigL(percent / 100, period=1) for percent in METHOD_PERCENT}
    return named


def _entries() -> dict[str, Format]:
    named: dict[str, Format] = {"dense": Dense()} | _scalars() | _sparsities()
    named |= {f"higgs-d{d}-n{n}": Vector(d, n) for d, n in CODEBOOKS} | {"e8p": E8P()}
    for name in COMPOSED:
        first, _, second = name.partition("+")
        named[name] = _then(named[first], named[second.removeprefix(ROTATED)], name)
    named |= {
        f"int{bits}-outliers{percent}": Outliers(Scalar(Int(bits)), percent / 100)
        for bits in FIGURE_4_BITS
        for percent in OUTLIER_PERCENT
    }
    named |= {f"{name}-outliers1": _beside_outliers(named[name]) for name in ("mxfp4", "nvfp4", "higgs-d2-n16")}
    low_ranks = {f"lowrank{share}": Nearest(LowRank(share=share)) for share in (0.25, 0.5)}
    low_ranks |= {"lowrank-r4": Nearest(LowRank(4)), "kronecker0.25": Nearest(KroneckerSum(share=0.25))}
    named |= {f"nearest-{name}": format for name, format in low_ranks.items()}
    int2, rest = Scalar(Int(2)), Nearest(LowRank(share=0.05))
    named |= {"int2~lowrank0.05": Compensated(int2, rest)}
    named |= {"int2-outliers1~lowrank0.05": Compensated(Outliers(int2, 0.01), rest)}
    named |= {f"noise{bits}": Noise(4.0**-bits) for bits in (1, 2, 3, 4)}
    named |= {f"noise{bits}-matrix": Noise(4.0**-bits, "matrix") for bits in (2, 4)}
    for bits in (1, 2, 3, 4):  # Figures 1b and 1c: noise of the error of a format
        named[f"noise-as-int{bits}"] = Noise(_gmse(Scalar(Int(bits))))
        named[f"noise-as-int{bits}-matrix"] = Noise(_gmse(Scalar(Int(bits))), "matrix")
    return named


def _gmse(format: Scalar) -> float:
    """Exact GMSE to nine digits: it becomes part of run ids, which the last bits of an optimizer must not change."""
    error = format.error(NORMAL, None)
    assert error is not None
    return float(f"{error.value:.9g}")


def _stochastic(format: Format, name: str) -> Scalar:
    if not isinstance(format, Scalar):
        raise UserError(f"format {name!r}: only scalar formats round stochastically, such as mxfp4-ceil{STOCHASTIC}")
    return replace(format, grid=StochasticRounding(format.grid))


def _unbiased(format: Format, name: str) -> Scalar:
    if not isinstance(format, Scalar):
        raise UserError(f"format {name!r}: only scalar formats have unbiased scales, such as lloyd4{UNBIASED}")
    return replace(format, scale=Unbiased(format.scale))


def _beside_outliers(inner: Format) -> Outliers:
    assert isinstance(inner, Rounding)
    return Outliers(inner, 0.01)


def _then(sparse: Format, rounding: Format, name: str) -> SparseQuantized:
    if not isinstance(sparse, Sparse) or not isinstance(rounding, Rounding):
        raise UserError(
            f"format {name}: A+B means a sparsity A, then a scalar format or a codebook B, such as 2:4+int4"
        )
    return (ThenRotated if name.partition("+")[2].startswith(ROTATED) else SparseQuantized)(sparse, rounding)


FORMATS: Mapping[str, Format] = MappingProxyType(_entries())
"""Every named format, in the order tables print them."""

# Formats that differ in blocks across rows alone are one row by row, by the name of the first.
_NAMES = {
    per_row(format): name + ROW
    for name, format in reversed([*FORMATS.items()])
    if granularity_of(format) == "row" or isinstance(format, Rowwise)
}
_NAMES |= {format: name for name, format in FORMATS.items()}


def find(name: str) -> Format:
    """The format called `name`; `A+B` is A then B, `A-row` is A row by row. Unknown names are refused.

    `A+rotated-B` prunes in the given basis and quantizes in a rotated one.
    `A+B-dense-scales` takes the scales of B from the row before pruning, as QuEST's 4:8 class does.
    `B-ragged` has groups that need not divide the row: the last one holds what is left.
    `B-stochastic` rounds up or down by chance, `B-unbiased` has scales as EDEN's.
    Names that the catalog does not list are read by the rules of `spelling`: `top55`, `absmax-int3-g128`.
    """
    if name in FORMATS:
        return FORMATS[name]
    if name.endswith(ROW):
        return per_row(find(name.removesuffix(ROW)))
    if name.endswith(DENSE_SCALES):
        composed = find(name.removesuffix(DENSE_SCALES))
        if not isinstance(composed, SparseQuantized):
            raise UserError(f"format {name!r}: only A+B, a sparsity and a format that rounds, has {DENSE_SCALES[1:]}")
        return replace(composed, scales_from="dense")
    first, plus, second = name.partition("+")
    if plus:
        return _then(find(first), find(second.removeprefix(ROTATED)), name)
    if (scalar := _by_suffix(name)) is not None:
        return scalar
    if (spelled := parse(name, find)) is not None:
        return spelled
    if (other := find_parametrization(name)) is not None:
        raise UserError(
            f"{name!r} is no format but a parametrization, {other!r}, of weights alone: their stored numbers are "
            "trained, no nearest point is, and so GMSE tells neither their capacity nor their loss; train it, by "
            "Representation(parametrization=...) or a policy, and measure"
        )
    close = get_close_matches(name, FORMATS, n=3, cutoff=0.4)
    hint = f"; closest: {', '.join(close)}" if close else ""
    raise UserError(
        f"unknown format {name!r}{hint}; `capscale gmse` lists names, its --help the rules of others, and A+B means "
        "a sparsity A, then B"
    )


def _by_suffix(name: str) -> Scalar | None:
    """A scalar format with other groups or another rounding than the name says before its last word."""
    if name.endswith(RAGGED):
        grouped = find(name.removesuffix(RAGGED))
        if not isinstance(grouped, Scalar) or not isinstance(grouped.group, int):
            raise UserError(f"format {name!r}: only a scalar format with numbered groups is ragged, such as int4-g32")
        return replace(grouped, ragged=True)
    if name.endswith(STOCHASTIC):
        return _stochastic(find(name.removesuffix(STOCHASTIC)), name)
    if name.endswith(UNBIASED):
        return _unbiased(find(name.removesuffix(UNBIASED)), name)
    return None


def label(format: Format) -> str:
    """Name of a format: its catalog name, one that `find` reads (`A+B`, suffixes, rules), its short name, or its repr.

    A format from outside says its own in a property `short_name`. Raises UserError where `find` knows another of it.
    """
    if format in _NAMES:
        return _NAMES[format]
    if isinstance(format, SparseQuantized):
        prefix = ROTATED if isinstance(format, ThenRotated) else ""
        suffix = DENSE_SCALES if format.scales_from == "dense" else ""
        return f"{label(format.sparse)}+{prefix}{label(format.rounding)}{suffix}"
    if isinstance(format, HasShortName):
        return _own_name(format)
    if isinstance(format, Vector) and format.points is not None:
        return _of_points(format)
    if isinstance(format, Scalar) and (plain := _plain(format)) is not None:
        without, suffix = plain
        name = label(without)
        return repr(format) if name == repr(without) else name + suffix
    return _beside(format) if isinstance(format, Outliers | Compensated) else spell(format, find) or repr(format)


def _plain(format: Scalar) -> tuple[Scalar, str] | None:
    """The format without what a suffix says, and that suffix; None where none says anything."""
    if format.ragged:
        return replace(format, ragged=False), RAGGED
    if isinstance(format.grid, StochasticRounding):
        return replace(format, grid=format.grid.grid), STOCHASTIC
    if isinstance(format.scale, Unbiased):
        return replace(format, scale=format.scale.rule), UNBIASED
    return None


def _of_points(format: Vector) -> str:
    """A name that tells codebooks of one's own apart; `find` reads none of them back, as only JSON has the points."""
    told = hashlib.sha256(repr((format.points, format.group)).encode()).hexdigest()[:8]
    return f"vq-d{format.dimension}-n{format.codewords}-{told}"


def _beside(format: Outliers | Compensated) -> str:
    if isinstance(format, Compensated):
        rounds = f"-rounds{format.rounds}" if format.rounds > 1 else ""
        name = f"{label(format.rounding)}~{format.remainder.of}{rounds}"
    else:
        name = f"{label(format.inner)}-outliers{percent(format.fraction)}"
    try:
        return name if find(name) == format else repr(format)
    except UserError:
        return repr(format)


def _own_name(format: HasShortName) -> str:
    name = format.short_name
    try:
        known = find(name)
    except UserError:
        return name
    raise UserError(f"{format!r} calls itself {name!r}, which is {known!r}: give it a name of its own")
