"""Figures 1b and 1c of arXiv 2506.01863: noise of a format's GMSE is worth what the format is.

Claim (Finding 2): training with Gaussian noise of variance GMSE(R) mean(w^2) on the weights (1b), or on weights and
activations (1c), has the capacity of R; so rho(4^-b) bounds what a format of b bits can have, and QuEST is close to it.
Expected: the figures are drawn, without numbers. Through Table 3's curve INT 1 to 4 lie below rho(4^-b) by .38, .26,
.16 and .10 in ln rho.

Run: `capscale reproduce fig1bc --ladder nano`, 92 runs, 13 minutes on two cores.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import differences, estimates_of
from capscale.analysis.evidence import Evidence, interval
from capscale.analysis.misfits import squares_beyond_scatter
from capscale.capacity import TANH
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS = (1, 2, 3, 4)

_WORTH = "ln(rho of noise / rho of the format), mean over 1 to 4 bits"
_TENTH = "10 %: so far the curve of Table 3 misses the capacities of integers that Figure 6 prints"
_APART = "mean square over 1 to 4 bits of ln(rho of noise / rho of the format), beyond scatter"
CLAIMS = (
    Claim(
        name="noise-on-weights",
        says="Gaussian noise of an integer format's error on the weights is worth what the format is.",
        source="Figure 1b, Finding 2",
        effect=_WORTH,
        accepted=(-0.1, 0.1),
        why=_TENTH,
        paper=0.0,
        deviation=0.025,  # the mean of four differences
    ),
    Claim(
        name="noise-on-weights-at-every-width",
        says="So it is at every number of bits.",
        source="Figure 1b, Finding 2",
        effect=_APART,
        accepted=(-math.inf, 0.01),
        why=_TENTH,
        paper=0.0,
        deviation=0.0018,  # of four squares, each of a difference with deviation .05
    ),
    Claim(
        name="noise-on-both",
        says="Noise of the integers' errors on weights and activations is worth what integers on both are.",
        source="Figure 1c, Finding 2",
        effect=_WORTH,
        accepted=(-0.1, 0.1),
        why=_TENTH,
        paper=0.0,
        deviation=0.025,
    ),
    Claim(
        name="noise-on-both-at-every-width",
        says="So it is at every number of bits.",
        source="Figure 1c, Finding 2",
        effect=_APART,
        accepted=(-math.inf, 0.01),
        why=_TENTH,
        paper=0.0,
        deviation=0.0018,
    ),
    Claim(
        name="integers-below-the-bound",
        says="QuEST's integers are below, and close to, what noise of error 4^-b is worth.",
        source="Figure 1b, Finding 2",
        effect="ln(rho of integers / rho of noise of error 4^-b), mean over 1 to 4 bits",
        accepted=(-0.45, 0.0),
        why="below, by no more than twice what they are through Table 3's curve",
        paper=-0.225,  # through Table 3's curve
        null=0.0,
        deviation=0.025,
    ),
)


def _integers(*, both: bool = False) -> list[Representation]:
    weights = [operand(f"int{bits}") for bits in BITS]
    if not both:
        return [Representation(each, hadamard=128) for each in weights]
    tokens = [operand(f"int{bits}", per_token=True) for bits in BITS]
    return [Representation(w, a, hadamard=128) for w, a in zip(weights, tokens, strict=True)]


def _noises(*, both: bool = False) -> list[Representation]:
    """Noise with the error of every integer format."""
    weights = [operand(f"noise-as-int{bits}") for bits in BITS]
    if not both:
        return [Representation(each) for each in weights]
    tokens = [operand(f"noise-as-int{bits}", per_token=True) for bits in BITS]
    return [Representation(w, a) for w, a in zip(weights, tokens, strict=True)]


def _bounds() -> list[Representation]:
    """Noise of error 4^-b."""
    return [Representation(operand(f"noise{bits}")) for bits in BITS]


EXPLAINED = {
    "noise-on-weights": (
        "Noise of int4's error has .63 of a dense model's capacity where int4 has .80, and of int2's .25 where "
        "int2 has .40, at widths of 16 and 24; on both operands the two agree better (.52 and .56 at 4 bits). "
        "Noise drawn anew at every step and in evaluation is nothing that weights can settle on, and a row of 16 "
        "inputs averages little of it; deviation by row or by tensor is within 5 % "
        "(experiments/results/README.md)."
    ),
    "noise-on-weights-at-every-width": (
        "The largest of the four bit widths misses by this much; see `noise-on-weights`: every width misses in "
        "the same direction."
    ),
    "integers-below-the-bound": (
        "The bound is measured with noise, which is worth less here than it should be (`noise-on-weights`): noise "
        "of variance 4^-2 has .32, and int2, whose error is larger, .40. A bound that a format exceeds is none, "
        "at this scale."
    ),
}
"""Explanations that were looked at where a claim is not reproduced."""


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Integers and the noise of their errors, on weights alone and on both operands; noise at 4^-b as the bound."""
    grid = Grid(ladder, data)
    return [
        *grid.over(_integers()),
        *grid.over(_noises()),
        *grid.over(_bounds()),
        *grid.over(_integers(both=True)),
        *grid.over(_noises(both=True)),
        *grid.dense(),
    ]


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Ratios of capacities: noise over integers, and integers over the bound."""

    def mean(first: list[Representation], second: list[Representation]) -> Callable[[], Estimate]:
        def effect() -> Estimate:
            each, note = differences(evidence, zip(first, second, strict=True), least=2)
            return interval(np.mean(each, axis=0), note)

        return effect

    def apart(first: list[Representation], second: list[Representation]) -> Callable[[], Estimate]:
        def effect() -> Estimate:
            each, note = differences(evidence, zip(first, second, strict=True), least=2)
            return interval(squares_beyond_scatter(each), note)

        return effect

    weights, both = (_noises(), _integers()), (_noises(both=True), _integers(both=True))
    return estimates_of(
        {
            "noise-on-weights": mean(*weights),
            "noise-on-weights-at-every-width": apart(*weights),
            "noise-on-both": mean(*both),
            "noise-on-both-at-every-width": apart(*both),
            "integers-below-the-bound": mean(_integers(), _bounds()),
        }
    )


def figure(evidence: Evidence) -> "Figure":
    """rho against GMSE for weights (1b), and for weights and activations (1c)."""
    from capscale.analysis import panels

    drawn, every = panels.panels(1, 2, height=3.6)
    kinds = (
        (_integers, "INT, QuEST's recipe", panels.style(0)),
        (_noises, "noise of the same error", panels.style(1)),
    )
    for k, (axes, words) in enumerate(zip(every, ("Figure 1b: weights", "Figure 1c: both operands"), strict=True)):
        panels.title(axes, words)
        panels.against_error(axes, 4.0**-4, 0.37, words=False)
        for aside, (of, name, look) in zip((0.95, 1.05), kinds, strict=True):
            series = panels.found(evidence, of(both=k == 1))
            if series is not None:
                panels.bars(axes, aside * series.gmse, series.rho, look, name)
        bound = panels.found(evidence, _bounds()) if k == 0 else None
        if bound is not None:
            panels.on_a_curve(axes, bound, TANH, panels.style(2), "noise of error 4$^{-b}$")
        (panels.printed_integers if k == 0 else panels.printed_integer_pairs)(axes)
    every[0].set_ylabel("capacity ρ", fontsize=9)
    panels.shared_key(drawn, 2)
    return drawn
