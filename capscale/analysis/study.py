"""Everything that a report says about one table, as values: capacities first, then the law, then its limits."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from capscale.analysis.equivalence import SAME_TOKENS, Equivalent, equivalents
from capscale.analysis.fit import Constraints, Fit, Settings, fit
from capscale.analysis.inspection import Inspection, inspect
from capscale.analysis.kinds import Across, Kind, Points, across, kinds, one_error
from capscale.analysis.laws import LAWS, Law
from capscale.analysis.measure import Capacities, CapacityLaw, from_dense_curve, from_joint_fit, through_points
from capscale.analysis.operands import kind_of
from capscale.analysis.profiles import Profile, profiles
from capscale.analysis.selection import rows_of
from capscale.analysis.table import Row, Table
from capscale.analysis.uncertainty import Bootstrap, Interval, bootstrap
from capscale.capacity import Form
from capscale.errors import UserError
from capscale.realised import UNTOLD, Realised

REVERSED = 0.025
"""Neighbours whose order turns round in more than this share of resamples are near-ties."""


@dataclass(frozen=True)
class CapacityRow:
    """Capacity of one format, measured."""

    curve: str
    kind: str
    """Of representation: integer, sparse, ..."""
    gmse: float
    """Of the one compressed operand; NaN where both are, whose law is a product."""
    why_not: str
    """Why `rho` is not measured; empty where it is."""
    rho: Interval
    """With its 95 % bootstrap interval, by the study's method."""
    deviation: float
    """Half the central 68 % of the resamples."""
    joint: float
    """From the decoupled law."""
    over_E: tuple[float, float]
    """Smallest and largest joint rho as E is fixed at values through its 95 % profile interval."""
    law: float
    """What the one curve through all kinds says; NaN where there is none."""
    kind_law: float
    """What the curve of its kind says; NaN where there is none."""
    in_law: bool
    """Whether its estimators are its own: laws of GMSE are about those."""
    runs: int
    weights: Realised = UNTOLD
    """What the weights of these runs tell of themselves, averaged over the runs."""

    @property
    def is_measured(self) -> bool:
        """Whether the runs say what `rho` is."""
        return not self.why_not


@dataclass(frozen=True)
class Difference:
    """Two formats' capacities compared, resample by resample."""

    first: str
    second: str
    rho: Interval
    """The first one's less the second one's, with its 95 % interval."""
    deviation: float
    reversed: float
    """Share of resamples with the opposite order; those with equal capacities count half."""


@dataclass(frozen=True)
class Study:
    """A table, its capacities and its law."""

    table: Table
    core: Table
    """The rows that capacities are read off the dense curve with: of the tokens that compressed runs had."""
    measured: Capacities
    capacity_law: CapacityLaw | None
    """One rho(GMSE) through the measured capacities of all kinds; None with no more formats than it has numbers."""
    free: Fit
    """The decoupled law fitted to the losses."""
    free_profiles: Mapping[str, Profile]
    inspected: Inspection
    """The law of GMSE fitted to the losses, and what was looked at."""
    law_bootstrap: Bootstrap
    capacities: tuple[CapacityRow, ...]
    equivalents: tuple[Equivalent, ...]
    kinds: tuple[Kind, ...]
    across: Across
    correlation: float
    """Pearson correlation of measured rho with the one curve's; NaN without a curve, or where either is constant."""
    ties: tuple[Difference, ...]
    """Neighbours in rho whose order is not told."""
    other_estimators: tuple[Difference, ...]
    """Formats with another estimator than their own less the same format with its own."""

    @property
    def law(self) -> Fit:
        """The law of GMSE fitted to the losses."""
        return self.inspected.fit

    @property
    def law_profiles(self) -> Mapping[str, Profile]:
        """Of the numbers of the law of GMSE."""
        return self.inspected.profiles


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
    free = fit(rows_of(table, LAWS["decoupled"]), LAWS["decoupled"], settings)
    free_bootstrap = bootstrap(free, resamples)
    measured = from_dense_curve(core, resamples, settings.seed) or from_joint_fit(free_bootstrap)
    form = law.form or LAWS["tanh"].form
    assert form is not None
    fitted = fit(rows_of(table, law), law, settings, constraints)
    points = Points(core, measured)
    found = kinds(points, form)
    one_curve = _through_all(core, measured, form)
    free_profiles = profiles(free)
    bands = _over_irreducible_loss(free, free_profiles.get("E"))
    capacities = _capacities(core, measured, _laws(core, one_curve, found), free, bands)
    return Study(
        table=table,
        core=core,
        measured=measured,
        capacity_law=one_curve,
        free=free,
        free_profiles=free_profiles,
        inspected=inspect(fitted),
        law_bootstrap=bootstrap(fitted, resamples),
        capacities=capacities,
        equivalents=tuple(equivalents(core)),
        kinds=found,
        across=across(points, form),
        correlation=_correlation(capacities),
        ties=_ties(capacities, measured),
        other_estimators=_other_estimators(core, measured),
    )


def _through_all(core: Table, measured: Capacities, form: Form) -> CapacityLaw | None:
    """The form through all measured formats whose estimators are their own, of one operand or both."""
    first = core.first_of_curve
    use = [i for i, c in enumerate(measured.curves) if measured.measured[i] and _in_curve(first[c])]
    return through_points(form, [first[measured.curves[i]] for i in use], measured.rho[use], measured.draws[:, use])


def _in_curve(row: Row) -> bool:
    return row.is_plain and _has_error(row)


def _capacities(
    core: Table,
    measured: Capacities,
    laws: Mapping[str, tuple[float, float]],
    free: Fit,
    bands: Mapping[str, tuple[float, float]],
) -> tuple[CapacityRow, ...]:
    counts = Counter(r.curve for r in core.rows)
    rows = []
    for i, curve in enumerate(measured.curves):
        row = core.first_of_curve[curve]
        low, below, above, high = np.quantile(measured.draws[:, i], [0.025, 0.15865, 0.84135, 0.975])
        rows.append(
            CapacityRow(
                curve=curve,
                kind=kind_of(row),
                gmse=one_error(row),
                why_not=measured.why_not[i],
                rho=Interval(float(measured.rho[i]), float(low), float(high)),
                deviation=float(above - below) / 2,
                joint=free.rho[curve],
                over_E=bands[curve],
                law=laws[curve][0],
                kind_law=laws[curve][1],
                in_law=row.is_plain,
                runs=counts[curve],
                weights=Realised.mean(Realised.of(r._asdict()) for r in core.rows if r.curve == curve),
            )
        )
    return tuple(rows)


def _laws(core: Table, one_curve: CapacityLaw | None, found: tuple[Kind, ...]) -> dict[str, tuple[float, float]]:
    """For every format rho of the one curve, and of the curve of its kind; NaN where there is none."""
    of_kind = {kind.name: kind.law for kind in found}

    def of(law: CapacityLaw | None, row: Row) -> float:
        return law.of(row) if law and _has_error(row) else float("nan")

    rows = core.first_of_curve.items()
    return {c: (of(one_curve, row), of(of_kind.get(kind_of(row)), row)) for c, row in rows if not row.is_dense}


def _has_error(row: Row) -> bool:
    return bool(np.isfinite(row.weights_gmse) and np.isfinite(row.activations_gmse))


def _over_irreducible_loss(free: Fit, of_E: Profile | None, points: int = 5) -> dict[str, tuple[float, float]]:
    """Range of every rho as E is fixed at values through its 95 % profile interval."""
    if of_E is None:
        return {c: (rho, rho) for c, rho in free.rho.items()}
    E = of_E.interval()
    low, high = max(E.low, 0.0), min(E.high, float(free.upper[free.problem.names.index("E")]))
    fixed = [Constraints({"E": float(e)}) for e in np.linspace(low, high, points)]
    fits = [fit(free.table, free.law, free.settings, c).rho for c in fixed]
    return {c: (min(f[c] for f in fits), max(f[c] for f in fits)) for c in free.rho}


def _correlation(capacities: tuple[CapacityRow, ...]) -> float:
    pairs = [(c.rho.estimate, c.law) for c in capacities if c.in_law and c.is_measured and np.isfinite(c.law)]
    if len(pairs) < 3 or np.any(np.ptp(pairs, axis=0) == 0):
        return float("nan")
    return float(np.corrcoef(np.transpose(pairs))[0, 1])


def difference(measured: Capacities, first: int, second: int) -> Difference:
    """Two formats by their places in `measured`."""
    draws = measured.draws[:, first] - measured.draws[:, second]
    estimate = float(measured.rho[first] - measured.rho[second])
    low, high = np.quantile(draws, [0.025, 0.975])
    turned = float(np.mean(draws * np.sign(estimate) < 0) + np.mean(draws == 0) / 2) if estimate else 0.5
    names = measured.curves[first], measured.curves[second]
    return Difference(*names, Interval(estimate, float(low), float(high)), float(np.std(draws)), turned)


def _ties(capacities: tuple[CapacityRow, ...], measured: Capacities) -> tuple[Difference, ...]:
    """Neighbours in rho whose order turns round in more than `REVERSED` of the resamples."""
    order = [i for i in np.argsort(-measured.rho, kind="stable") if capacities[i].is_measured]
    found = (difference(measured, int(upper), int(lower)) for upper, lower in pairwise(order))
    return tuple(d for d in found if d.reversed > REVERSED)


def _other_estimators(core: Table, measured: Capacities) -> tuple[Difference, ...]:
    first = core.first_of_curve
    own = {_formats(first[c]): i for i, c in enumerate(measured.curves) if first[c].is_plain and measured.measured[i]}
    found = []
    for i, curve in enumerate(measured.curves):
        row = first[curve]
        if not row.is_plain and measured.measured[i] and _formats(row) in own:
            found.append(difference(measured, i, own[_formats(row)]))
    return tuple(found)


def _formats(row: Row) -> tuple[str, str, str]:
    return row.weights, row.activations, row.hadamard
