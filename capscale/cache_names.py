"""Names of what attention's cache is held in, in and out.

    dense    int4    keys int4    values int2    keys int4 values int2

A lone format is that of keys and values alike.
"""

import re

from capscale.errors import UserError
from capscale.operands import DENSE_OPERAND, Operand, operand
from capscale.representation import Representation

DENSE = "dense"
_BOTH = re.compile(r"(?:keys (?P<keys>.+?))?(?: ?values (?P<values>.+))?")


def cache_name(held: Representation) -> str:
    """Text that `find_cache` reads.

    Example: `cache_name(Representation(keys=operand("int4", per_token=True)))` is 'keys int4'.
    """
    rotated = held.hadamard is not None
    keys, values = held.keys.name(rotated), held.values.name(rotated)
    if keys == values:
        return keys
    sides = {"keys": held.keys, "values": held.values}
    return " ".join(f"{side} {each.name(rotated)}" for side, each in sides.items() if not each.is_dense)


def find_cache(text: str) -> tuple[Operand, Operand]:
    """Operands of keys and of values, token by token.

    Raises:
      UserError: formats that are unknown, or that cannot hold a token by itself.

    Example: `find_cache("values int2")[0].is_dense` is true.
    """
    text = text.strip()
    if text == DENSE:
        return DENSE_OPERAND, DENSE_OPERAND
    found = _BOTH.fullmatch(text)
    names = found.groups() if found is not None and text else (text, text)
    if not all(names) and not any(names):
        raise UserError(f"cache {text!r}: use dense, a format, or both, such as 'keys int4 values int2'")
    keys, values = (DENSE_OPERAND if name is None else operand(name, per_token=True) for name in names)
    return keys, values
