"""Fits and studies as tables on a terminal."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from capscale.analysis.extensions import Extensions
from capscale.analysis.inspection import Inspection
from capscale.analysis.sentences import caveats, fits, quotable, summary
from capscale.analysis.sentences import further as further_number
from capscale.analysis.sentences.rule import say
from capscale.analysis.study import Study
from capscale.analysis.uncertainty import Bootstrap, Interval
from capscale.realised import Realised


def number(x: float, style: str = ".4g") -> str:
    """A number, or a dash where there is none."""
    return format(x, style) if math.isfinite(x) else "–"


def passing(weights: Realised) -> str:
    """Share of gradients that pass to these weights, and to Gaussian ones."""
    return f"{number(weights.pass_rate_end, '.0%')} / {number(weights.pass_rate_gaussian, '.0%')}"


def span(interval: Interval, style: str = ".4g") -> str:
    """An interval, one-sided where an end lies beyond the bounds, a dash where both do."""
    low, high = (math.isfinite(end) for end in interval[1:])
    if low and high:
        return f"{interval.low:{style}} – {interval.high:{style}}"
    return f"> {interval.low:{style}}" if low else f"< {interval.high:{style}}" if high else "–"


def _with_span(interval: Interval | None) -> tuple[str, str]:
    """An estimate and its interval; dashes for none."""
    return (f"{interval.estimate:.3f}", span(interval, ".3f")) if interval else ("–", "–")


def stated(interval: Interval, style: str) -> str:
    """An interval of a prediction, or that none is stated."""
    return span(interval, style) if math.isfinite(interval.low) else "not stated"


def wide() -> Console:
    """The terminal; 120 columns where the output is none and says no width, for tables that need them."""
    console = Console()
    return Console(width=120) if console.width < 100 and not console.is_terminal else console


def grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=escape(title), title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(escape(name), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    (console or Console()).print(table)


def sentences(title: str, lines: Sequence[str]) -> None:
    """A titled list of sentences."""
    if lines:
        console = Console()
        console.print(f"[bold]{title}[/bold]")
        for line in lines:
            console.print(f"- {line}", markup=False, highlight=False)


def print_fit(inspected: Inspection, draws: Bootstrap, further: Extensions | None = None) -> None:
    """Capacities first, then the law's numbers, what is not identified, and which further number the table asks for."""
    fit, profiles = inspected.fit, inspected.profiles
    capacities = inspected.rho.items()
    if capacities:
        rows = [
            (c, "not measured", "–") if c in inspected.not_measured else (c, f"{i.estimate:.3f}", span(i, ".3f"))
            for c, i in capacities
        ]
        grid("Capacities", ("format", "rho", "95 % bootstrap"), rows)
    rows, loose, wrong = [], quotable.not_identified(inspected), quotable.of_a_wrong_law(inspected)
    for name, value in fit.values.items():
        if name.startswith("rho["):
            continue
        if name in fit.constraints.fixed:
            rows.append((name, number(value), "fixed", ""))
            continue
        if name in inspected.not_told:
            rows.append((name, "not measured", "–", "–"))
            continue
        if name in loose | wrong:
            rows.append((name, number(value), "not identified" if name in loose else "law contradicted", "–"))
            continue
        profile = span(profiles[name].interval()) if name in profiles else ""
        rows.append((name, number(value), span(draws.interval(name)), profile))
    grid(fit.law.equation, ("number", "value", "95 % bootstrap", "95 % profile"), rows)
    quality = (
        f"RMSE {fit.rmse:.5f} nats over {len(fit.table)} runs; delta {fit.settings.delta:g} acts on "
        f"{fit.huber_share:.0%}; {fit.agreeing} of {fit.settings.starts} starts agree; "
        f"{draws.converged.mean():.1%} of resamples converged"
    )
    sentences("Fit", [quality])
    sentences("Not identified, or to be known", [s.text for s in say(fits.RULES, inspected)])
    if further is not None:
        sentences("What the table asks of the additive law", [s.text for s in say(further_number.RULES, further)])
    sentences("Rows", [f"{r.row}: {r.what}" for r in fit.table.remarks])


def print_study(study: Study) -> None:
    """The capacities, the reading and the limits."""
    rows = [
        (
            c.curve + ("" if c.in_law else " *"),
            number(c.gmse),
            number(c.weights.error_end),
            passing(c.weights),
            f"{c.rho.estimate:.3f}" if c.is_measured else "not measured",
            span(c.rho, ".3f") if c.is_measured else "–",
            number(c.kind_law, ".3f"),
            number(c.law, ".3f"),
        )
        for c in study.capacities
    ]
    if rows:
        grid(
            "Capacity of each format",
            ("format", "GMSE", "realised", "pass / Gaussian", "rho", "95 %", "rho, own kind", "rho, all kinds"),
            rows,
        )
    if study.kinds:
        kinds = [(k.name, len(k.curves), k.rank, k.lsat) for k in study.kinds]
        if len(kinds) > 1:
            kinds.append(("all kinds", sum(len(k.curves) for k in study.kinds), study.across.rank, None))
        ends = any(lsat for *_, lsat in kinds)
        shown = [
            (name, str(count), *_with_span(r), *(_with_span(lsat) if ends else ())) for name, count, r, lsat in kinds
        ]
        columns = ("kind", "formats", "", "95 %", *(("rho ends at", "95 %") if ends else ()))
        grid("Rank correlation of rho with GMSE (1: perfect order)", columns, shown)
    sentences("In short", [s.text for s in say(summary.RULES, study)])
    sentences("What this does not show", [s.text for s in say(caveats.RULES, study)])
    sentences("Runs", [f"{r.row}: {r.what}" for r in study.table.remarks])
