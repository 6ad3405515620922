"""One run of a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from capscale.parametrizations import find_parametrization
from capscale.realised import COLUMNS

TOLD = COLUMNS[1:]
"""Columns of what weights tell of themselves: nothing is fitted to them, so they are no part of a table's digest."""

RECIPE = (
    *("weights", "activations", "weights_estimator", "activations_estimator", "hadamard", "gradients", "cache"),
    "correction",
)
"""Columns that say how a run held the operands of its products, and what pulled its weights to their format."""

GRADIENTS = ", gradients "
"""Words before the name of compressed gradients in that of a format."""


class Remark(NamedTuple):
    """Something about one row that a reader must know."""

    row: str
    what: str


class Row(NamedTuple):
    """One run of a table."""

    run: str
    """How remarks and errors name it."""
    N: float
    D: float
    loss: float
    """Nats per token."""
    weights: str
    activations: str
    weights_estimator: str
    activations_estimator: str
    hadamard: str
    family: str
    """Of models: llama, olmo2, ..."""
    weights_gmse: float
    activations_gmse: float
    loss_se: float
    weight: float
    seed: float
    """NaN where the table has none."""
    curve: str = ""
    """Name of the format, unique in its table."""
    gradients: str = "dense"
    """How both backward products are held, as `capscale.gradient_names` says it."""
    cache: str = "dense"
    """Formats of attention's keys and values, as `capscale.cache_names` says them."""
    correction: str = "none"
    """Pull of the weights to their format beside the gradient, as runs write it; none for those without."""
    default_estimators: bool = True
    """Whether each operand's estimator was the default of its format when the row was written."""
    weights_realised_error: float = math.nan
    """Realised statistics of the weights: see `capscale.realised`; NaN where the table does not say."""
    weights_realised_error_end: float = math.nan
    weights_pass_rate: float = math.nan
    weights_pass_rate_end: float = math.nan
    weights_pass_rate_gaussian: float = math.nan
    policy: str = ""
    """Rules of a run whose layers are not all held alike (`capscale.policy_names`); empty for all others."""
    extra: Mapping[str, float] = {}
    """The other numeric columns of its table, by their names; NaN where the row has none."""

    @property
    def identity(self) -> tuple[str, ...]:
        """Key that rows of one format share."""
        return (*self.recipe, self.family)

    @property
    def recipe(self) -> tuple[str, ...]:
        """How all three products are held, of models of whatever family; of a policy its rules."""
        first = f"{self.weights}: {self.policy}" if self.policy else self.weights
        return (first, *(getattr(self, name) for name in RECIPE[1:]))

    @property
    def forward(self) -> str:
        """Name of the format of the forward product: that of the row, without what its gradients are held in."""
        return self.curve.replace(f"{GRADIENTS}{self.gradients}", "")

    @property
    def is_dense(self) -> bool:
        """True where nothing is compressed."""
        return {self.weights, self.activations, self.gradients, self.cache} == {"dense"} and not self.policy

    @property
    def is_plain(self) -> bool:
        """True for one format in all layers with its default estimator and no more than that: of a law of GMSE."""
        return self.is_plain_but_for_cache and self.cache == "dense"

    @property
    def is_plain_but_for_cache(self) -> bool:
        """True for one that is plain whatever its keys and values are held in: of a law that reads their bits."""
        usual = self.default_estimators and not self.policy and self.correction == "none"
        return usual and self.gradients == "dense" and not self.is_parametrized

    @property
    def is_parametrized(self) -> bool:
        """Whether its weights are made of other numbers, which are what is stored and trained."""
        return find_parametrization(self.weights) is not None

    @property
    def line(self) -> dict[str, Any]:
        """The row as one line of a table: its own columns and the others, by their names."""
        own = self._asdict()
        return own | dict(own.pop("extra"))


def named_rows(rows: Sequence[Row], column: str) -> str:
    """Rows with one of their numbers, as errors name them; of many the first twelve."""
    shown = [f"{r.run} ({column}={getattr(r, column):g})" for r in rows]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
