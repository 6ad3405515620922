"""What a compiled program says of itself."""

import re

from jax.stages import Compiled


def computations_that_sum_over_devices(compiled: Compiled) -> list[str]:
    """Names of the computations with an all-reduce; that of the whole program starts with ENTRY, others are bodies."""
    text = compiled.as_text()
    assert text is not None
    computations = re.split(r"\n(?=(?:ENTRY )?%\S+ \()", text)
    return [c.split(" (")[0] for c in computations if re.search(r"= .*all-reduce(-start)?\(", c)]
