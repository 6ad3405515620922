"""Figure 9 of arXiv 2506.01863: sparse, then quantized weights with the plain absmax-uniform quantizer.

Claim (Finding 3): rho(s, b) = rho(s) rho(b), sparsities 0 to 90 %, 2, 3, 4 and 8 bits.
Expected: printed as a matrix of 10 x 5, of which 5 x 5 are run. At 2 bits, where the quantizer alone is worth .05,
what is measured lies above the product (mean ln ratio .81 over the four that are run); root mean square of all .032.
The text says within .01 except at 2 bits and below: 21 of the 27 printed errors above 2 bits are, the largest is .04.
Command: `capscale reproduce fig9`, 108 runs at nano, 15 minutes on two cores: 24 formats at two sizes,
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

BITS = (2, 3, 4, 8, 16)
PERCENT = (0, 30, 50, 70, 90)
AXES = (axis("sparsity of weights", tuple(percent / 100 for percent in PERCENT)), axis("bits of weights", BITS))
WHOLE = printed()["9"]
"""The figure with its ten sparsities."""
PRINTED = WHOLE.at(AXES)


def at_2_bits(levels: tuple[str, ...]) -> bool:
    """Whether an entry has weights of 2 bits."""
    return levels[1] == "2"


CLAIMS: tuple[Claim, ...] = (
    claims.above(PRINTED, deviation=0.08, words=" at 2 bits", where=at_2_bits),
    claims.pattern(PRINTED, deviation=0.08),
    claims.size(PRINTED, deviation=0.017),
    claims.within("Figure 9 and its text", deviation=0.02),
    claims.print_within("Figure 9, absolute error as printed"),
)
EXPLAINED = {
    "within": "At nano products miss by .096 (.061 to .124) with 3 bits and .056 (0 to .102) with 4, all above it, "
    "and not with 8: 0 (0 to .062). The print has the same order, .02 to .04 at 3 bits and at most .01 from 4 on; ours "
    "is the larger effect of the same sign, in models a thousand times smaller.",
    "within-print": "Errors as printed, in which no run of ours takes part: 21 of 27 above 2 bits are at most .01, and "
    "the six of .02 to .04 are all at 3 bits. At 4 and 8 bits the text holds for every printed product.",
}
"""Explanations that were tried for claims that are not reproduced."""


def cells() -> dict[tuple[str, ...], Representation]:
    """Representations by the levels of `AXES`, the dense one left out."""
    found = {}
    for percent, sparsity in zip(PERCENT, AXES[0].levels, strict=True):
        for bits, width in zip(BITS, AXES[1].levels, strict=True):
            parts = [f"top{percent}"] * (percent > 0) + [f"absmax-int{bits}"] * (bits < 16)
            if parts:
                found[sparsity, width] = Representation(operand("+".join(parts)))
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

    return estimates_of(claims.effects(ours, PRINTED, where=at_2_bits) | claims.precision(ours, WHOLE))


def figure(evidence: Evidence) -> "Figure":
    """Measured, product and error, ours below the printed ones, and both in one plane."""
    from capscale.analysis.product_figures import had, product_figure

    return product_figure(had(lambda: capacities(evidence)), PRINTED, "Figure 9: sparse, then absmax-uniform weights")
