"""QuEST's published runs (Panferov et al. 2025, arXiv 2502.05003), as their file stands.

The columns `w_bits` and `a_bits` do not tell the formats apart (FP4 rows say 16, 2:4 rows say 4): the names of the
quantizer classes do.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from capscale.errors import UserError

HADAMARD_BLOCK = 128  # of QuEST's rotation
_CLASS = re.compile(r"(?P<rotation>(?:Half)?Hadamard)?(?P<kind>FP4|FourEight)?(?P<estimator>Trust|Clip)Quantizer")


def is_quest(record: Mapping[str, Any]) -> bool:
    """True for a record with QuEST's columns."""
    return {"w_quant", "a_quant", "non_embedding_parameters", "tokens"} <= set(record)


def quest_records(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """QuEST's records with our columns and format names. Raises UserError on a class nobody listed here."""
    rows = []
    for i, record in enumerate(records):
        sides = [_operand(record, side, f"row {i + 1}") for side in ("w", "a")]
        rotations = {rotation for name, _, rotation in sides if name != "dense"}
        rows.append(
            {
                "run": f"row {i + 1}",
                "N": record["non_embedding_parameters"],
                "D": record["tokens"],
                "loss": record["loss"],
                "weights": sides[0][0],
                "activations": sides[1][0],
                "weights_estimator": sides[0][1],
                "activations_estimator": sides[1][1],
                "hadamard": HADAMARD_BLOCK if any(rotations) else None,
                "family": "llama",
                "seed": (record.get("args") or {}).get("seed"),
            }
        )
    return rows


def _operand(record: Mapping[str, Any], side: str, run: str) -> tuple[str, str, bool]:
    """Format name, estimator, whether it is rotated."""
    name, bits = str(record[f"{side}_quant"]), record.get(f"{side}_bits")
    if name == "NoQuantizer":
        return "dense", "", False
    match = _CLASS.fullmatch(name)
    if match is None or not isinstance(bits, int):
        raise UserError(
            f"{run}: quantizer class {name!r} with {side}_bits={bits!r} is none of QuEST's that are known here; "
            "give the table as CSV with columns N, D, loss, weights, activations"
        )
    format_name = {"FP4": "e2m1", "FourEight": f"2:4+int{bits}", None: f"int{bits}"}[match["kind"]]
    return format_name, match["estimator"].lower(), match["rotation"] is not None
