"""Capacity and loss of a format that may never have been trained, with an interval that admits what is unknown.

Three sources of error are added: the fit's own (bootstrap), the scatter of runs about the law, and, for a kind
of format that the fit has never seen, the error of carrying a law over from one kind to another, as measured
on the paper's printed figures (`transfer_spread`).
"""

from typing import Any, NamedTuple

import numpy as np

from capscale.analysis.fit import Fit
from capscale.analysis.laws import group_of
from capscale.analysis.operands import parts_of
from capscale.capacity import Factor
from capscale.errors import UserError


class Target(NamedTuple):
    """A representation to predict, by catalog names; GMSEs where the catalog does not know them."""

    weights: str = "dense"
    activations: str = "dense"
    weights_gmse: float = float("nan")
    activations_gmse: float = float("nan")

    @property
    def name(self) -> str:
        """As curves are named."""
        return self.weights if self.activations == "dense" else f"{self.weights} x {self.activations}"


def log_rho(fit: Fit, z: np.ndarray, row: Any, curve: str) -> np.ndarray:
    """log rho of a representation under coordinates z (S, p): (S,). `row` has weights, activations and their GMSEs."""
    law, problem = fit.law, fit.problem
    total = np.zeros(len(z))
    if law.dense:
        return total
    parts = parts_of(row, product=law.combination == "product")
    if law.form is None and law.sharing == "all":
        parts = parts[:1]
    first = 6 if law.coupled else 5
    width = 1 if law.form is None else len(law.form.parameters)
    for part in parts:
        group = group_of(law, part, curve)
        if group not in problem.groups:
            raise UserError(
                f"{part.name}: this {law.name} fit has numbers for {', '.join(problem.groups) or 'no group'} only, "
                f"not for {group!r}; fit with --share all to carry them over"
            )
        start = first + width * problem.groups.index(group)
        numbers = z[:, start : start + width]
        if law.form is None:
            total = total + numbers[:, 0]
            continue
        named = {p.name: np.exp(numbers[:, i]) if p.log else numbers[:, i] for i, p in enumerate(law.form.parameters)}
        if not np.isfinite(getattr(part, law.form.needs.replace("effective_bits", "gmse"))):
            raise UserError(f"{part.name}: {law.name} reads {law.form.needs}; name a catalog format or give its GMSE")
        factor = Factor(*(np.full(len(z), x) for x in (part.effective_bits, part.storage_bits, part.sparsity)))
        total = total + law.form.log_rho(named, factor, z[:, 2])
    return total


def capacity_of(fit: Fit, row: Any, curve: str = "") -> float:
    """Capacity that a fit gives to a representation."""
    return float(np.exp(log_rho(fit, fit.z[None], row, curve)[0]))
