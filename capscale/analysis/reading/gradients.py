"""Words of tables for how gradients are held, as names of `capscale.gradient_names`."""

import re
from collections.abc import Sequence
from typing import Any

from capscale.analysis.names import word
from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.columns import Column, remark_on
from capscale.analysis.reading.formats import DENSE_WORDS, SAME, meaning, several
from capscale.analysis.reading.operands import NOTHING, is_empty
from capscale.analysis.row import Remark
from capscale.errors import UserError
from capscale.formats.catalog import find
from capscale.gradient_names import find_gradients, gradients_name
from capscale.gradients import BackwardProduct, Gradients
from capscale.recipes import RECIPES

OURS = re.compile(r"dx: .+, dw: .+")
"""Both products spelled out, as rows of this package have them, those with formats of the user's own among them."""
ROUNDING = re.compile(
    r"(?P<format>.+?)[\s_+,(\[-]+(?:(?P<chance>sr|stochastic(?:[\s_-]+rounding)?)|(?:rtn|rne|nearest))[)\]]*",
    re.IGNORECASE,
)
"""A format and how it rounds: MXFP4 SR, nvfp4_stochastic, FP8-E5M2 (RTN)."""
RECIPE_WORDS = {
    "quartetii": "quartet2",
    "mseden": "quartet2",
    "nvidianvfp4": "nvfp4-pretraining",
    "nvfp4recipe": "nvfp4-pretraining",
    "deepseek": "deepseek-fp8",
    "deepseekv3": "deepseek-fp8",
    "deepseekv3fp8": "deepseek-fp8",
}
"""Other words for recipes, in lower case without anything between."""
ONE_SCALE = {"e5m2": "fp8-e5m2", "e4m3": "fp8-e4m3"}
"""Gradients in FP8 share a scale over the tensor where a table says no more."""


def read_gradients(
    cells: Sequence[Any], column: Column, choices: Choices, places: Sequence[str]
) -> tuple[list[str | None], list[Remark]]:
    """Names of gradients in the rows of a column, None where a cell says nothing, and remarks on words that are others.

    Raises:
      UserError: a word is known to mean nothing, or could mean several ways; the known ones are named.
    """
    words: dict[str, str] = {}
    found: list[str | None] = []
    for cell, place in zip(cells, places, strict=True):
        if is_empty(cell, "gradients") and not (isinstance(cell, str) and cell.strip().lower() in NOTHING):
            found.append(None)
            continue
        text = word(cell, place).strip()
        if text not in words:
            try:
                words[text] = _said(text, choices)
            except UserError as error:
                raise UserError(f"{place}: {column.source} {error}") from error
        found.append(words[text])
    renamed = [f"{text} is {name}" for text, name in words.items() if name != text]
    return found, remark_on(column._replace(note="; ".join([*([column.note] if column.note else []), *renamed])))


def _said(text: str, choices: Choices) -> str:
    """The name that a cell means, by the reader's words first; one that stands for itself stays the table's own."""
    low = text.lower()
    meant = choices.replace.get(f"gradients:{low}", choices.replace.get(low))
    if meant is None:
        return gradients_meant(text)
    try:
        return gradients_meant(meant)
    except UserError:
        if meant == text:
            return text
        raise


def gradients_meant(text: str) -> str:
    """The name of gradients that a word means.

    A format is that of the incoming gradient in both backward products, whose other operands stay as the forward
    product has them; `MXFP4 SR` is one that rounds by chance.

    Raises:
      UserError: the word is unknown, or does not say which format; the known ones are named.

    Example:
      >>> gradients_meant("Quartet II"), gradients_meant("E5M2")
      ('quartet2', 'fp8-e5m2')
    """
    low = re.sub(r"[\s_]+", "-", text.strip().lower())
    if low in DENSE_WORDS:
        return "dense"
    try:
        return gradients_name(find_gradients(text))
    except UserError:
        if OURS.fullmatch(text):
            return text
    bare = re.sub(r"[^a-z0-9]+", "", low)
    if recipe := RECIPE_WORDS.get(bare, next((name for name in RECIPES if name.replace("-", "") == bare), None)):
        return recipe
    rounding = ROUNDING.fullmatch(text.strip())
    spelled = text if rounding is None else rounding["format"]
    if among := several(re.sub(r"[\s_]+", "-", spelled.strip().lower())):
        first = ONE_SCALE["e5m2"] if "e5m2" in among else among[0]
        raise UserError(
            f"{text!r} does not say which gradients: a format, {', '.join(among)}, or a recipe, {', '.join(RECIPES)}; "
            f"say which: --replace '{text}={first}', or 'gradients:{text}={first}' where weights are called so too"
        )
    found = meaning(spelled)
    by_chance = rounding is not None and rounding["chance"]
    if not by_chance and found.name in ONE_SCALE:
        return ONE_SCALE[found.name]
    try:
        held = BackwardProduct(find(f"{found.name}-stochastic" if by_chance else found.name))
    except UserError:
        held = None
    if held is None or found.activations:
        known = ", ".join(dict.fromkeys([*RECIPES, *sorted(set(SAME.values()))]))
        raise UserError(
            f"{text!r} is no known way to hold gradients; say which: --replace '{text}=fp8-e5m2'. Known are {known}, "
            "other formats of `capscale gmse`, each with -stochastic or SR behind it, and both products spelled out. "
            f"For one of the table's own: --replace '{text}={text}'"
        )
    return gradients_name(Gradients(held, held))
