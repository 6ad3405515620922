"""Realised error and gradient mask of trained weights, beside those of Gaussian weights.

GMSE stands for the error of a format as long as weights look Gaussian to it. A run measures what it was: the realised
error of its weights and the share of gradients that its mask let through (`capscale.models.compression`).
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

ERROR_FACTOR = 1.3
"""A realised error further than this factor from GMSE, either way, is not that of Gaussian weights: where the Gaussian
picture holds they agree within a few percent, and capacities change little within it (the law's are functions of
log GMSE, on which a step from 4 bits to 3 is a factor of 3.2)."""
PASS_SHARE = 0.5
"""A mask that passes less than this share of what it would pass of Gaussian weights has left most of them behind."""

COLUMNS = (
    "weights_gmse",
    "weights_realised_error",
    "weights_realised_error_end",
    "weights_pass_rate",
    "weights_pass_rate_end",
    "weights_pass_rate_gaussian",
)
"""Of a result row or a table, in the order of `Realised`; missing ones are NaN."""


class Realised(NamedTuple):
    """Realised statistics of the weights of one run, or of several of one format; NaN where nothing was measured."""

    gmse: float
    error: float
    """`||held - masters||^2 / ||masters||^2`, averaged over the run."""
    error_end: float
    """At the last step."""
    pass_rate: float
    """Share of the gradient that passes the mask, averaged over the run."""
    pass_rate_end: float
    pass_rate_gaussian: float
    """Share of the gradient that passes for Gaussian weights."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Realised":
        """From the columns of one row."""
        values = (record.get(name) for name in COLUMNS)
        return cls(*(math.nan if value is None else float(value) for value in values))

    @classmethod
    def mean(cls, several: Iterable["Realised"]) -> "Realised":
        """Each number averaged over those that have it."""
        told = [[value for value in values if math.isfinite(value)] for values in zip(*several, strict=True)]
        means = [sum(values) / len(values) if values else math.nan for values in told]
        return cls(*means) if means else cls(*[math.nan] * len(cls._fields))

    @property
    def error_ratio(self) -> float:
        """Realised error over GMSE at the end, where formats with a schedule are what their GMSE is of; else NaN."""
        return self.error_end / self.gmse if self.gmse > 0 else math.nan

    @property
    def pass_ratio(self) -> float:
        """Pass rate at the end over that of Gaussian weights."""
        return self.pass_rate_end / self.pass_rate_gaussian if self.pass_rate_gaussian > 0 else math.nan

    @property
    def error_is_off(self) -> bool:
        """Whether the realised error is further than `ERROR_FACTOR` from GMSE; False where either is unknown."""
        ratio = self.error_ratio
        return math.isfinite(ratio) and not 1 / ERROR_FACTOR <= ratio <= ERROR_FACTOR

    @property
    def mask_is_off(self) -> bool:
        """Whether less than `PASS_SHARE` of what Gaussian weights pass still does; False where either is unknown."""
        return self.pass_ratio < PASS_SHARE

    @property
    def error_words(self) -> str:
        """The two errors at the end, side by side."""
        return f"they realise an error of {self.error_end:.2g}, GMSE is {self.gmse:.2g}"

    @property
    def mask_words(self) -> str:
        """The two pass rates, side by side."""
        return (
            f"the mask passes {self.pass_rate_end:.0%} of their gradients, "
            f"of Gaussian weights it would pass {self.pass_rate_gaussian:.0%}"
        )

    @property
    def words(self) -> str:
        """Words for whatever is off, with its size; empty where nothing is."""
        said = [f"GMSE is not what these weights feel: {self.error_words}"] if self.error_is_off else []
        said += [self.mask_words] if self.mask_is_off else []
        return "; ".join(said)


UNTOLD = Realised.mean([])
"""Of dense weights, and of runs that did not measure: NaN throughout."""
