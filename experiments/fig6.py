"""Figure 6 of arXiv 2506.01863: capacity of integer weights and integer activations is the product of both.

Claim (Finding 3): rho(INT b weights, INT c activations) = rho(b) rho(c), 1 to 4 bits and dense, with QuEST.
Expected: printed as a matrix of 5 x 5. What is measured lies above the product in all 16 products (mean ln ratio .19),
most at 1 bit; root mean square .046. The text says within .01 except at 2 bits and below; the four products of 3 and 4
bits are printed with errors of .03 to .05.
Command: `capscale reproduce fig6`, 108 runs at nano, 15 minutes on two cores: 24 formats at two sizes,
the dense curve, two seeds each.
"""

from typing import TYPE_CHECKING

from capscale.analysis import product_claims as claims
from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import estimates_of
from capscale.analysis.evidence import Evidence
from capscale.analysis.factorization import CapacityGrid
from capscale.analysis.printed import axis, printed
from capscale.analysis.products import grid_of
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS = (1, 2, 3, 4, 16)
AXES = (axis("bits of weights", BITS), axis("bits of activations", BITS))
PRINTED = printed()["6"]
CLAIMS: tuple[Claim, ...] = (
    claims.above(PRINTED, deviation=0.046),
    claims.pattern(PRINTED, deviation=0.14),
    claims.size(PRINTED, deviation=0.016),
    claims.within("Figure 6 and its text", deviation=0.043),
    claims.print_within("Figure 6, absolute error as printed"),
)
EXPLAINED = {
    "within": "With 3 and 4 bits on both sides ours miss by .060 (.027 to .088) at nano, all above the product; the "
    "paper's own panels print .03 to .05 there, inside that interval: the text is not met by the print either.",
    "size": "By a bound of twice the printed misses, set before the runs. By the stricter one, at most the print's, it "
    "fails: ours is .064 (.051 to .074), the print's .046.",
    "within-print": "Errors as printed, in which no run of ours takes part: with 3 and 4 bits on both sides they are "
    ".05, .03, .03 and .03. The products that are printed lie below what was measured in all four.",
}
"""Explanations that were tried for claims that are not reproduced."""


def cells() -> dict[tuple[str, ...], Representation]:
    """Representations by the levels of `AXES`, the dense one left out."""
    found = {}
    for bits, weights in zip(BITS, AXES[0].levels, strict=True):
        for other, activations in zip(BITS, AXES[1].levels, strict=True):
            w = operand("dense" if bits == 16 else f"int{bits}")
            a = operand("dense") if other == 16 else operand(f"int{other}", per_token=True)
            found[weights, activations] = Representation(w, a, hadamard=128)
    del found["16", "16"]
    return found


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """All pairs, either alone, and the dense curve."""
    grid = Grid(ladder, data)
    return [*grid.over(cells().values()), *grid.dense()]


def capacities(evidence: Evidence) -> CapacityGrid:
    """Ours over both factors; raises UserError where there is no result."""
    return grid_of(evidence, f"{evidence.ladder}, ours", AXES, cells())


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Our number for every claim."""

    def ours() -> CapacityGrid:
        return capacities(evidence)

    return estimates_of(claims.effects(ours, PRINTED) | claims.precision(ours, PRINTED))


def figure(evidence: Evidence) -> "Figure":
    """Measured, product and error, ours below the printed ones, and both in one plane."""
    from capscale.analysis.product_figures import had, product_figure

    return product_figure(
        had(lambda: capacities(evidence)), PRINTED, "Figure 6: integer weights, integer activations, QuEST"
    )
