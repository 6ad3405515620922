"""Tables 1 to 4 of arXiv 2506.01863, as printed; laws and forms by the names that they have here."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Printed(NamedTuple):
    """A number with the standard deviation printed beside it."""

    value: float
    deviation: float


@dataclass(frozen=True)
class Tables:
    """Text of the printed tables."""

    fit_errors: dict[str, dict[str, float]]
    """Table 1: RMSE of L in nats per token, of "sparsity" and "quantization" by law."""
    sizes: dict[str, dict[str, float]]
    """Table 2: layers, heads, width and learning rate of every size."""
    law: dict[str, dict[str, Printed]]
    """Table 3: the numbers of the law in the families "llama" (on C4) and "olmo2" (on ClimbMix)."""
    forms: dict[str, float]
    """Table 4: RMSE of L by form of rho. The numbers that Table 1 has as well are its sparsity's."""


@cache
def tables() -> Tables:
    """The paper's four printed tables."""
    content = json.loads((files("capscale.analysis") / "data" / "printed_tables.json").read_text())
    law = {family: {name: Printed(*pair) for name, pair in row.items()} for family, row in content["law"].items()}
    return Tables(content["fit_errors"], content["sizes"], law, content["forms"])
