"""The runs of one experiment, as its claims and its figure look at them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from capscale.analysis.claims import Estimate
from capscale.analysis.fit import fit
from capscale.analysis.laws import LAWS
from capscale.analysis.measure import Capacities, from_dense_curve, from_joint_fit, none_measured
from capscale.analysis.seeds import from_seeds
from capscale.analysis.study import core_rows
from capscale.analysis.table import Table, make_table
from capscale.analysis.uncertainty import bootstrap
from capscale.cache_names import cache_name
from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.estimator_names import estimator_name
from capscale.formats.catalog import label
from capscale.gradient_names import gradients_name
from capscale.policy import Frozen
from capscale.policy_names import policy_name

RESAMPLES = 1000


def capacities_of(table: Table, resamples: int = RESAMPLES, seed: int = 0) -> Capacities:
    """Capacities of every format of a table, at the tokens of its compressed runs.

    With errors by the scatter of seeds where there are enough; else by the scatter about the dense curve; else by the
    decoupled law, where the dense runs have no common number of tokens, as on the paper's ladder. `seed` is that of the
    resamples.
    """
    core = core_rows(table)
    found = from_seeds(core, resamples, seed) or from_dense_curve(core, resamples, seed)
    if found is not None:
        return found
    try:
        return from_joint_fit(bootstrap(fit(table, LAWS["decoupled"]), resamples, seed))
    except UserError as reason:
        return none_measured([c for c in table.curves if c != "dense"], str(reason))


@dataclass(frozen=True)
class Evidence:
    """Rows of an experiment's runs, with the capacities that they measure.

    `records` are rows as runs write them (`capscale.train.record`), those of this experiment alone.
    """

    records: tuple[Mapping[str, Any], ...]
    source: str
    ladder: str
    """Name of the ladder that the experiment was asked for."""

    def only(self, **columns: Any) -> "Evidence":
        """The rows whose columns hold these values, such as `family="olmo2"`."""
        chosen = tuple(r for r in self.records if all(r.get(name) == value for name, value in columns.items()))
        return replace(self, records=chosen)

    @cached_property
    def table(self) -> Table:
        """The rows, checked; diverged runs are remarks. Raises UserError where there is none."""
        if not self.records:
            raise UserError(f"{self.source}: none of its runs has a result")
        return make_table(self.records, self.source, strict=False)

    @cached_property
    def capacities(self) -> Capacities:
        """Of every format, at the tokens of the compressed runs."""
        return capacities_of(self.table)

    def curve(self, policy: Frozen, correction: str = "none") -> str:
        """Name in this table of a representation, or of rules; UserError where it has no row with a loss.

        `correction`: as rows name what pulled its weights (`capscale.train.corrections`).
        """
        if isinstance(policy, tuple):
            return self._curve_of_rules(policy_name(policy), correction)
        representation = policy
        rotated = representation.hadamard is not None
        sides = (representation.weights, representation.activations)
        names = representation.weights_label, label(representation.activations.format)
        beyond = gradients_name(representation.gradients), cache_name(representation)
        estimators = tuple(estimator_name(side.backward(rotated)) for side in sides)
        if {*names, *beyond} == {"dense"}:
            return "dense"
        wanted = (*names, *estimators, str(representation.rotation or ""), *beyond, correction)
        for row in self.table.first_of_curve.values():
            if row.recipe == wanted:
                return row.curve
        usual = [side.backward(rotated) == default_estimator(side.format, rotated) for side in sides]
        told = [n if u else f"{n} [{e}]" for n, e, u in zip(names, estimators, usual, strict=True)]
        by = "".join(f", {what} {n}" for what, n in zip(("gradients", "cache"), beyond, strict=True) if n != "dense")
        by += "" if correction == "none" else f", {correction}"
        raise UserError(f"{told[0] if names[1] == 'dense' else ' x '.join(told)}{by}: no result")

    def _curve_of_rules(self, rules: str, correction: str) -> str:
        for row in self.table.first_of_curve.values():
            if row.policy == rules and row.correction == correction:
                return row.curve
        raise UserError(f"{rules}: no result")

    def why_not(self, curve: str) -> str:
        """Why the capacity of a format is not measured; empty where it is."""
        if curve == "dense":
            return ""
        if curve not in self.capacities.curves:
            return f"no result of {curve}"
        return self.capacities.why_not[self.capacities.curves.index(curve)]

    def log_rho(self, curve: str) -> np.ndarray:
        """ln rho of a format: the estimate, then its resamples (1 + S,); zeros for dense."""
        if curve == "dense":
            return np.zeros(1 + len(self.capacities.draws))
        k = self.capacities.curves.index(curve)
        return np.log(np.append(self.capacities.rho[k], self.capacities.draws[:, k]))

    def stack(self, curves: Sequence[str]) -> np.ndarray:
        """ln rho of formats (F, 1 + S); raises UserError with the reason where one is not measured."""
        for curve in curves:
            reason = self.why_not(curve)
            if reason:
                raise UserError(f"{curve}: {reason}")
        return np.stack([self.log_rho(curve) for curve in curves])


def interval(values: np.ndarray, note: str = "", tests: int = 1) -> Estimate:
    """An effect by its values: the estimate, then resamples (1 + S,), with a 95 % interval about it.

    `tests`: of a family in which no test may be wrong by chance; the interval is Bonferroni's.
    """
    tail = 0.025 / tests
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    value = float(values[0])
    return Estimate(value, min(float(low), value), max(float(high), value), note)
