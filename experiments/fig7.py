"""Figure 7 of arXiv 2506.01863: capacity of sparse, then quantized weights is the product of both, with QuEST.

Claim (Finding 3): rho(s, b) = rho(s) rho(b), sparsities 0 to 75 % and 2 to 8 bits. The paper does not say whether the
mask is taken before the rotation or after it: both are run, each against its own factors, and the figure and the notes
say which is nearer to the print.
Expected: printed as a matrix of 5 x 4 with deviations of up to .05. What is measured lies above the product in 11 of 12
(mean ln ratio .07); root mean square .050.
Command: `capscale reproduce fig7`, 148 runs at nano, 20 minutes on two cores: 34 formats at two sizes,
the dense curve, two seeds each.
"""

from typing import TYPE_CHECKING

import numpy as np

from capscale.analysis import product_claims as claims
from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import estimates_of
from capscale.analysis.evidence import Evidence, interval
from capscale.analysis.factorization import CapacityGrid
from capscale.analysis.printed import axis, printed
from capscale.analysis.products import distance, grid_of, misses
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS = (2, 3, 4, 8, 16)
PERCENT = (0, 25, 50, 75)
AXES = (axis("bits of weights", BITS), axis("sparsity of weights", tuple(percent / 100 for percent in PERCENT)))
PRINTED = printed()["7"]
AFTER, BEFORE = "after", "before"
"""The mask is taken after the rotation, or before it."""
CLAIMS: tuple[Claim, ...] = tuple(
    claim
    for order in (AFTER, BEFORE)
    for words in (f", the mask taken {order} the rotation",)
    for claim in (
        claims.above(PRINTED, deviation=0.05, suffix=f"-{order}", words=words),
        claims.pattern(PRINTED, deviation=0.5, suffix=f"-{order}", words=words),
        claims.size(PRINTED, deviation=0.024, suffix=f"-{order}", words=words),
    )
)


def cells(order: str) -> dict[tuple[str, ...], Representation]:
    """Representations by the levels of `AXES`, the dense one left out."""
    found = {}
    for bits, width in zip(BITS, AXES[0].levels, strict=True):
        for percent, sparsity in zip(PERCENT, AXES[1].levels, strict=True):
            if bits == 16:
                name, rotated = f"top{percent}", order == AFTER
            elif percent == 0:
                name, rotated = f"int{bits}", True
            elif order == AFTER:
                name, rotated = f"top{percent}+int{bits}-dense-scales", True
            else:
                name, rotated = f"top{percent}+rotated-int{bits}", False
            if (bits, percent) != (16, 0):
                found[width, sparsity] = Representation(operand(name), hadamard=128 if rotated else None)
    return found


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Both orders, and the dense curve."""
    grid = Grid(ladder, data)
    return [*grid.over([*cells(AFTER).values(), *cells(BEFORE).values()]), *grid.dense()]


def capacities(evidence: Evidence, order: str) -> CapacityGrid:
    """Ours over both factors; raises UserError where there is no result."""
    return grid_of(evidence, f"{evidence.ladder}, ours, mask {order} the rotation", AXES, cells(order))


def nearer(evidence: Evidence) -> str:
    """Which order has the misses of the print, in words; raises UserError where one is not measured."""
    found = [misses(capacities(evidence, order), PRINTED.grid) for order in (AFTER, BEFORE)]
    after, before = (distance(each.logs, each.printed) for each in found)
    told = interval(before - after)
    which = AFTER if told.value > 0 else BEFORE
    sure = "told apart" if told.low > 0 or told.high < 0 else "not told apart"
    sizes = [f"{np.sqrt(max(each[0], 0.0)):.2f} {order}" for each, order in ((after, AFTER), (before, BEFORE))]
    return f"Nearer to the printed misses: mask {which} the rotation (ln ratios off by {', '.join(sizes)}; {sure})"


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Our number for every claim; notes of `pattern` say which order is nearer to the print."""

    def pattern(order: str) -> Estimate:
        found = misses(capacities(evidence, order), PRINTED.grid)
        try:
            note = f"{found.note}; {nearer(evidence)}"
        except UserError as reason:
            note = f"{found.note}; orders not compared: {reason}"
        return interval(found.pattern, note)

    found = {}
    for order in (AFTER, BEFORE):
        found |= claims.effects(lambda order=order: capacities(evidence, order), PRINTED, f"-{order}")
        found[f"pattern-{order}"] = lambda order=order: pattern(order)
    return estimates_of(found)


def figure(evidence: Evidence) -> "Figure":
    """Measured, product and error, both orders below the printed ones, and all in one plane."""
    from capscale.analysis.product_figures import had, product_figure

    ours = had(*(lambda order=order: capacities(evidence, order) for order in (AFTER, BEFORE)))
    try:
        note = nearer(evidence)
    except UserError:
        note = ""
    return product_figure(ours, PRINTED, "Figure 7: sparse, then integer weights, QuEST", note)
