"""Finding 1 of arXiv 2506.01863: inside a kind of representation, capacity is one function of the Gaussian error.

Claim: rho is a function of GMSE alone, the same for all instances of one kind: all integers, all sparsities, all
codebooks of one dimension. Whether one function serves all kinds the paper does not say; the picture and the notes tell
it beside.
Expected: a perfect order inside each kind, and a curve that misses no further than Table 3's does the capacities that
the paper prints.

Run: `capscale reproduce finding1 --ladder nano`, 152 runs, 21 minutes on two cores.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import Measured, estimates_of, measured, notes, rank_correlations
from capscale.analysis.evidence import Evidence, interval
from capscale.analysis.misfits import misfit
from capscale.capacity import TANH
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {
    "integers": tuple(f"int{bits}" for bits in range(1, 9)),
    "floats": ("e2m1", "e2m3", "e3m2", "e3m4"),
    "sparsity": tuple(f"top{percent}" for percent in (10, 30, 50, 70, 90)),
    "codebooks of dimension 2": ("higgs-d2-n4", "higgs-d2-n8", "higgs-d2-n16", "higgs-d2-n64", "higgs-d2-n256"),
}
ROTATED = ("integers", "floats", "codebooks of dimension 2")
AT_FOUR_SIZES = ("integers", "sparsity")


def _claim_name(statement: str, kind: str) -> str:
    return f"{statement}-{kind.partition(' ')[0]}"


CLAIMS = (
    *(
        Claim(
            name=_claim_name("order", kind),
            says=f"Among {kind} less error is more capacity.",
            source="Finding 1",
            effect="rank correlation of capacity with GMSE, sign turned",
            accepted=(0.5, 1.0),
            why="half of a perfect order: formats near dense are too close to be told apart by two sizes",
            paper=1.0,
            null=0.0,
            deviation=0.2 if kind == "floats" else 0.1,
        )
        for kind in KINDS
    ),
    *(
        Claim(
            name=_claim_name("one-curve", kind),
            says=f"The capacities of {kind} are one function of the error, tanh(F log_1/4 GMSE)^C.",
            source="Finding 1",
            effect="mean square of rho that the fitted curve misses, beyond scatter",
            accepted=(-math.inf, 0.003),
            why=".055 squared: so far the curve of Table 3 misses the capacities of integers that Figure 6 prints",
            paper=0.0,
            deviation=0.0009,  # scatter of .03 in rho, 2 to 6 degrees of freedom
        )
        for kind in KINDS
    ),
)


def _formats(kind: str) -> list[Representation]:
    return [Representation(operand(name), hadamard=128 if kind in ROTATED else None) for name in KINDS[kind]]


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every format of every kind, at four sizes where those are runs of other figures too, and the dense curve."""
    grid = Grid(ladder, data)
    every = [grid.over(_formats(kind), grid.four if kind in AT_FOUR_SIZES else grid.two) for kind in KINDS]
    return [*chain.from_iterable(every), *grid.dense()]


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Order and misfit of one curve inside every kind; of one curve through all kinds in the notes."""

    @cache
    def across() -> str:
        try:
            own = misfit(_every(evidence), TANH)
        except UserError:
            return ""
        return f"one curve through all kinds: {own.words}"

    def order(kind: str) -> Callable[[], Estimate]:
        def effect() -> Estimate:
            found = measured(evidence, _formats(kind), least=3)
            return interval(rank_correlations(found.gmse, found.rho), notes(f"{len(found.rows)} formats", found.note))

        return effect

    def one_curve(kind: str) -> Callable[[], Estimate]:
        def effect() -> Estimate:
            found = measured(evidence, _formats(kind), least=3)
            own = misfit(found, TANH)
            return interval(own.departure, notes(own.words, found.note, across()))

        return effect

    statements = {"order": order, "one-curve": one_curve}
    return estimates_of(
        {_claim_name(name, kind): effect(kind) for name, effect in statements.items() for kind in KINDS}
    )


def _every(evidence: Evidence) -> Measured:
    return measured(evidence, [each for kind in KINDS for each in _formats(kind)], least=3)


def figure(evidence: Evidence) -> "Figure":
    """rho against GMSE with a curve for every kind, and one through all."""
    from capscale.analysis import panels
    from capscale.analysis.operands import gaussian_error

    drawn, (axes,) = panels.panels(height=4.8)
    panels.against_error(axes, 7e-5, 0.6)
    for k, kind in enumerate(KINDS):
        look, series = panels.style(k), panels.found(evidence, _formats(kind))
        if series is not None:
            panels.on_a_curve(axes, series, TANH, look, kind.replace(" of dimension ", ", d = "))
    every = panels.found(evidence, [each for kind in KINDS for each in _formats(kind)])
    if every is not None:
        panels.curve(axes, every, TANH, panels.Line("#222222", panels.DASHED), "all kinds")
    panels.printed_integers(axes)
    panels.printed_sparsities(axes, lambda share: gaussian_error(f"top{100 * share:.0f}"))
    panels.shared_key(drawn, 2)
    return drawn
