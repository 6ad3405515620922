"""Words for how a run ended: those that are known to mean that it is whole, and those that it diverged."""

import math
from typing import Any

from capscale.analysis.reading.numbers import is_missing

FINE = frozenset({
    "ok", "okay", "fine", "good", "finished", "finish", "completed", "complete", "completes", "success", "successful",
    "succeeded", "done", "converged", "trained", "passed", "final", "valid", "ended",
})  # fmt: skip
DIVERGED = frozenset({
    "diverged", "divergent", "diverge", "divergence", "diverging", "nan", "nans", "inf", "blowup", "blew-up",
    "blown-up", "exploded", "exploding", "explosion", "loss-nan", "nan-loss", "loss-diverged", "non-finite",
    "nonfinite",
})  # fmt: skip
"""In lower case with hyphens. A run that crashed or was killed may be whole or not: its reader has to say."""


def ended(word: Any) -> bool | None:
    """True for a run that is whole, False for one that diverged, None for a word that may mean either."""
    if is_missing(word) or (isinstance(word, float) and math.isnan(word)):
        return True
    low = "-".join(str(word).strip().lower().replace("_", " ").split())
    return True if low in FINE else False if low in DIVERGED else None
