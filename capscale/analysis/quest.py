"""QuEST's published runs (Panferov et al. 2025, arXiv 2502.05003), as their file stands.

The columns `w_bits` and `a_bits` do not tell the formats apart (FP4 rows say 16, 4:8 rows say 4): the names of the
quantizer classes do. Their estimators are the authors' own, so every row counts as trained with the default: what the
present default is at 1 bit comes from these runs (`clip_scale`), and FP4 keeps their radius in its name.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from capscale.errors import UserError
from capscale.estimator_names import estimator_name
from capscale.estimators import FP4_RADIUS, Clip

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
                "default_estimators": True,
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
    format_name, estimator = {
        "FP4": ("e2m1", f"trust-radius {FP4_RADIUS}"),
        "FourEight": (f"4:8-pairs+int{bits}-dense-scales", "trust"),
        None: (f"int{bits}", "trust"),
    }[match["kind"]]
    if match["estimator"] == "Clip":
        arguments = (record.get("args") or {}).get(f"{side}_quant_kwargs") or {}
        estimator = estimator_name(Clip(float(arguments.get("clip_scale") or record.get("clip_scale") or 1.0)))
    return format_name, estimator, match["rotation"] is not None
