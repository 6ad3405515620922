"""Which figures a report has, and what stands below each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from capscale.analysis import plots
from capscale.analysis.bench_figure import CAPTION, bench_plot
from capscale.analysis.figures import error_against_bits, profile_curves
from capscale.analysis.leaderboard import TableBench
from capscale.analysis.operands import facts
from capscale.analysis.sentences import notes
from capscale.analysis.sentences.rule import Rule, say
from capscale.analysis.study import Study


@dataclass(frozen=True)
class Picture:
    """A figure of the report."""

    name: str
    caption: str
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
    drawn: list[tuple[bool, str, Sequence[Rule], Callable[[], Figure]]] = [
        (
            any(math.isfinite(c.gmse) for c in shown),
            "capacity",
            notes.CAPACITY,
            lambda: plots.capacity_against_error(study),
        ),
        (True, "loss", notes.LOSS, lambda: plots.loss_against_size(study)),
        (
            any(math.isfinite(c.law) for c in shown),
            "agreement",
            notes.AGREEMENT,
            lambda: plots.measured_against_predicted(study),
        ),
        (
            len(study.law_profiles) > 0,
            "profiles",
            notes.PROFILES,
            lambda: profile_curves(
                list(study.law_profiles.values()),
                title=f"{study.law.law.name if study.law else ''} law, fitted to losses",
            ),
        ),
        (len(bits) > 0, "plane", notes.PLANE, lambda: error_against_bits(study, bits)),
    ]
    found = [
        Picture(name, " ".join(s.text for s in say(rules, study)), draw())
        for there, name, rules, draw in drawn
        if there
    ]
    return [*found, *([Picture("bench", f"The law bench. {CAPTION}", bench_plot([bench]))] if bench else [])]
