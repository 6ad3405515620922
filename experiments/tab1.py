"""Table 1 of arXiv 2506.01863: how well each law fits the losses of sparse and of quantized models.

Claim: capacity as one curve of GMSE fits quantized models far better than Kumar's law of the bits, sparse ones better
than Frantar's law of the sparsity, and both almost as well as a free capacity for each format ("decoupled").
Expected: RMSE of L on sparse models 5.7e-4 (Frantar), 4.2e-4 (decoupled), 4.7e-4 (tanh); on quantized models 4.5e-3
(Kumar), 1.9e-3 (decoupled), 2.1e-3 (tanh).

Run: `capscale reproduce tab1 --ladder nano`, 132 runs, 18 minutes on two cores, most of them those of other figures.
"""

import math
from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import estimates_of, notes
from capscale.analysis.evidence import Evidence, interval
from capscale.analysis.fit_errors import FitErrors, fit_errors, with_formats
from capscale.analysis.printed_tables import tables
from capscale.analysis.seeds import scatter
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTIZED = tuple(f"int{bits}" for bits in range(1, 9))
SPARSE = tuple(f"top{percent}" for percent in (10, 30, 50, 70, 90))
NEAR = math.log(1.25)
"""Largest ln ratio of errors that counts as almost as good."""
PRINTED = tables().fit_errors


class Columns(NamedTuple):
    """A column of the table: its name, the formats of its models, and its laws in the order of their claims."""

    name: str
    formats: tuple[str, ...]
    laws: tuple[str, ...]


SPARSITY = Columns("sparsity", SPARSE, ("frantar", "decoupled", "tanh"))
QUANTIZATION = Columns("quantization", QUANTIZED, ("kumar", "decoupled", "tanh"))


def _printed_ratio(column: Columns, law: str, other: str) -> float:
    return math.log(PRINTED[column.name][law] / PRINTED[column.name][other])


def _near(column: Columns) -> Claim:
    return Claim(
        name=f"tanh-near-decoupled-{column.name}",
        says=f"On {column.name} runs one curve of GMSE fits almost as well as a free capacity for each format.",
        source="Table 1",
        effect="ln of the RMSE of L by tanh over that by the decoupled law",
        accepted=(-math.inf, NEAR),
        why="a quarter more at most, twice the tenth that is printed: the curve then misses by less than .75 of what "
        "runs scatter",
        paper=_printed_ratio(column, "tanh", "decoupled"),
        deviation=0.025,  # 40 tables drawn from a tanh, scatter .008 nats
    )


CLAIMS = (
    Claim(
        name="kumar-worst",
        says="Kumar's law of the bits fits quantized models far worse than tanh of the error does.",
        source="Table 1",
        effect="ln of the RMSE of L by Kumar's law over that by tanh",
        accepted=(math.log(2), math.inf),
        why='a factor of 2, below the 2.1 that is printed: "worse by several times" is the claim, not its last digit',
        paper=_printed_ratio(QUANTIZATION, "kumar", "tanh"),
        null=0.0,
        deviation=0.1,  # 40 tables drawn from a tanh, scatter .008 nats
    ),
    _near(QUANTIZATION),
    Claim(
        name="frantar-above-tanh",
        says="Frantar's law of sparsity fits sparse models worse than tanh of the error does.",
        source="Table 1",
        effect="ln of the RMSE of L by Frantar's law over that by tanh",
        accepted=(0.0, math.inf),
        why="its sign: the scatter of small runs is in both errors and draws their ratio to 1",
        paper=_printed_ratio(SPARSITY, "frantar", "tanh"),
        null=0.0,
        deviation=0.06,  # 40 tables drawn from a tanh, scatter .008 nats
    ),
    _near(SPARSITY),
)
EXPLAINED = {
    "kumar-worst": (
        "Kumar's law is worst here too (RMSE .0309 nats; decoupled .0213, tanh .0240), by a factor of 1.3 in "
        "place of more than 2. Equal runs scatter by .013 nats, which no law can fit; taken out in quadrature, "
        "Kumar's misfit is 1.7 times the decoupled one."
    ),
}
"""Explanations that were looked at where a claim is not reproduced."""


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Integers and sparsities at four sizes, the dense curve, and dense runs on less text."""
    grid = Grid(ladder, data)
    every = [Representation(operand(name), hadamard=128) for name in QUANTIZED]
    every += [Representation(operand(name)) for name in SPARSE]
    return [*grid.over(every, grid.four), *grid.dense(), *grid.shorter()]


def fitted(evidence: Evidence, column: Columns) -> tuple[FitErrors, str]:
    """Errors of the laws of a column on its models and the dense ones, with a note of them and of what is missing."""
    table, note = with_formats(evidence.table, column.formats)
    found = fit_errors(table, column.laws)
    errors = ", ".join(f"{name} {found.rmse(name)[0]:.4f}" for name in column.laws)
    told = scatter(table)
    seeds = "" if told is None else f"equal runs scatter by {told.deviation:.4f}"
    return found, notes(f"RMSE in nats on {len(table)} runs: {errors}", seeds, note)


def ratios(evidence: Evidence, effects: Mapping[str, tuple[Columns, str, str]]) -> dict[str, Estimate]:
    """ln of the RMSE of one law over that of another, by claim; the laws of a column are fitted once."""
    errors = cache(lambda column: fitted(evidence, column))

    def ratio(column: Columns, law: str, other: str) -> Estimate:
        found, note = errors(column)
        return interval(found.log_ratio(law, other), note)

    return estimates_of({name: partial(ratio, *effect) for name, effect in effects.items()})


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Ratios of fit errors in both columns."""
    return ratios(
        evidence,
        {
            "kumar-worst": (QUANTIZATION, "kumar", "tanh"),
            "tanh-near-decoupled-quantization": (QUANTIZATION, "tanh", "decoupled"),
            "frantar-above-tanh": (SPARSITY, "frantar", "tanh"),
            "tanh-near-decoupled-sparsity": (SPARSITY, "tanh", "decoupled"),
        },
    )


def draw_errors(axes: "Axes", evidence: Evidence, column: Columns, printed: Mapping[str, float]) -> None:
    """RMSE of every law of a column, ours with 95 % bars and the printed ones."""
    from capscale.analysis import panels

    at = np.arange(len(column.laws))
    panels.printed_marks(axes, at.tolist(), [printed[law] for law in column.laws], "printed")
    try:
        (found, _), told = fitted(evidence, column), scatter(evidence.table)
    except UserError as reason:
        told = None
        panels.nothing(axes, str(reason))
    else:
        panels.bars(axes, at, np.stack([found.rmse(law) for law in column.laws]), panels.style(0), "ours")
    if told is not None:
        axes.axhline(told.deviation, color="#888888", linewidth=0.9, linestyle=panels.DASHED, label="scatter of seeds")
    axes.set_yscale("log")
    axes.set_ylim(2e-4, 0.15)
    axes.set_xticks(at, column.laws)
    axes.set_xlim(-0.6, len(column.laws) - 0.4)
    axes.set_ylabel("RMSE of L, nats per token", fontsize=9)


def figure(evidence: Evidence) -> "Figure":
    """Fit errors of the laws, a panel for each column of the table."""
    from capscale.analysis import panels

    drawn, every = panels.panels(1, 2, height=3.0)
    for axes, column in zip(every, (QUANTIZATION, SPARSITY), strict=True):
        draw_errors(axes, evidence, column, PRINTED[column.name])
        panels.title(axes, f"Table 1: {column.name}")
    panels.key(every[0], "upper right")
    return drawn
