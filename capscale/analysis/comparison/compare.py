"""Two tables compared: every number of `capscale compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from capscale.analysis.comparison.pairs import LossDifference, Pair, loss_differences, pairs
from capscale.analysis.comparison.settings import Setting, differing, of_the_text, settings, span
from capscale.analysis.evidence import RESAMPLES, capacities_of
from capscale.analysis.fit import Settings, fit
from capscale.analysis.inspection import inspect
from capscale.analysis.law import Law
from capscale.analysis.laws import LAWS
from capscale.analysis.measure import Capacities
from capscale.analysis.selection import of_known_error, rows_of
from capscale.analysis.table import Table
from capscale.analysis.uncertainty import Bootstrap, Interval, bootstrap
from capscale.errors import UserError


class NumberDifference(NamedTuple):
    """A capacity, or a number of a law, of both tables, and the second's less the first's, with 95 % intervals."""

    name: str
    first: Interval
    second: Interval
    difference: Interval

    @property
    def told(self) -> bool:
        """Whether the interval of the difference leaves 0 out."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class Comparison:
    """All that two tables share, and in which they differ; the second's less the first's everywhere."""

    first: Table
    second: Table
    pairs: tuple[Pair, ...]
    losses: tuple[LossDifference, ...]
    """Empty where losses are not comparable."""
    capacities: tuple[NumberDifference, ...]
    law: str
    numbers: tuple[NumberDifference, ...]
    """Of the law, fitted to each table; empty where it cannot be fitted to one of them."""
    settings: tuple[Setting, ...]
    losses_why_not: str
    """Why losses are not comparable; empty where they are."""
    capacities_why_not: str
    law_why_not: str
    only: tuple[tuple[str, ...], tuple[str, ...]]
    """Formats that one table has and the other has not."""

    @property
    def same_rows(self) -> bool:
        """Whether a law sees the very same runs in both."""
        return self.first.sha256 == self.second.sha256

    @property
    def comparable(self) -> bool:
        """Whether anything of the two can be held against each other."""
        return not (self.losses_why_not and self.capacities_why_not and self.law_why_not)


def compare(
    first: Table,
    second: Table,
    law: Law = LAWS["tanh"],
    resamples: int = RESAMPLES,
    sources: tuple[str, str] | None = None,
) -> Comparison:
    """Two tables held against each other.

    Errors of the two tables are taken as independent; where both hold the very same runs their differences have smaller
    errors than stated. Equal tables are resampled alike, so that every difference is 0.

    Args:
      first: a table.
      second: another, whose differences from the first are told.
      law: fitted to both.
      resamples: of capacities and of the law's numbers.
      sources: where the tables were read from, for what results of a sweep say of their runs; by default their own.

    Raises:
      UserError: fewer than 2 resamples. What cannot be compared is in the result, with its reason.
    """
    if resamples < 2:
        raise UserError(f"bootstrap={resamples}: at least 2 resamples")
    shared_sizes = sorted({r.N for r in first.rows} & {r.N for r in second.rows})
    found = [
        settings(path, table, shared_sizes) | _spans(table)
        for path, table in zip(sources or (first.source, second.source), (first, second), strict=True)
    ]
    changed = differing(*found)
    paired = pairs(first, second)
    why_no_losses, losses = _why_no_losses(changed), ()
    if not why_no_losses:
        losses = tuple(loss_differences(first, second, paired))
        why_no_losses = "" if losses else "no format was trained at one size and number of tokens in both"
    seeds = (0, 0) if first.sha256 == second.sha256 else (0, 1)
    capacities, why_no_capacities = _capacities(first, second, resamples, seeds)
    numbers, why_no_law = _numbers(first, second, law, resamples, seeds)
    names = [{r.recipe: c for c, r in table.first_of_curve.items()} for table in (first, second)]
    only = tuple(tuple(c for key, c in names[i].items() if key not in names[1 - i]) for i in (0, 1))
    return Comparison(
        first=first,
        second=second,
        pairs=tuple(paired),
        losses=losses,
        capacities=capacities,
        law=law.name,
        numbers=numbers,
        settings=tuple(changed),
        losses_why_not=why_no_losses,
        capacities_why_not=why_no_capacities,
        law_why_not=why_no_law,
        only=(only[0], only[1]),
    )


def _spans(table: Table) -> dict[str, set[str]]:
    N, D = table.column("N"), table.column("D")
    seeds = sorted({f"{r.seed:g}" for r in table.rows if np.isfinite(r.seed)})
    return {
        "sizes N": {span(N.tolist())},
        "tokens D": {span(D.tolist())},
        "tokens per parameter": {span((D / N).tolist())},
        **({"seeds": set(seeds)} if seeds else {}),
    }


def _why_no_losses(changed: Sequence[Setting]) -> str:
    apart = [*of_the_text(changed), *(s for s in changed if s.name == "family")]
    named = "; ".join(f"{s.name} {s.first} in one, {s.second} in the other" for s in apart)
    return f"losses are of different texts or models: {named}" if named else ""


def _capacities(
    first: Table, second: Table, resamples: int, seeds: tuple[int, int]
) -> tuple[tuple[NumberDifference, ...], str]:
    """Capacities of formats that are measured in both, and why there is none."""
    for table in (first, second):
        if "dense" not in table.curves:
            return (), f"{table.source} has no dense runs, of whose size a capacity is a share"
        if all(r.is_dense for r in table.rows):
            return (), f"{table.source} has dense runs only"
    tables = (first, second)
    measured = [capacities_of(t, resamples, seed) for t, seed in zip(tables, seeds, strict=True)]
    places = [
        {t.first_of_curve[c].recipe: i for i, c in enumerate(m.curves) if m.measured[i]}
        for t, m in zip(tables, measured, strict=True)
    ]
    shared = [key for key in places[0] if key in places[1]]
    if not shared:
        reasons = [f"{t.source}: {why}" for t, m in zip(tables, measured, strict=True) for why in set(m.why_not) if why]
        why = "no format is measured in both"
        return (), f"{why} ({'; '.join(reasons)})" if reasons else why
    found = [_difference(measured, places[0][key], places[1][key]) for key in shared]
    return tuple(found), ""


def _difference(measured: Sequence[Capacities], first: int, second: int) -> NumberDifference:
    one, other = measured
    return number_difference(
        one.curves[first], (one.rho[first], other.rho[second]), (one.draws[:, first], other.draws[:, second])
    )


def number_difference(name: str, values: tuple[float, float], draws: tuple[np.ndarray, np.ndarray]) -> NumberDifference:
    """Estimates of two tables with their resamples (S,), as many of each, which are independent of one another."""
    return NumberDifference(
        name,
        _interval(values[0], draws[0]),
        _interval(values[1], draws[1]),
        _interval(values[1] - values[0], draws[1] - draws[0]),
    )


def _interval(value: float, draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def _numbers(
    first: Table, second: Table, law: Law, resamples: int, seeds: tuple[int, int]
) -> tuple[tuple[NumberDifference, ...], str]:
    """Numbers of the law that both tables tell, and why there is none."""
    found: list[Bootstrap] = []
    untold: set[str] = set()
    for table, seed in zip((first, second), seeds, strict=True):
        try:
            fitted = fit(of_known_error(rows_of(table, law)), law, Settings())
        except UserError as reason:
            return (), f"{table.source}: {str(reason).removeprefix(f'{table.source}: ')}"
        found.append(bootstrap(fitted, resamples, seed))
        untold |= {*inspect(fitted, profiled=False).not_told, *fitted.bounds_hit}
    one, other = found
    told = [{n for n in b.fit.values if n in b.fit.problem.names} for b in found]
    names = [n for n in one.fit.values if n in told[0] & told[1] - untold]
    columns = [[b.fit.problem.names.index(n) for n in names] for b in found]
    drawn = [
        number_difference(
            n, (one.fit.values[n], other.fit.values[n]), (one.values[:, columns[0][k]], other.values[:, columns[1][k]])
        )
        for k, n in enumerate(names)
    ]
    return tuple(drawn), "" if drawn else "no number of the law is told by both tables"
