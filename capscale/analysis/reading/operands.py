"""Formats of weights and activations, from a column each or from one that says both."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from capscale.analysis.names import word
from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.columns import Column, remark_on
from capscale.analysis.reading.formats import Meaning, meaning
from capscale.analysis.reading.numbers import is_missing
from capscale.analysis.row import Remark
from capscale.errors import UserError

OPERANDS = ("weights", "activations")
NOTHING = frozenset({"none", "no"})
"""Words that say of an operand that it is dense, and of a number that it is missing."""


def is_empty(cell: Any, ours: str) -> bool:
    """Whether a cell of one of our columns says nothing; of an operand `none` says that it is dense."""
    if isinstance(cell, float) and math.isnan(cell):
        return True
    dense = ours in OPERANDS and isinstance(cell, str) and cell.strip().lower() in NOTHING
    return is_missing(cell) and not dense


def read_operands(
    found: dict[str, list[Any]],
    columns: Mapping[str, Column],
    cells: Mapping[str, Sequence[Any]],
    choices: Choices,
    places: Sequence[str],
) -> list[Remark]:
    """Puts the formats of both operands into `found`.

    Args:
      found: our columns as far as they were read.
      columns: ours, and where each comes from.
      cells: of the file's columns.
      choices: what the reader says that words mean.
      places: how errors name the rows.

    Returns:
      A remark for every column that is not called as ours or has other names of formats, and every unknown format.

    Raises:
      UserError: a word could be several formats, or two columns say different things of one operand.
    """
    remarks: list[Remark] = []
    said: dict[str, list[Meaning | None]] = {}
    for side in OPERANDS:
        if (column := columns.get(side)) is None:
            continue
        words: dict[str, Meaning] = {}
        said[side] = [
            _operand(c, words, choices, f"{p}: {side}") for c, p in zip(cells[column.source], places, strict=True)
        ]
        found[side] = [None if m is None else m.name for m in said[side]]
        renamed = [f"{w} is {_both(m)}" for w, m in words.items() if w != m.name or m.activations]
        remarks += remark_on(column._replace(note="; ".join([*([column.note] if column.note else []), *renamed])))
        brought = [not is_missing(v) for v in found.get(f"{side}_gmse", [None] * len(places))]
        unknown = {
            m.name: m.remark for m, given in zip(said[side], brought, strict=True) if m and m.remark and not given
        }
        remarks += [Remark(f"{side} {name!r}", remark) for name, remark in unknown.items()]
    pairs = [m is not None and m.activations is not None for m in said.get("weights", [])]
    if any(pairs):
        other = found.setdefault("activations", [None] * len(pairs))
        for i, m in enumerate(said["weights"]):
            if m is None:
                continue
            if m.activations is None and m.name == "dense" and "activations" not in columns:
                other[i] = "dense"  # beside W4A4 a run that is called bf16 compresses neither operand
            elif m.activations is not None:
                if other[i] not in (None, m.activations):
                    raise UserError(
                        f"{places[i]}: {columns['weights'].source} says {m.activations} activations, and "
                        f"{columns['activations'].source} {other[i]}; correct one of them"
                    )
                other[i] = m.activations
    return remarks


def _both(m: Meaning) -> str:
    return m.name if m.activations is None else f"{m.name} weights and {m.activations} activations"


def _operand(cell: Any, words: dict[str, Meaning], choices: Choices, place: str) -> Meaning | None:
    """The format that a cell names, by the reader's words first; None where it says nothing."""
    if is_empty(cell, "weights"):
        return None
    text = word(cell, place).strip()
    if text not in words:
        try:
            words[text] = meaning(choices.replace.get(text.lower(), text))
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
    return words[text]
