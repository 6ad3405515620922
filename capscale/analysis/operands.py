"""Facts of a format's name that laws read: its kind, bits, sparsity and GMSE, and the stages it is made of."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from capscale.cache_names import find_cache
from capscale.capacity import law_bits
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.capabilities import learns
from capscale.formats.catalog import find, label
from capscale.formats.compensated import Compensated
from capscale.formats.floats import Float
from capscale.formats.nearest import Nearest
from capscale.formats.stages import stages_of
from capscale.parametrizations import find_parametrization


class Part(NamedTuple):
    """One compressed factor of a row: an operand, or one stage of a composed format."""

    operand: str
    """weights or activations."""
    name: str
    kind: str
    """int, sparse, ...: formats of one kind may share a law's numbers."""
    gmse: float
    storage_bits: float
    sparsity: float

    @property
    def effective_bits(self) -> float:
        """Effective bits: log_{1/4} of GMSE."""
        return float(law_bits(self.gmse))


class Facts(NamedTuple):
    """Facts of a format's name before any training; NaN and its own kind for a name outside the catalog."""

    kind: str
    storage_bits: float
    """Of quantized formats."""
    sparsity: float
    """Of sparse ones."""
    stored: float
    """Bits per value as stored, masks and scales included."""
    stages: tuple[str, ...]
    """Names of the stages of a composed format, else its own name."""
    group: float = float("nan")
    """Values that share a scale; NaN where that is a row or a matrix."""
    exponent: float = float("nan")
    """Exponent bits of a floating-point grid."""
    mantissa: float = float("nan")
    learned: bool = False
    """Whether it has numbers of its own that are trained, as LSQ's steps are."""


@cache
def facts(name: str) -> Facts:
    """Facts of a format by its catalog name. A table may use names of its own, if it brings their GMSE."""
    try:
        format = find(name)
    except UserError:
        return Facts(name, float("nan"), float("nan"), float("nan"), (name,))
    of = stages_of(format)
    stages = (label(of.sparse), label(of.rounding)) if of.sparse and of.rounding else (name,)
    sparsity = 0.0 if of.sparse is None else 1 - of.sparse.density
    # Kumar's law is about the bits of quantized values, Frantar's about zeros: neither reads the other's formats.
    bits = float("nan") if sparsity or isinstance(format, Nearest | Compensated) else float(format.bits)
    numbers = (bits, sparsity or float("nan"), float(format.bits))
    return Facts(_kind(format), *numbers, stages, *_scalar_facts(format), learned=learns(format))


def _scalar_facts(format: Format) -> tuple[float, float, float]:
    """Group, exponent and mantissa bits of a scalar format, or of the scalar stage of a composed one."""
    scalar = stages_of(format).scalar
    if scalar is None:
        return float("nan"), float("nan"), float("nan")
    group = float(scalar.groups.values or "nan")
    grid = scalar.grid
    if not isinstance(grid, Float):
        return group, float("nan"), float("nan")
    return group, float(grid.exponent), float(grid.mantissa)


def _kind(format: Format) -> str:
    of = stages_of(format)
    if isinstance(format, Nearest):
        return f"nearest {type(format.of).__name__}"
    if of.sparse is None and of.rounding is None:
        return type(format).__name__.lower()
    if of.rounding is None:
        return "sparse"
    vectors = of.scalar is None and of.rounding.run > 1
    grid = "vector" if vectors else type(of.scalar.grid if of.scalar else of.rounding).__name__.lower()
    return "+".join(filter(None, ("sparse" if of.sparse is not None else "", grid)))


KIND_WORDS = {"int": "integer"}
"""Words for kinds whose class is called otherwise."""


def kind_words(kind: str) -> str:
    """A kind of format in words: integer, float, levels, sparse, sparse-quantized, vector, noise, outliers."""
    return "sparse-quantized" if "+" in kind else KIND_WORDS.get(kind, kind)


def kind_of(row: Any) -> str:
    """The kind of representation of a row of a Table, in words: of its weights, and of activations if compressed.

    Finding 1 of arXiv 2506.01863 is about the instances of one kind: all bit widths of integers, all sparsities.
    Learned steps are a kind of their own, as in Figure 1a; so is one with compressed gradients or cache.
    """
    if (held := find_parametrization(row.weights)) is not None:
        return f"parametrized ({type(held).__name__})" + ("" if row.activations == "dense" else ", both operands")
    each = [facts(name) for name in (row.weights, row.activations)]
    weights, activations = (f"{'learned ' if of.learned else ''}{kind_words(of.kind)}" for of in each)
    by = "" if row.gradients == "dense" else ", compressed gradients"
    by += "" if row.cache == "dense" else ", compressed cache"
    if row.activations == "dense":
        return weights + by
    both = f"{weights} weights, {activations} activations"
    return (f"{activations} activations" if row.weights == "dense" else both) + by


@cache
def gaussian_error(name: str) -> float:
    """GMSE of a format of the catalog; NaN for other names, whose table must bring it."""
    from capscale.gaussian_mse import gmse

    try:
        format = find(name)
    except UserError:
        return float("nan")
    return float(gmse(format).value)


@cache
def cache_bits(name: str) -> float:
    """Bits per value of keys and values together, 16 of a side that is dense; NaN for names outside the catalog."""
    try:
        sides = find_cache(name)
    except UserError:
        return float("nan")
    return float(np.mean([16.0 if side.is_dense else side.format.bits for side in sides]))


def parts_of(row: Any, *, product: bool) -> tuple[Part, ...]:
    """Compressed factors of a row of a Table: its weights and its activations, dense ones left out.

    With `product`, a composed format counts as its stages, each with the GMSE that it has alone.
    """
    parts: list[Part] = []
    for operand in ("weights", "activations"):
        name, measured = getattr(row, operand), getattr(row, f"{operand}_gmse")
        if name == "dense":
            continue
        stages = facts(name).stages if product else (name,)
        for stage in stages:
            about = facts(stage)
            error = measured if stage == name and np.isfinite(measured) else gaussian_error(stage)
            parts.append(Part(operand, stage, about.kind, error, about.storage_bits, about.sparsity))
    return tuple(parts)
