"""Rows that pull a fit, and what it is without them: said by every command that fits."""

from collections.abc import Iterable, Sequence

from capscale.analysis.forward_search import LEVEL
from capscale.analysis.inspection import Inspection
from capscale.analysis.outliers import Outlier
from capscale.analysis.sentences.rule import Rule, always, listing, number, plural

MOST_ROWS = 12
"""Rows that are spoken of one by one; report.json has all."""


def single_rows(of: Inspection) -> list[Outlier]:
    """The outlying rows of formats that are not outlying as a whole."""
    return [r for r in of.outlying.rows if r.curve not in of.outlying.formats]


def where(r: Outlier) -> str:
    """A row in words."""
    return f"{r.run} ({r.curve}, N = {r.N:.4g}, D = {r.D:.4g})"


def _row(of: Inspection, r: Outlier) -> str:
    return (
        f"{where(r)} pulls the {of.fit.law.name} fit: its loss is {r.loss:.4g} where the other runs say "
        f"{r.predicted:.4g}, {abs(r.deviations):.3g} standard deviations away; check its N, D and loss"
    )


def _more(of: Inspection) -> list[Outlier]:
    return single_rows(of)[MOST_ROWS:]


def _format(of: Inspection, curve: str) -> str:
    mine = [r for r in of.outlying.rows if r.curve == curve]
    side = "above" if mine[0].deviations > 0 else "below"
    size = sum(r.curve == curve for r in of.fit.table.rows)
    return (
        f"{len(mine)} of {plural(size, 'run')} of {curve} lie {side} what the {of.fit.law.name} law says of them when "
        "it is fitted to the others: it misses the format as a whole, or the format is not what its name says"
    )


def _set_aside(of: Inspection) -> str:
    """Rows that the fit without outlying ones leaves out."""
    single = len(single_rows(of))
    parts = [plural(single, "outlying run")] if single else []
    return listing([*parts, *(f"the runs of {c}" for c in of.outlying.formats)])


def _without(of: Inspection) -> str:
    found, fit = of.outlying, of.fit
    now = found.without.values
    numbers = [f"{n} {number(now[n])} ({number(fit.values[n])})" for n in ("alpha", "beta", "E") if n in now]
    rho = [f"rho of {c} {number(x)} ({number(fit.rho[c])})" for c, x in found.rho.items() if c != "dense"]
    return (
        f"without {_set_aside(of)} the {fit.law.name} fit has RMSE {number(found.rmse)} nats "
        f"({number(fit.rmse)} with), {listing([*numbers, *rho], 24)}; of clean tables about "
        f"{LEVEL:.0%} have a run named"
    )


def _wrong(of: Inspection) -> str:
    count, total = len(of.outlying.rows), len(of.fit.table)
    return (
        f"{count} of {total} runs lie outside the {of.fit.law.name} law fitted to the rest, as many as may: it is the "
        "law that does not describe these runs, rather than single runs that are off, and its numbers are not to be "
        "quoted"
    )


RULES = (
    Rule(
        "outlying row",
        lambda of, r: not of.outlying.law_is_wrong,
        _row,
        each=lambda of: single_rows(of)[:MOST_ROWS],
    ),
    Rule(
        "more outlying rows",
        lambda of: len(_more(of)) > 0 and not of.outlying.law_is_wrong,
        lambda of: f"and so do {plural(len(_more(of)), 'more run')}: {listing(r.run for r in _more(of))}",
    ),
    Rule("law wrong", lambda of: of.outlying.law_is_wrong, _wrong),
    Rule("outlying format", always, _format, each=lambda of: of.outlying.formats),
    Rule("without outlying rows", lambda of: len(of.outlying.rows) > 0, _without),
)
"""Of an `Inspection`."""


def _named(bench: Sequence[Inspection]) -> Iterable[tuple[Outlier, list[str]]]:
    """Every row that some law names, with those laws."""
    laws: dict[str, list[str]] = {}
    first: dict[str, Outlier] = {}
    for of in bench:
        for r in of.outlying.rows:
            laws.setdefault(r.run, []).append(of.fit.law.name)
            first.setdefault(r.run, r)
    return [(first[run], names) for run, names in laws.items()]


def _bench_row(bench: Sequence[Inspection], item: tuple[Outlier, list[str]]) -> str:
    r, names = item
    return (
        f"{where(r)} pulls the fits of {listing(names)}: its loss is {r.loss:.4g} where the other runs say "
        f"{r.predicted:.4g} by the {names[0]} law"
    )


def _bench_without(bench: Sequence[Inspection]) -> str:
    each = [
        f"{of.fit.law.name} {number(of.outlying.rmse)} ({number(of.fit.rmse)} with)" for of in bench if of.outlying.rows
    ]
    return f"RMSE of the fits without the runs that pull: {listing(each)}"


BENCH = (
    Rule("bench: outlying row", always, _bench_row, each=lambda bench: list(_named(bench))[:MOST_ROWS]),
    Rule("bench: without outlying rows", lambda bench: any(of.outlying.rows for of in bench), _bench_without),
)
"""Of the inspections of a bench, one for each law that was fitted."""
