"""Everything that a report says about one table, as values: capacities first, then the law, then its limits."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import rankdata

from capscale.analysis.equivalence import SAME_TOKENS, Equivalent, equivalents
from capscale.analysis.findings import Finding, findings
from capscale.analysis.fit import Constraints, Fit, Settings, fit
from capscale.analysis.laws import LAWS, Law
from capscale.analysis.measure import Capacities, CapacityLaw, from_dense_curve, from_joint_fit, through_points
from capscale.analysis.table import Table
from capscale.analysis.uncertainty import Bootstrap, Interval, Profile, bootstrap, profile
from capscale.errors import UserError
from capscale.realised import UNTOLD, Realised

REVERSED = 0.025
"""Neighbours whose order turns round in more than this share of resamples are near-ties."""


@dataclass(frozen=True)
class CapacityRow:
    """Capacity of one format, measured."""

    curve: str
    gmse: float
    """Of the one compressed operand; NaN where both are, whose law is a product."""
    rho: Interval
    """With its 95 % bootstrap interval, by the study's method."""
    deviation: float
    """Half the central 68 % of the resamples."""
    joint: float
    """From the decoupled law."""
    over_E: tuple[float, float]
    """Smallest and largest joint rho as E is fixed at values through its 95 % profile interval."""
    law: float
    """What the law of GMSE says."""
    in_law: bool
    """Whether this format was used to fit the law of GMSE."""
    runs: int
    weights: Realised = UNTOLD
    """What the weights of these runs tell of themselves, averaged over the runs."""


@dataclass(frozen=True)
class Tie:
    """Two formats that this table cannot order with confidence."""

    first: str
    second: str
    difference: float
    deviation: float
    reversed: float
    """Share of resamples with the opposite order."""


@dataclass(frozen=True)
class Study:
    """A table, its capacities and its law."""

    table: Table
    core: Table
    """The rows used for the capacities: of the tokens that compressed runs were trained for."""
    measured: Capacities
    capacity_law: CapacityLaw
    """rho(GMSE) through the measured capacities."""
    free: Fit
    """The decoupled law on the core rows' losses."""
    free_profiles: Mapping[str, Profile]
    law: Fit
    """The law of GMSE fitted to the losses."""
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
    measured = from_dense_curve(core, resamples, settings.seed) or from_joint_fit(free_bootstrap)
    form = law.form or LAWS["tanh"].form
    assert form is not None
    capacity_law = through_points(form, measured, core)
    fitted = fit(core.plain(), law, settings, constraints)
    free_profiles, law_profiles = profiles(free), profiles(fitted)
    capacities = _capacities(core, measured, capacity_law, free, free_profiles["E"])
    return Study(
        table=table,
        core=core,
        measured=measured,
        capacity_law=capacity_law,
        free=free,
        free_profiles=free_profiles,
        law=fitted,
        law_bootstrap=bootstrap(fitted, resamples),
        law_profiles=law_profiles,
        capacities=capacities,
        equivalents=tuple(equivalents(core)),
        rank_correlation=_rank_correlation(capacities, measured),
        correlation=_correlation(capacities),
        ties=_ties(capacities, measured),
        findings=tuple(findings(fitted, law_profiles)),
    )


def profiles(of: Fit) -> dict[str, Profile]:
    """Profile of every fitted number but A and B, whose values hang on the units of N and D."""
    pairs = zip(of.problem.names, of.free, strict=True)
    return {n: profile(of, n) for n, free in pairs if free and n not in ("A", "B")}


def _capacities(
    core: Table, measured: Capacities, law: CapacityLaw, free: Fit, profile_of_E: Profile
) -> tuple[CapacityRow, ...]:
    bands = _over_irreducible_loss(core, free, profile_of_E.interval())
    counts = Counter(r.curve for r in core.rows)
    rows = []
    for i, curve in enumerate(measured.curves):
        row = core.first_of_curve[curve]
        sides = [getattr(row, f"{o}_gmse") for o in ("weights", "activations") if getattr(row, o) != "dense"]
        low, below, above, high = np.quantile(measured.draws[:, i], [0.025, 0.15865, 0.84135, 0.975])
        rows.append(
            CapacityRow(
                curve=curve,
                gmse=float(sides[0]) if len(sides) == 1 else float("nan"),
                rho=Interval(float(measured.rho[i]), float(low), float(high)),
                deviation=float(above - below) / 2,
                joint=free.rho[curve],
                over_E=bands[curve],
                law=law.of(row),
                in_law=row.is_plain,
                runs=counts[curve],
                weights=Realised.mean(Realised.of(r._asdict()) for r in core.rows if r.curve == curve),
            )
        )
    return tuple(rows)


def _over_irreducible_loss(core: Table, free: Fit, E: Interval, points: int = 5) -> dict[str, tuple[float, float]]:
    """Range of every rho as E is fixed at values through its 95 % profile interval."""
    low, high = max(E.low, 0.0), min(E.high, float(free.upper[free.problem.names.index("E")]))
    fixed = [Constraints({"E": float(e)}) for e in np.linspace(low, high, points)]
    fits = [fit(core, LAWS["decoupled"], free.settings, c).rho for c in fixed]
    return {c: (min(f[c] for f in fits), max(f[c] for f in fits)) for c in free.rho}


def _rank_correlation(capacities: tuple[CapacityRow, ...], measured: Capacities) -> Interval:
    use = [i for i, c in enumerate(capacities) if c.in_law and np.isfinite(c.gmse)]
    if len(use) < 3:
        return Interval(float("nan"), float("nan"), float("nan"))
    error = [capacities[i].gmse for i in use]
    values = [-rank_correlation(error, rho[use]) for rho in measured.draws]
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(-rank_correlation(error, measured.rho[use]), float(low), float(high))


def rank_correlation(x: Any, y: Any) -> float:
    """Spearman's correlation."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _correlation(capacities: tuple[CapacityRow, ...]) -> float:
    pairs = np.array([(c.rho.estimate, c.law) for c in capacities if c.in_law])
    return float(np.corrcoef(pairs.T)[0, 1]) if len(pairs) > 2 else float("nan")


def _ties(capacities: tuple[CapacityRow, ...], measured: Capacities) -> tuple[Tie, ...]:
    """Neighbours in rho whose order turns round in more than `REVERSED` of the resamples."""
    order = np.argsort(-measured.rho, kind="stable")
    found = []
    for upper, lower in pairwise(order):
        difference = measured.draws[:, upper] - measured.draws[:, lower]
        turned = float(np.mean(difference <= 0))
        if turned > REVERSED:
            gap = float(measured.rho[upper] - measured.rho[lower])
            names = capacities[upper].curve, capacities[lower].curve
            found.append(Tie(*names, gap, float(np.std(difference)), turned))
    return tuple(found)
