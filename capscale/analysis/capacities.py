"""Capacities of a study, a row for each format: measured, and what every law says of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from capscale.analysis.fit import Constraints, Fit, fit
from capscale.analysis.kinds import Kind, one_error
from capscale.analysis.measure import Capacities, CapacityLaw
from capscale.analysis.operands import kind_of
from capscale.analysis.profiles import Profile
from capscale.analysis.table import Row, Table
from capscale.analysis.uncertainty import Interval
from capscale.realised import UNTOLD, Realised

NAN = float("nan")


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
    """Capacity by the one curve through all kinds; NaN where there is none."""
    kind_law: float
    """Capacity by the curve of its kind; NaN where there is none."""
    in_law: bool
    """Whether its estimators are its own: laws of GMSE are about those."""
    runs: int
    weights: Realised = UNTOLD
    """Realised error and pass rates of the weights of these runs, averaged over the runs."""

    @property
    def is_measured(self) -> bool:
        """Whether the runs say what `rho` is."""
        return not self.why_not


def capacity_rows(
    core: Table,
    measured: Capacities,
    laws: Mapping[str, tuple[float, float]],
    free: Fit | None,
    bands: Mapping[str, tuple[float, float]],
) -> tuple[CapacityRow, ...]:
    """A row for each format of `measured`, with what the curves (`law_values`) and the decoupled law say of it."""
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
                joint=free.rho[curve] if free else NAN,
                over_E=bands.get(curve, (NAN, NAN)),
                law=laws[curve][0],
                kind_law=laws[curve][1],
                in_law=row.is_plain,
                runs=counts[curve],
                weights=Realised.mean(Realised.of(r._asdict()) for r in core.rows if r.curve == curve),
            )
        )
    return tuple(rows)


def law_values(core: Table, one_curve: CapacityLaw | None, found: tuple[Kind, ...]) -> dict[str, tuple[float, float]]:
    """For every format rho of the one curve, and of the curve of its kind; NaN where there is none."""
    of_kind = {kind.name: kind.law for kind in found}

    def of(law: CapacityLaw | None, row: Row) -> float:
        return law.of(row) if law and has_error(row) else NAN

    rows = core.first_of_curve.items()
    return {c: (of(one_curve, row), of(of_kind.get(kind_of(row)), row)) for c, row in rows if not row.is_dense}


def has_error(row: Row) -> bool:
    """Whether each operand of a row has a GMSE."""
    return bool(np.isfinite(row.weights_gmse) and np.isfinite(row.activations_gmse))


def over_irreducible_loss(free: Fit, of_E: Profile | None, points: int = 5) -> dict[str, tuple[float, float]]:
    """Range of every rho as E is fixed at values through its 95 % profile interval."""
    if of_E is None:
        return {c: (rho, rho) for c, rho in free.rho.items()}
    E = of_E.interval()
    low, high = max(E.low, 0.0), min(E.high, float(free.upper[free.problem.names.index("E")]))
    fixed = [Constraints({**free.constraints.fixed, "E": float(e)}) for e in np.linspace(low, high, points)]
    fits = [fit(free.table, free.law, free.settings, c).rho for c in fixed]
    return {c: (min(f[c] for f in fits), max(f[c] for f in fits)) for c in free.rho}


def correlation(capacities: tuple[CapacityRow, ...]) -> float:
    """Pearson correlation of measured rho with the one curve's; NaN where either is constant, or of under 3 formats."""
    pairs = [(c.rho.estimate, c.law) for c in capacities if c.in_law and c.is_measured and np.isfinite(c.law)]
    if len(pairs) < 3 or np.any(np.ptp(pairs, axis=0) == 0):
        return NAN
    return float(np.corrcoef(np.transpose(pairs))[0, 1])
