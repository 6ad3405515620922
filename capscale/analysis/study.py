"""Everything that a report says about one table, as values: capacities first, then the law, then its limits."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from capscale.analysis.equivalence import SAME_TOKENS, Equivalent, direct_capacity, equivalents
from capscale.analysis.findings import Finding, findings
from capscale.analysis.fit import Constraints, Fit, Settings, fit
from capscale.analysis.laws import LAWS, Law
from capscale.analysis.predict import capacity_of
from capscale.analysis.table import Table
from capscale.analysis.uncertainty import Bootstrap, Interval, Profile, bootstrap, profile
from capscale.errors import UserError

TIE = 1.0
"""Two capacities closer than this many standard deviations of their difference are a near-tie."""


@dataclass(frozen=True)
class CapacityRow:
    """Capacity of one format, measured."""

    curve: str
    gmse: float
    """Of the one compressed operand; NaN where both are, whose law is a product."""
    rho: Interval
    """From the decoupled law, with its 95 % bootstrap interval."""
    deviation: float
    """Bootstrap standard deviation of rho."""
    direct: float
    """From interpolating the dense losses at equal D; NaN where they do not allow it."""
    over_E: tuple[float, float]
    """Smallest and largest rho as E is fixed at values through its 95 % profile interval."""
    law: float
    """What the law of GMSE says."""
    in_law: bool
    """Whether this format's runs were used to fit the law of GMSE."""
    runs: int


@dataclass(frozen=True)
class Tie:
    """Two formats that this table cannot order with confidence."""

    first: str
    second: str
    difference: float
    deviation: float


@dataclass(frozen=True)
class Study:
    """A table, its capacities and its law."""

    table: Table
    core: Table
    """The rows used for the capacities: of the tokens that compressed runs were trained for."""
    free: Fit
    free_bootstrap: Bootstrap
    free_profiles: Mapping[str, Profile]
    law: Fit
    law_bootstrap: Bootstrap
    law_profiles: Mapping[str, Profile]
    capacities: tuple[CapacityRow, ...]
    equivalents: tuple[Equivalent, ...]
    rank_correlation: Interval
    """Spearman correlation of rho with GMSE over the formats in the law, sign turned: 1 is perfect order."""
    correlation: float
    """Pearson correlation of measured rho with the law's."""
    ties: tuple[Tie, ...]
    findings: tuple[Finding, ...]


def core_rows(table: Table) -> Table:
    """Rows at the numbers of tokens where compressed formats were trained.

    Extra dense runs at other D would only bring in beta, which capacities do not need.
    """
    compressed = np.array([not r.is_dense for r in table.rows])
    if not compressed.any():
        raise UserError(f"{table.source}: dense runs only; there is no capacity to measure; use --form dense")
    log_d = np.log(table.column("D"))
    wanted = np.unique(log_d[compressed])
    return table.select(np.min(np.abs(log_d[:, None] - wanted[None, :]), axis=1) < SAME_TOKENS)


def study(
    table: Table,
    law: Law = LAWS["tanh"],
    settings: Settings | None = None,
    constraints: Constraints | None = None,
    resamples: int = 1000,
) -> Study:
    """Measure the capacities in `table` and fit `law` to them. Raises UserError where there are none to measure."""
    settings = settings or Settings()
    core = core_rows(table)
    free = fit(core, LAWS["decoupled"], settings)
    free_bootstrap = bootstrap(free, resamples)
    usable = core.select(np.array([r.is_plain for r in core.rows]))
    fitted = fit(usable, law, settings, constraints)
    law_bootstrap = bootstrap(fitted, resamples)
    free_profiles, law_profiles = profiles(free), profiles(fitted)
    points = tuple(equivalents(core))
    capacities = _capacities(core, free_bootstrap, free_profiles, fitted, points)
    return Study(
        table,
        core,
        free,
        free_bootstrap,
        free_profiles,
        fitted,
        law_bootstrap,
        law_profiles,
        capacities,
        points,
        _rank_correlation(capacities, free_bootstrap),
        _correlation(capacities),
        _ties(capacities, free_bootstrap),
        tuple(findings(fitted, law_profiles)),
    )


def profiles(of: Fit) -> dict[str, Profile]:
    """Profile of every fitted number but A and B, whose values hang on the units of N and D."""
    pairs = zip(of.problem.names, of.free, strict=True)
    return {n: profile(of, n) for n, free in pairs if free and n not in ("A", "B")}


def _capacities(
    core: Table, draws: Bootstrap, seen: Mapping[str, Profile], law: Fit, points: tuple[Equivalent, ...]
) -> tuple[CapacityRow, ...]:
    free, direct = draws.fit, direct_capacity(list(points))
    bands = _over_irreducible_loss(core, free, seen["E"].interval())
    counts = Counter(r.curve for r in core.rows)
    rows = []
    for curve, rho in free.rho.items():
        if curve == "dense":
            continue
        row = core.first_of_curve[curve]
        sides = [getattr(row, f"{o}_gmse") for o in ("weights", "activations") if getattr(row, o) != "dense"]
        rows.append(
            CapacityRow(
                curve,
                float(sides[0]) if len(sides) == 1 else float("nan"),
                draws.interval(f"rho[{curve}]"),
                draws.spread(f"rho[{curve}]"),
                direct.get(curve, float("nan")),
                bands[curve],
                capacity_of(law, row),
                curve in law.rho,
                counts[curve],
            )
        )
        assert np.isclose(rows[-1].rho.estimate, rho)
    return tuple(rows)


def _over_irreducible_loss(core: Table, free: Fit, E: Interval, points: int = 5) -> dict[str, tuple[float, float]]:
    """Range of every rho as E is fixed at values through its 95 % profile interval."""
    low, high = max(E.low, 0.0), min(E.high, float(free.upper[free.problem.names.index("E")]))
    fixed = [Constraints({"E": float(e)}) for e in np.linspace(low, high, points)]
    fits = [fit(core, LAWS["decoupled"], free.settings, c).rho for c in fixed]
    return {c: (min(f[c] for f in fits), max(f[c] for f in fits)) for c in free.rho}


def _ordered(capacities: tuple[CapacityRow, ...]) -> list[int]:
    return [i for i, c in enumerate(capacities) if c.in_law and np.isfinite(c.gmse)]


def _rank_correlation(capacities: tuple[CapacityRow, ...], draws: Bootstrap) -> Interval:
    use = _ordered(capacities)
    if len(use) < 3:
        return Interval(float("nan"), float("nan"), float("nan"))
    error = [capacities[i].gmse for i in use]
    columns = [list(draws.fit.rho).index(capacities[i].curve) for i in use]
    values = [-rank_correlation(error, rho[columns]) for rho in draws.rho]
    estimate = -rank_correlation(error, [capacities[i].rho.estimate for i in use])
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high))


def rank_correlation(x: Any, y: Any) -> float:
    """Spearman's correlation."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _correlation(capacities: tuple[CapacityRow, ...]) -> float:
    pairs = np.array([(c.rho.estimate, c.law) for c in capacities if c.in_law])
    return float(np.corrcoef(pairs.T)[0, 1]) if len(pairs) > 2 else float("nan")


def _ties(capacities: tuple[CapacityRow, ...], draws: Bootstrap) -> tuple[Tie, ...]:
    """Neighbours in rho whose difference is within `TIE` of its own bootstrap deviation, or whose order GMSE denies."""
    names = list(draws.fit.rho)
    rows = sorted(capacities, key=lambda c: -c.rho.estimate)
    found = []
    for upper, lower in itertools.pairwise(rows):
        difference = draws.rho[:, names.index(upper.curve)] - draws.rho[:, names.index(lower.curve)]
        spread = float(np.std(difference))
        gap = upper.rho.estimate - lower.rho.estimate
        if gap < TIE * spread or gap < 2 * max(upper.deviation, lower.deviation):
            found.append(Tie(upper.curve, lower.curve, gap, spread))
    return tuple(found)
