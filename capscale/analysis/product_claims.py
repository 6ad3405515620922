"""Claims of the paper on products of capacities (Finding 3 of arXiv 2506.01863), with its printed numbers.

Each claim here has its effect in `effects`, under the same name.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.evidence import interval
from capscale.analysis.factorization import Axis, CapacityGrid
from capscale.analysis.printed import Printed
from capscale.analysis.products import Misses, misses

Where = Callable[[tuple[str, ...]], bool]
"""Chooses entries by their levels."""
PRECISE = 0.01
"""How far the paper's text says that products lie from what was measured, except at 2 bits and below."""
SAME_SIZE = 2.0
"""Factor of the printed misses up to which ours are no larger: a bound at the print itself would fail half of all
exact copies of it."""


def every(levels: tuple[str, ...]) -> bool:
    """Every entry of the printed matrices."""
    return True


def of_print(printed: Printed, where: Where = every) -> Misses:
    """The misses that the paper prints."""
    grid = printed.grid
    alone = CapacityGrid(grid.name, grid.axes, grid.capacity, grid.capacity[None])
    return misses(alone, alone, where)


def above(printed: Printed, deviation: float, suffix: str = "", words: str = "", where: Where = every) -> Claim:
    """The sign of the misses, of the entries where `where` holds."""
    return Claim(
        f"above{suffix}",
        f"What is measured lies above the product{words}.",
        f"{printed.figure}, measured and product as printed",
        "mean of ln(measured / product) over the products",
        (0.0, math.inf),
        "the sign of the printed misses",
        round(float(of_print(printed, where).mean[0]), 3),
        null=0.0,
        deviation=deviation,
    )


def pattern(printed: Printed, deviation: float, suffix: str = "", words: str = "") -> Claim:
    """Where the misses are."""
    return Claim(
        f"pattern{suffix}",
        f"The product misses where the paper's does, and as much{words}.",
        f"{printed.figure}, measured and product as printed",
        "slope of our ln(measured / product) on the printed ones, through the origin",
        (0.5, 2.0),
        "half to twice the printed misses; they are printed to .01, which is a fifth of the large ones at rho = .05",
        1.0,
        null=0.0,
        deviation=deviation,
    )


def size(printed: Printed, deviation: float, suffix: str = "", words: str = "") -> Claim:
    """How large the misses are."""
    theirs = float(of_print(printed).size[0])
    return Claim(
        f"size{suffix}",
        f"The product misses by no more than in the paper{words}.",
        f"{printed.figure}, measured and product as printed",
        "root mean square of measured - product, in rho, without the scatter of runs",
        (-math.inf, round(SAME_SIZE * theirs, 4)),
        "twice the printed misses. A median of |misses| would count the scatter of runs as misses, and a bound at the "
        "print would fail half of all exact copies",
        round(theirs, 4),
        deviation=deviation,
    )


def within(source: str, deviation: float) -> Claim:
    """The precision that the text states."""
    return Claim(
        "within",
        "The product is within .01 of what is measured, except at 2 bits and below.",
        source,
        "root mean square of measured - product above 2 bits, in rho, without the scatter of runs",
        (-math.inf, PRECISE),
        "the paper's .01; not every product is within .01 where their root mean square is not",
        0.0,
        deviation=deviation,
    )


def print_within(source: str) -> Claim:
    """The precision that the text states, of the paper's own numbers."""
    return Claim(
        "within-print",
        "The paper's printed errors are at most .01, except at 2 bits and below.",
        source,
        "share of the printed errors above 2 bits that are at most .01",
        (1.0, 1.0),
        "all of them; the panel itself is read, and no run of ours",
        1.0,
    )


def above_two_bits(axes: tuple[Axis, ...]) -> Where:
    """Whether an entry has more than 2 bits on every axis of bits."""

    def chosen(levels: tuple[str, ...]) -> bool:
        return all(float(x) > 2 for x, axis in zip(levels, axes, strict=True) if axis.name.startswith("bits"))

    return chosen


def effects(
    make: Callable[[], CapacityGrid],
    printed: Printed,
    suffix: str = "",
    where: Where = every,
) -> dict[str, Callable[[], Estimate]]:
    """Estimates of `above`, `pattern` and `size` of a grid with the axes of the print, as `estimates_of` takes them.

    Args:
      make: makes the grid, or raises UserError.
      printed: the part of the print with the grid's levels.
      suffix: of the claims' names.
      where: which entries `above` is about.
    """
    made = cache(make)

    def of(effect: Callable[[Misses], np.ndarray], chosen: Where) -> Estimate:
        found = misses(made(), printed.grid, chosen)
        return interval(effect(found), found.note)

    return {
        f"above{suffix}": lambda: of(lambda m: m.mean, where),
        f"pattern{suffix}": lambda: of(lambda m: m.pattern, every),
        f"size{suffix}": lambda: of(lambda m: m.size, every),
    }


def precision(make: Callable[[], CapacityGrid], printed: Printed) -> dict[str, Callable[[], Estimate]]:
    """Estimates of `within` and of `print_within`; `printed` is the whole figure."""

    def ours() -> Estimate:
        grid = make()
        found = misses(grid, None, above_two_bits(grid.axes))
        return interval(found.size, found.note)

    def theirs() -> Estimate:
        chosen = above_two_bits(printed.grid.axes)
        errors = [printed.error[at] for at, levels in printed.grid.cells() if chosen(levels)]
        told = np.array([e for e in errors if np.isfinite(e)])
        share = float(np.mean(told <= PRECISE))
        return Estimate.exact(share, f"{np.sum(told <= PRECISE)} of {len(told)} printed errors")

    return {"within": ours, "within-print": theirs}
