"""Everything that a report says about one table, as values: capacities first, then the law, then its limits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from capscale.analysis.capacities import (
    CapacityRow,
    capacity_rows,
    correlation,
    has_error,
    law_values,
    over_irreducible_loss,
)
from capscale.analysis.differences import Difference, other_estimators, ties
from capscale.analysis.equivalence import SAME_TOKENS, Equivalent, equivalents
from capscale.analysis.fit import Constraints, Fit, Settings
from capscale.analysis.inspection import Inspection
from capscale.analysis.kinds import Across, Kind, Points, across, kinds
from capscale.analysis.law import Law
from capscale.analysis.laws import LAWS
from capscale.analysis.measure import (
    Capacities,
    CapacityLaw,
    from_dense_curve,
    none_measured,
    through_points,
    unit_of,
    why_no_dense_curve,
)
from capscale.analysis.profiles import Profile
from capscale.analysis.study_laws import Laws
from capscale.analysis.table import Row, Table
from capscale.analysis.uncertainty import Bootstrap
from capscale.capacity import Form


@dataclass(frozen=True)
class Study:
    """A table, its capacities and its laws, as far as the table carries them."""

    table: Table
    core: Table
    """The rows that capacities are read off the dense curve with: of the tokens that compressed runs had."""
    unit: str
    """The format whose capacity is 1: dense; where there are no dense rows, the one of least GMSE; empty for none."""
    measured: Capacities
    capacity_law: CapacityLaw | None
    """One rho(GMSE) through the measured capacities of all kinds; None with no more formats than it has numbers."""
    inspected: Inspection | None
    """The law of GMSE fitted to the losses, and what was looked at; the decoupled one where there is none of GMSE, the
    dense one where every run is dense; None where no law can be fitted."""
    law_bootstrap: Bootstrap | None
    """Of the same law."""
    free_inspected: Inspection | None
    """The decoupled law fitted to the losses; None where it cannot be."""
    capacities: tuple[CapacityRow, ...]
    equivalents: tuple[Equivalent, ...]
    kinds: tuple[Kind, ...]
    across: Across
    correlation: float
    """Pearson correlation of measured rho with the one curve's; NaN without a curve, or where either is constant."""
    ties: tuple[Difference, ...]
    """Neighbours in rho whose order is not told."""
    other_estimators: tuple[Difference, ...]
    """Formats with another estimator than their own, or compressed gradients, less the same format without."""
    missing: Mapping[str, str]
    """Parts that could not be made, with the reason."""

    @property
    def law(self) -> Fit | None:
        """The law that the report speaks of first: of GMSE, if it can be fitted."""
        return self.inspected.fit if self.inspected else None

    @property
    def law_profiles(self) -> Mapping[str, Profile]:
        """Of the numbers of that law."""
        return self.inspected.profiles if self.inspected else {}

    @property
    def free(self) -> Fit | None:
        """Fit of the decoupled law."""
        return self.free_inspected.fit if self.free_inspected else None

    @property
    def inspections(self) -> tuple[Inspection, ...]:
        """Every law that was fitted, once."""
        both = (self.inspected, self.free_inspected)
        return tuple({id(i): i for i in both if i is not None}.values())

    @property
    def dense_only(self) -> bool:
        """True where no run is compressed."""
        return all(r.is_dense for r in self.table.rows)


def core_rows(table: Table) -> Table:
    """Rows at the numbers of tokens where compressed formats were trained; all rows where none was.

    Extra dense runs at other D would only bring in beta, which capacities do not need.
    """
    compressed = np.array([not r.is_dense for r in table.rows])
    if not compressed.any():
        return table
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
    """Measure the capacities in `table` and fit `law` to them, as far as the table carries it.

    Parts that cannot be made are in `missing`. Raises UserError where nothing can, and for constraints that are none
    of the law's: what was asked for by name is not left out.
    """
    settings, constraints = settings or Settings(), constraints or Constraints()
    made = Laws(table, settings)
    free = made.decoupled(resamples)
    main = made.main(law, constraints, resamples)
    core = core_rows(table)
    measured = _measured(core, made, free, resamples, settings)
    if main is None and not measured.measured.any():
        raise made.refusals[0]
    unit = unit_of(free[0].fit) if free else "dense" if "dense" in table.curves else ""
    # A form of rho is about shares of dense models.
    form = (law.form or LAWS["tanh"].form) if unit == "dense" else None
    points = Points(core, measured)
    found = kinds(points, form)
    one_curve = _through_all(core, measured, form) if form else None
    free_fit, of_E = (free[0].fit, free[0].profiles.get("E")) if free else (None, None)
    bands = over_irreducible_loss(free_fit, of_E) if free_fit else {}
    capacities = capacity_rows(core, measured, law_values(core, one_curve, found), free_fit, bands)
    return Study(
        table=table,
        core=core,
        unit=unit,
        measured=measured,
        capacity_law=one_curve,
        inspected=main[0] if main else None,
        law_bootstrap=main[1] if main else None,
        free_inspected=free[0] if free else None,
        capacities=capacities,
        equivalents=tuple(equivalents(core)),
        kinds=found,
        across=across(points, form),
        correlation=correlation(capacities),
        ties=ties(measured),
        other_estimators=other_estimators(core, measured),
        missing=made.missing,
    )


def _measured(
    core: Table, made: Laws, free: tuple[Inspection, Bootstrap] | None, resamples: int, settings: Settings
) -> Capacities:
    found = from_dense_curve(core, resamples, settings.seed)
    if found is None and free is not None:
        found = free[0].capacities
    if found is not None:
        return found
    if all(r.is_dense for r in core.rows):
        why = made.missing["measured capacity"] = "every run is dense, so that there is no format to measure"
    else:
        why = f"no dense curve to read it off ({why_no_dense_curve(core)}), and no law with a free capacity per format"
    return none_measured([c for c in core.curves if c != "dense"], why)


def _through_all(core: Table, measured: Capacities, form: Form) -> CapacityLaw | None:
    """The form through all measured formats whose estimators are their own, of one operand or both."""
    first = core.first_of_curve
    use = [i for i, c in enumerate(measured.curves) if measured.measured[i] and _in_curve(first[c])]
    return through_points(form, [first[measured.curves[i]] for i in use], measured.rho[use], measured.draws[:, use])


def _in_curve(row: Row) -> bool:
    return row.is_plain and has_error(row)
