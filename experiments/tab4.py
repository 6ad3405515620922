"""Table 4 of arXiv 2506.01863: forms of rho(GMSE) compared by the error of their fit.

Claim: tanh fits almost as well as a free capacity for each format, a logistic as well as tanh, and a logistic through
(0, 1) and (1, 0) worse than either.
Expected: RMSE of L 4.2e-4 (decoupled), 4.7e-4 (tanh), 4.9e-4 (logistic), 1.1e-3 (logistic through both ends). The first
two are those of the sparse models in Table 1, so the forms are compared on ours; the scatter of small runs is in every
error and draws ratios to 1. They are compared as well on the capacities of nine sparsities that Figure 9 prints, where
nothing is trained and rounding alone leaves room.

Run: `capscale reproduce tab4 --ladder nano`, the runs of `tab1`.
"""

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import Measured, estimates_of
from capscale.analysis.evidence import Evidence, interval
from capscale.analysis.misfits import of_formats, through
from capscale.analysis.printed import printed
from capscale.analysis.printed_tables import tables
from capscale.analysis.rounded import rounded
from capscale.capacity import FORMS
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.run import Run

from . import tab1

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRINTED = tables().forms
SPARSITY = tab1.Columns("sparsity", tab1.SPARSE, ("decoupled", "tanh", "logistic", "logistic-1-0"))
FORM_NAMES = SPARSITY.laws[1:]
FIGURE_9 = "Figure 9, 16 bits"


def _ratio(form: str, other: str) -> float:
    return math.log(PRINTED[form] / PRINTED[other])


CLAIMS = (
    Claim(
        name="tanh-near-decoupled",
        says="tanh fits almost as well as a free capacity for each format.",
        source="Table 4",
        effect="ln of the RMSE of L by tanh over that by the decoupled law, on sparse models",
        accepted=(-math.inf, tab1.NEAR),
        why="a quarter more at most, twice the tenth that is printed",
        paper=_ratio("tanh", "decoupled"),
        deviation=0.025,  # 40 tables drawn from a tanh, scatter .008 nats
    ),
    Claim(
        name="logistic-near-tanh",
        says="A logistic fits as well as tanh.",
        source="Table 4",
        effect="ln of the RMSE of L by the logistic over that by tanh, on sparse models",
        accepted=(-tab1.NEAR, tab1.NEAR),
        why="a quarter to either side: the four hundredths that are printed order nothing",
        paper=_ratio("logistic", "tanh"),
        deviation=0.07,  # 40 tables drawn from a tanh, scatter .008 nats
    ),
    Claim(
        name="anchored-worse",
        says="A logistic through (0, 1) and (1, 0) fits worse than one that is free.",
        source="Table 4",
        effect="ln of the RMSE of L by the anchored logistic over that by the free one, on sparse models",
        accepted=(0.0, math.inf),
        why="its sign: the scatter of small runs draws the ratio to 1",
        paper=_ratio("logistic-1-0", "logistic"),
        null=0.0,
        deviation=0.07,  # 40 tables drawn from a tanh, scatter .008 nats
    ),
    Claim(
        name="printed-logistic-near-tanh",
        says="A logistic fits the printed capacities of sparsity as well as tanh.",
        source="Table 4, Figure 9",
        effect="ln of the RMSE of rho by the logistic over that by tanh, on nine printed capacities",
        accepted=(-math.log(1.5), math.log(1.5)),
        why="neither is the better one by half: rounding to .01 leaves RMSEs about .003 by itself",
        paper=_ratio("logistic", "tanh"),
    ),
    Claim(
        name="printed-anchored-worse",
        says="A logistic through (0, 1) and (1, 0) fits the printed capacities of sparsity worse than a free one.",
        source="Table 4, Figure 9",
        effect="ln of the RMSE of rho by the anchored logistic over that by the free one, on nine printed capacities",
        accepted=(0.0, math.inf),
        why="its sign: rounding to .01 is in both errors and draws their ratio to 1",
        paper=_ratio("logistic-1-0", "logistic"),
        null=0.0,
    ),
)
EXPLAINED = {
    "printed-logistic-near-tanh": (
        "The paper's 4.9e-4 and 4.7e-4 are of losses that are not printed. Through the capacities that are "
        "(Figure 9, without quantization) the logistic form has an RMSE of rho of .026 and tanh .0058, with .003 "
        "of rounding in both, so the two statements are not of the same capacities."
    ),
}
"""Explanations that were looked at where a claim is not reproduced."""


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Those of Table 1: integers and sparsities."""
    return tab1.runs(ladder, data)


def printed_sparsities() -> Measured:
    """Capacities of sparse weights of 16 bits in Figure 9."""
    every = {share: rho for share, rho in printed()["9"].alone(0).items() if share != "0"}
    return rounded({f"top{100 * float(share):.0f}": rho for share, rho in every.items()}, FIGURE_9)


@cache
def printed_errors() -> dict[str, np.ndarray]:
    """RMSE of rho by form, each fitted to the printed capacities and refitted to what they may have been (1 + R,)."""
    found = printed_sparsities()
    curves = {name: of_formats(through(found, FORMS[name]), found.rows) for name in FORM_NAMES}
    return {
        name: np.sqrt(np.mean((curve - found.rho[:, : curve.shape[1]]) ** 2, axis=0)) for name, curve in curves.items()
    }


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Ratios of fit errors, on these runs and on printed capacities."""

    def on_print(form: str, other: str) -> Estimate:
        errors = printed_errors()
        each = ", ".join(f"{name} {errors[name][0]:.4f}" for name in FORM_NAMES)
        return interval(np.log(errors[form] / errors[other]), f"RMSE of rho: {each}")

    ours = tab1.ratios(
        evidence,
        {
            "tanh-near-decoupled": (SPARSITY, "tanh", "decoupled"),
            "logistic-near-tanh": (SPARSITY, "logistic", "tanh"),
            "anchored-worse": (SPARSITY, "logistic-1-0", "logistic"),
        },
    )
    return ours | estimates_of(
        {
            "printed-logistic-near-tanh": lambda: on_print("logistic", "tanh"),
            "printed-anchored-worse": lambda: on_print("logistic-1-0", "logistic"),
        }
    )


def figure(evidence: Evidence) -> "Figure":
    """Fit errors of the forms; beside them the forms through the printed capacities, and ours."""
    from capscale.analysis import panels

    drawn, (left, right) = panels.panels(1, 2, height=3.4)
    tab1.draw_errors(left, evidence, SPARSITY, PRINTED)
    left.set_xticks(range(len(SPARSITY.laws)), ["decoupled", "tanh", "logistic", "logistic\n(1, 0)"])
    panels.title(left, "Table 4, on sparse models")
    panels.key(left, "upper right")
    _curves(right, evidence)
    return drawn


def _curves(axes: "Axes", evidence: Evidence) -> None:
    from capscale.analysis import panels

    found = printed_sparsities()
    panels.against_error(axes, float(found.gmse.min()), float(found.gmse.max()))
    axes.set_xlabel("GMSE", fontsize=9)
    axes.set_ylim(0.0, 1.05)
    panels.printed_marks(axes, found.gmse.tolist(), found.rho[:, 0].tolist(), FIGURE_9)
    dashes = ("-", panels.DASHED, (0.0, (1.0, 1.5)))
    for k, name in enumerate(FORM_NAMES):
        law = through(found, FORMS[name], refits=0)
        x = np.geomspace(found.gmse.min() / 1.4, found.gmse.max() * 1.2, 150)
        look = panels.style(k + 1)
        axes.plot(x, law.capacity.rho(x), color=look.color, linestyle=dashes[k], linewidth=1.3, label=name, zorder=2)
    ours = panels.found(evidence, [Representation(operand(name)) for name in tab1.SPARSE])
    if ours is not None:
        panels.bars(axes, ours.gmse, ours.rho, panels.style(0), "ours")
    panels.key(axes, "lower left")
