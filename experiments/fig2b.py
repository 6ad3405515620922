"""Figure 2b of arXiv 2506.01863: capacity of sparse weights and sparse activations is the product of both.

Claim (Finding 3): rho(s, t) = rho(s, 0) rho(0, t) for sparsities s of the weights and t of the activations, 0 to 80 %.
Expected: printed as a matrix of 5 x 5. The text says within .01; 10 of the 16 printed errors are, the largest is .03.
What is measured lies above the product (mean ln ratio .11), most where both are sparse. Root mean square of the
printed misses .018.
Command: `capscale reproduce fig2b`, 108 runs at nano, 15 minutes on two cores: 24 formats at two sizes,
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
from capscale.representation import DENSE, Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERCENT = (0, 20, 40, 60, 80)
SHARES = tuple(percent / 100 for percent in PERCENT)
AXES = (axis("sparsity of weights", SHARES), axis("sparsity of activations", SHARES))
PRINTED = printed()["2b"]
CLAIMS: tuple[Claim, ...] = (
    claims.above(PRINTED, deviation=0.05),
    claims.pattern(PRINTED, deviation=0.22),
    claims.size(PRINTED, deviation=0.016),
    claims.within("Figure 2b and its text", deviation=0.016),
    claims.print_within("Figure 2b, absolute error as printed"),
)
EXPLAINED = {
    "within-print": "Errors as printed, in which no run of ours takes part: 10 of 16 are at most .01, six are .02 or "
    "more. All of these have 60 or 80 % on a side, and measured capacities of .08 to .25."
}
"""Explanations that were tried for claims that are not reproduced."""


def cells() -> dict[tuple[str, ...], Representation]:
    """Representations by the levels of `AXES`, the dense one left out."""
    found = {}
    for percent, weights in zip(PERCENT, AXES[0].levels, strict=True):
        for other, activations in zip(PERCENT, AXES[1].levels, strict=True):
            w = operand(f"top{percent}" if percent else "dense")
            a = operand(f"top{other}", per_token=True) if other else operand("dense")
            found[weights, activations] = Representation(w, a)
    return {levels: each for levels, each in found.items() if each != DENSE}


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

    return product_figure(had(lambda: capacities(evidence)), PRINTED, "Figure 2b: sparse weights, sparse activations")
