"""Names of compressed gradients, in and out: that of a recipe, or both products spelled out.

    dense    quartet    dx: nvfp4-stochastic x dense, dw: nvfp4-stochastic x nvfp4 given H16 signs drawn

`G x O` are the formats of the incoming gradient and of the other operand; `given`: the values of that one before the
forward product rounded them; `H16`: the largest Hadamard block; `signs`: drawn, or a seed.
"""

import re

from capscale.errors import UserError
from capscale.formats.catalog import find, label
from capscale.formats.dense import UNCOMPRESSED
from capscale.gradients import DENSE_GRADIENTS, BackwardProduct, Gradients
from capscale.recipes import RECIPES

DENSE = "dense"
_BOTH = re.compile(r"dx: (?P<inputs>[^,]+), dw: (?P<weights>[^,]+)")
_PRODUCT = re.compile(
    r"(?P<gradient>\S+) x (?P<operand>\S+)(?P<given> given)?(?: H(?P<block>\d+)(?: signs (?P<signs>drawn|\d+))?)?"
)
_NAMES = {recipe.gradients: name for name, recipe in RECIPES.items()} | {DENSE_GRADIENTS: DENSE}


def gradients_name(gradients: Gradients) -> str:
    """Text that `find_gradients` reads: a recipe's name where one has these gradients, both products elsewhere."""
    if gradients in _NAMES:
        return _NAMES[gradients]
    return f"dx: {_spelled(gradients.inputs)}, dw: {_spelled(gradients.weights)}"


def find_gradients(name: str) -> Gradients:
    """The gradients of a name or of both products spelled out.

    Raises:
      UserError: a name that is neither; formats that are unknown, or that the backward pass cannot have.

    Example: `find_gradients("dx: int8 x dense, dw: int8 x int8 H16").weights.hadamard` is 16.
    """
    if name == DENSE:
        return DENSE_GRADIENTS
    if name in RECIPES:
        return RECIPES[name].gradients
    both = _BOTH.fullmatch(name)
    products = [] if both is None else [_PRODUCT.fullmatch(both[side].strip()) for side in ("inputs", "weights")]
    if not products or None in products:
        raise UserError(
            f"gradients {name!r}: use dense, the name of a recipe ({', '.join(RECIPES)}), or both products, such as "
            "'dx: nvfp4-stochastic x dense, dw: nvfp4-stochastic x nvfp4 given H16 signs drawn'"
        )
    return Gradients(*(_read(found) for found in products if found is not None))


def gradients_lines(gradients: Gradients) -> list[str]:
    """A line for each backward product that is not plain: its operands, the axis that it sums over, its rotation."""
    sides = (
        ("gradient of the inputs", "outputs", "weights", gradients.inputs),
        ("gradient of the weights", "tokens", "activations", gradients.weights),
    )
    return [_line(*side) for side in sides if not side[-1].is_dense]


def _line(product: str, axis: str, other: str, held: BackwardProduct) -> str:
    which = f"{other} as given" if held.source == "given" else f"{other} of the forward product"
    which += "" if held.operand == UNCOMPRESSED else f" in {label(held.operand)}"
    turned = "" if held.hadamard is None else f", rotated in blocks of {held.hadamard}"
    signs = "" if held.signs is None else " with drawn signs" if held.signs == "drawn" else f" with signs {held.signs}"
    return f"{product}, along {axis}: gradients in {label(held.gradient)}; {which}{turned}{signs}"


def _spelled(held: BackwardProduct) -> str:
    words = [label(held.gradient), "x", label(held.operand), *(["given"] if held.source == "given" else [])]
    words += [] if held.hadamard is None else [f"H{held.hadamard}"]
    words += [] if held.signs is None else ["signs", str(held.signs)]
    return " ".join(words)


def _read(found: re.Match[str]) -> BackwardProduct:
    signs = found["signs"]
    return BackwardProduct(
        find(found["gradient"]),
        find(found["operand"]),
        "given" if found["given"] else "projected",
        int(found["block"]) if found["block"] else None,
        "drawn" if signs == "drawn" else int(signs) if signs else None,
    )
