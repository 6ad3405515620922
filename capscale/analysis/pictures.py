"""Which figures a report has, and what stands below each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from capscale.analysis import plots
from capscale.analysis.bench_figure import CAPTION, bench_plot
from capscale.analysis.figures import error_against_bits, profile_curves
from capscale.analysis.leaderboard import TableBench
from capscale.analysis.loss_figure import loss_against_size
from capscale.analysis.operands import facts
from capscale.analysis.sentences import alts, notes
from capscale.analysis.sentences.rule import Rule, texts
from capscale.analysis.study import Study


@dataclass(frozen=True)
class Picture:
    """A figure of the report."""

    name: str
    caption: str
    alt: str
    """The finding in words, for those who do not see the figure."""
    figure: Figure


def pictures(study: Study, bench: TableBench | None = None) -> list[Picture]:
    """The figures that there is something to draw in, in the order of the page."""
    first = study.core.first_of_curve
    shown = [c for c in study.capacities if c.is_measured]
    bits = {
        c.curve: facts(first[c.curve].weights).stored
        for c in shown
        if c.in_law and math.isfinite(c.gmse) and first[c.curve].activations == "dense"
    }
    bits = {c: b for c, b in bits.items() if math.isfinite(b)}
    drawn: list[tuple[bool, str, Sequence[Rule], Sequence[Rule], Callable[[], Figure]]] = [
        (
            any(math.isfinite(c.gmse) for c in shown),
            "capacity",
            notes.CAPACITY,
            alts.CAPACITY,
            lambda: plots.capacity_against_error(study),
        ),
        (True, "loss", notes.LOSS, alts.LOSS, lambda: loss_against_size(study)),
        (
            any(math.isfinite(c.law) for c in shown),
            "agreement",
            notes.AGREEMENT,
            alts.AGREEMENT,
            lambda: plots.measured_against_predicted(study),
        ),
        (
            len(study.law_profiles) > 0,
            "profiles",
            notes.PROFILES,
            alts.PROFILES,
            lambda: profile_curves(
                list(study.law_profiles.values()),
                title=f"{study.law.law.name if study.law else ''} law, fitted to losses",
            ),
        ),
        (len(bits) > 0, "plane", notes.PLANE, alts.PLANE, lambda: error_against_bits(study, bits)),
    ]
    found = [
        Picture(name, " ".join(texts(caption, study)), " ".join(texts(alt, study)), draw())
        for there, name, caption, alt, draw in drawn
        if there
    ]
    return [*found, *([bench_picture(bench, "bench", "The law bench. ")] if bench else [])]


def bench_picture(bench: TableBench, name: str, opening: str = "") -> Picture:
    """The figure of the laws on one table; `opening` stands before its caption."""
    return Picture(name, opening + CAPTION, " ".join(texts(alts.BENCH, bench)), bench_plot([bench]))
