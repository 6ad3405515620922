"""Columns that every table needs, and how to say which they are."""

import re
from collections.abc import Collection

from capscale.analysis.reading.columns import PER_BYTE, plain_name
from capscale.errors import UserError

REQUIRED = ("N", "D", "loss", "weights", "activations")
CHART = re.compile(r" - .*__(MIN|MAX)$")
"""Columns of a chart that W&B exports: `run - val/loss__MIN`."""


def refuse_missing(found: Collection[str], names: Collection[str], source: str) -> None:
    """Refuses a table without one of the columns that every table needs.

    Args:
      found: our columns that are there.
      names: of all columns of the file.
      source: names the file.

    Raises:
      UserError: naming what is missing, what is there, and how to say which column it is.
    """
    missing = [name for name in REQUIRED if name not in found]
    if not missing:
        return
    hint = f"; say which it is: --map {missing[0]}=COLUMN"
    if any(CHART.search(name) for name in names):
        hint = "; this is a chart's export, which has no sizes: export the table of runs, as CSV"
    elif "loss" in missing and any(PER_BYTE.search(name) for name in names):
        hint += "; a loss in bits becomes nats per token times ln 2, and times bytes per token"
    elif "loss" in missing and any(plain_name(name).endswith(("ppl", "perplexity")) for name in names):
        hint += "; the loss is the logarithm of perplexity"
    if operands := [name for name in missing if name in ("weights", "activations")]:
        hint += f", or --fill {operands[0]}=dense where no run compresses them"
    raise UserError(f"{source}: no column {missing}; it has {sorted(names)}{hint}")
