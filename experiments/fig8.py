"""Figure 8 of arXiv 2506.01863: three factors at once, sparsity and bits of the weights and bits of the activations.

Claim (Finding 3): rho(b, s, c) = rho(b) rho(s) rho(c). The paper draws it without numbers: points about the diagonal.
Expected: products as near as where the paper prints two of these factors; at 2 and 4 bits Figure 6 prints a root mean
square of .05, and Figures 2b, 6 and 7 print slopes of ln measured on ln product of .84 to .92.
Command: `capscale reproduce fig8`, 116 runs at nano, 16 minutes on two cores: 26 formats at two sizes,
the dense curve, two seeds each.
"""

import math
from functools import cache
from typing import TYPE_CHECKING

from capscale.analysis import product_claims as claims
from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import estimates_of
from capscale.analysis.evidence import Evidence, interval
from capscale.analysis.factorization import CapacityGrid
from capscale.analysis.printed import axis, printed
from capscale.analysis.products import Misses, grid_of, misses
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS = (2, 4, 16)
PERCENT = (0, 50, 75)
AXES = (
    axis("bits of weights", BITS),
    axis("sparsity of weights", tuple(percent / 100 for percent in PERCENT)),
    axis("bits of activations", BITS),
)
OF_TWO = printed()["6"].at((axis("bits of weights", BITS), axis("bits of activations", BITS)))
"""Figure 6 at these bits: two of the three factors, and the largest misses that the paper prints of them."""
PRINTED_SIZE = float(claims.of_print(OF_TWO).size[0])
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "diagonal",
        "Measured capacities lie on the diagonal against the product of three.",
        "Figure 8",
        "slope of ln measured on ln product, through the origin",
        (0.8, 1.2),
        "where the paper prints two of the factors (Figures 2b, 6, 7) its slopes are .84 to .92",
        1.0,
        deviation=0.055,
    ),
    Claim(
        "size",
        "The product of three misses by no more than that of two in the paper.",
        "Figure 8, drawn without numbers; Figure 6 as printed, at 2 and 4 bits",
        "root mean square of measured - product, in rho, without the scatter of runs",
        (-math.inf, round(claims.SAME_SIZE * PRINTED_SIZE, 4)),
        "twice the misses that the paper prints at 2 and 4 bits, as in Figure 6",
        round(PRINTED_SIZE, 4),
        deviation=0.016,
    ),
)


def cells() -> dict[tuple[str, ...], Representation]:
    """Representations by the levels of `AXES`, the dense one left out."""
    found = {}
    for bits, width in zip(BITS, AXES[0].levels, strict=True):
        for percent, sparsity in zip(PERCENT, AXES[1].levels, strict=True):
            for other, activations in zip(BITS, AXES[2].levels, strict=True):
                parts = [f"top{percent}"] * (percent > 0) + [f"int{bits}"] * (bits < 16)
                name = "+".join(parts) + "-dense-scales" * (len(parts) > 1) if parts else "dense"
                tokens = operand("dense") if other == 16 else operand(f"int{other}", per_token=True)
                found[width, sparsity, activations] = Representation(operand(name), tokens, hadamard=128)
    del found["16", "0", "16"]
    return found


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every cell, and the dense curve."""
    grid = Grid(ladder, data)
    return [*grid.over(cells().values()), *grid.dense()]


def capacities(evidence: Evidence) -> CapacityGrid:
    """Ours over the three factors; raises UserError where there is no result."""
    return grid_of(evidence, f"{evidence.ladder}, ours", AXES, cells())


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Our number for every claim."""

    @cache
    def found() -> Misses:
        return misses(capacities(evidence))

    return estimates_of(
        {
            "diagonal": lambda: interval(found().slope, found().note),
            "size": lambda: interval(found().size, found().note),
        }
    )


def figure(evidence: Evidence) -> "Figure":
    """Measured against the product of three, as the paper draws it."""
    from capscale.analysis.product_figures import had, plane

    ours = had(lambda: capacities(evidence))
    return plane(ours, "Figure 8: sparsity and bits of the weights, bits of the activations")
