"""The laws of a study, as far as its table carries them: of GMSE, with a free capacity per format, or of dense runs."""

from capscale.analysis.capacities import has_error
from capscale.analysis.fit import Constraints, Fit, Settings, fit
from capscale.analysis.inspection import Inspection, inspect
from capscale.analysis.law import Law
from capscale.analysis.laws import LAWS
from capscale.analysis.selection import of_known_error, rows_of
from capscale.analysis.table import Table
from capscale.analysis.uncertainty import Bootstrap, bootstrap
from capscale.errors import UserError


class Laws:
    """The laws of a study: fitted one by one, with why one could not be."""

    def __init__(self, table: Table, settings: Settings) -> None:
        """Of one table, by one way of fitting."""
        self.table, self.settings = table, settings
        self.missing: dict[str, str] = {}
        self.refusals: list[UserError] = []
        self.free: tuple[Inspection, Bootstrap] | None = None

    def _refused(self, part: str, error: UserError) -> None:
        self.missing[part] = str(error).removeprefix(f"{self.table.source}: ")
        self.refusals.append(error)

    def decoupled(self, resamples: int) -> tuple[Inspection, Bootstrap] | None:
        """The law with a free capacity per format; None where every run is dense, or the table cannot carry it."""
        if not all(r.is_dense for r in self.table.rows):
            try:
                fitted = _decoupled_fit(self.table, self.settings)
            except UserError as error:
                self._refused("law with a free capacity per format", error)
            else:
                self.free = _looked_at(fitted, resamples)
        return self.free

    def main(self, law: Law, constraints: Constraints, resamples: int) -> tuple[Inspection, Bootstrap] | None:
        """`law` as far as it can be fitted; else the decoupled one; the dense one where every run is dense."""
        if all(r.is_dense for r in self.table.rows):
            return _looked_at(fit(self.table, LAWS["dense"], self.settings, constraints), resamples)
        try:
            rows = of_known_error(rows_of(self.table, law))
            fitted = fit(rows, law, self.settings, constraints)
        except UserError as error:
            if constraints.fixed or constraints.priors:
                raise
            self._refused("law of GMSE", error)
            return self.free
        return _looked_at(fitted, resamples)


def _looked_at(fitted: Fit, resamples: int) -> tuple[Inspection, Bootstrap]:
    draws = bootstrap(fitted, resamples)
    return inspect(fitted, draws=draws), draws


def _decoupled_fit(table: Table, settings: Settings) -> Fit:
    """The decoupled law; without dense rows, in shares of the format of least GMSE, or of the best if none is known."""
    law = LAWS["decoupled"]
    if "dense" in table.curves:
        return fit(table, law, settings)
    unit, known = table.curves[0], has_error(table.first_of_curve[table.curves[0]])
    found = fit(table, law, settings, Constraints({f"rho[{unit}]": 1.0}))
    best = max(found.rho, key=lambda c: found.rho[c])
    if known or best == unit:
        return found
    return fit(table, law, settings, Constraints({f"rho[{best}]": 1.0}))
