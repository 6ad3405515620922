"""Effects that claims are about, by the capacities of formats: numbers with resamples, the estimate first (1 + S,).

Formats that were not measured are left out of an effect of many, and its note names them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from capscale.analysis.claims import Estimate
from capscale.analysis.evidence import Evidence
from capscale.analysis.kinds import rank_correlation
from capscale.analysis.row import Row
from capscale.errors import UserError
from capscale.representation import Representation


class Measured(NamedTuple):
    """Formats with their capacities."""

    representations: tuple[Representation, ...]
    rows: tuple[Row, ...]
    """One of each, which says what the format is."""
    log_rho: np.ndarray
    """ln rho, the estimate and its resamples (F, 1 + S)."""
    note: str
    """Which of those asked for were left out, and why; empty where none was."""

    @property
    def gmse(self) -> np.ndarray:
        """Gaussian mean squared error of the weights (F,)."""
        return np.array([row.weights_gmse for row in self.rows])

    @property
    def rho(self) -> np.ndarray:
        """Capacity (F, 1 + S)."""
        return np.exp(self.log_rho)

    def only(self, chosen: Sequence[bool] | np.ndarray) -> "Measured":
        """Some of the formats (F,)."""
        keep = np.flatnonzero(chosen)
        representations, rows = (tuple(every[i] for i in keep) for every in (self.representations, self.rows))
        return self._replace(representations=representations, rows=rows, log_rho=self.log_rho[keep])


def estimates_of(effects: Mapping[str, Callable[[], Estimate]]) -> dict[str, Estimate]:
    """The estimate of every claim by its name; one that raises UserError is missing for that reason."""
    found = {}
    for name, effect in effects.items():
        try:
            found[name] = effect()
        except UserError as reason:
            found[name] = Estimate(missing=str(reason))
    return found


def measured(evidence: Evidence, representations: Iterable[Representation], least: int = 1) -> Measured:
    """Those of the formats that have a capacity. Raises UserError with the reasons where fewer than `least` have."""
    found: list[tuple[Representation, str]] = []
    reasons = []
    for each in representations:
        try:
            curve = evidence.curve(each)
            evidence.stack([curve])
        except UserError as reason:
            reasons.append(str(reason))
        else:
            found.append((each, curve))
    if len(found) < least:
        raise UserError(f"{len(found)} formats measured, {least} needed: {'; '.join(dict.fromkeys(reasons))}")
    note = f"left out: {'; '.join(dict.fromkeys(reasons))}" if reasons else ""
    rows = tuple(evidence.table.first_of_curve[curve] for _, curve in found)
    return Measured(tuple(r for r, _ in found), rows, evidence.stack([curve for _, curve in found]), note)


def difference(evidence: Evidence, first: Representation, second: Representation) -> np.ndarray:
    """ln of the capacity of the first over that of the second; raises UserError where one is not measured."""
    above, below = evidence.stack([evidence.curve(first), evidence.curve(second)])
    return above - below


def differences(
    evidence: Evidence, pairs: Iterable[tuple[Representation, Representation]], least: int = 1
) -> tuple[np.ndarray, str]:
    """Of every pair with both measured (P, 1 + S), and a note on the others; UserError for fewer than `least`."""
    found, reasons = [], []
    for first, second in pairs:
        try:
            found.append(difference(evidence, first, second))
        except UserError as reason:
            reasons.append(str(reason))
    if len(found) < least:
        raise UserError(f"{len(found)} pairs measured, {least} needed: {'; '.join(dict.fromkeys(reasons))}")
    return np.stack(found), f"left out: {'; '.join(dict.fromkeys(reasons))}" if reasons else ""


def rank_correlations(error: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Spearman's of the capacities (F, 1 + S) with an error (F,), sign turned: 1 where less error is more capacity."""
    if len(error) < 3:
        raise UserError(f"{len(error)} formats have no order to speak of")
    return np.array([-rank_correlation(error, one) for one in capacity.T])


def notes(*texts: str) -> str:
    """Those that say something, as one."""
    return "; ".join(text for text in texts if text)
