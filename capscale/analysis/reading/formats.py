"""Names of formats as papers, libraries and configurations write them, as names of the catalog."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from capscale.analysis.estimators import named
from capscale.errors import UserError
from capscale.formats.catalog import FORMATS, find

DENSE_WORDS = frozenset({
    "dense", "none", "no", "bf16", "bfloat16", "fp16", "float16", "fp32", "float32", "f16", "f32", "fp64", "half",
    "tf32", "full", "full-precision", "baseline", "unquantized", "not-quantized", "no-quantization", "uncompressed",
    "16-bit", "16bit", "32-bit", "32bit", "16", "32", "bf16-mixed", "torch.bfloat16", "torch.float16",
    "torch.float32",
})  # fmt: skip
"""Of operands that nothing was done to, in lower case with hyphens."""
SAME: Mapping[str, str] = {
    **{f"{kind}{b}": f"int{b}" for kind in ("int-", "i", "s", "sint", "integer") for b in range(1, 9)},
    **{f"{fp}{hyphen}{e}{fn}": e for fp in ("fp8", "float8", "f8") for hyphen in ("", "-") for e in ("e4m3", "e5m2")
       for fn in ("", "fn")},
    **{f"{fp}{hyphen}e2m1": "e2m1" for fp in ("fp4", "float4") for hyphen in ("", "-")},
    **{f"{fp}{hyphen}{e}": e for fp in ("fp6", "float6") for hyphen in ("", "-") for e in ("e2m3", "e3m2")},
    **{f"mxfp8{e}": f"mxfp8-{e}" for e in ("e4m3", "e5m2")},
    **{f"mxfp6{e}": f"mxfp6-{e}" for e in ("e2m3", "e3m2")},
    "e4m3fn": "e4m3",
    "mx-fp4": "mxfp4",
    "mxfp4-e2m1": "mxfp4",
    "nv-fp4": "nvfp4",
    "nvfp4-e2m1": "nvfp4",
    "2:4-sparse": "2:4",
    "2:4-sparsity": "2:4",
    "sparse-2:4": "2:4",
}  # fmt: skip
"""Other names of one format, in lower case with hyphens."""
FLOATS = {
    "fp4": ("e2m1", "mxfp4", "nvfp4"),
    "fp6": ("e2m3", "e3m2", "mxfp6-e2m3", "mxfp6-e3m2"),
    "fp8": ("e4m3", "e5m2", "mxfp8-e4m3", "mxfp8-e5m2"),
    "mxfp6": ("mxfp6-e2m3", "mxfp6-e3m2"),
    "mxfp8": ("mxfp8-e4m3", "mxfp8-e5m2"),
}
BITS = re.compile(r"w?(?P<bits>[1-9])(?:\.0)?(?:-?bits?)?")
PAIR = re.compile(r"w(?P<w>\d+)-?a(?P<a>\d+)")


class Meaning(NamedTuple):
    """Meaning of a word of a table for an operand."""

    name: str
    """Of the catalog, or the word itself where it is none of its names."""
    activations: str | None = None
    """Of the other operand, where the word says both."""
    remark: str = ""


def meaning(word: str) -> Meaning:
    """The format that `word` names.

    A name that is none of the catalog's stays a table's own: its capacity can be fitted, and its GMSE must be brought.

    Raises:
      UserError: it is one of several formats, which are named.
    """
    format_name, _, estimator = word.partition("[")
    low = re.sub(r"[\s_]+", "-", format_name.strip().lower())
    if _known(named(word)[0]):
        return Meaning(word)
    if (pair := PAIR.fullmatch(low)) is not None:
        sides = [_integer(pair[side], word) for side in ("w", "a")]
        return Meaning(sides[0], sides[1])
    if (both := re.split(r"\s+[x×]\s+|/", word)) and len(both) == 2 and all(b.strip() for b in both):
        first, second = (meaning(side.strip()) for side in both)
        if {first.name, second.name} <= {"dense", *FORMATS} and not first.activations and not second.activations:
            return Meaning(first.name, second.name)
    if low in DENSE_WORDS:
        return Meaning("dense")
    name = SAME.get(low, SAME.get(low.replace("-", ""), low))
    for candidate in (name, name.replace("-", ""), name.replace("-", "+")):
        if _known(candidate):
            return Meaning(f"{candidate} [{estimator}" if estimator else candidate)
    if (among := several(low)) is not None:
        raise UserError(
            f"{word!r} does not say which format: {', '.join(among)}; say which: --replace '{word}={among[0]}'"
        )
    close = get_close_matches(low, FORMATS, n=3, cutoff=0.6)
    hint = f"; closest: {', '.join(close)}, to be said by --replace if one is meant" if close else ""
    return Meaning(word, remark=f"no format of the catalog, whose GMSE the table has to bring{hint}")


def _known(name: str) -> bool:
    try:
        find(name)
    except UserError:
        return False
    return True


def _integer(bits: str, word: str) -> str:
    if bits in ("16", "32"):
        return "dense"
    if f"int{bits}" not in FORMATS:
        raise UserError(f"{word!r}: no format of {bits} bits is known; name it with --replace")
    return f"int{bits}"


def several(low: str) -> tuple[str, ...] | None:
    """The formats that a word, in lower case with hyphens, could be; None for a word of no known number of bits."""
    if (among := FLOATS.get(low.replace("-", "").replace("float", "fp"))) is not None:
        return among
    if (bits := BITS.fullmatch(low)) is None:
        return None
    floats = FLOATS.get(f"fp{bits['bits']}", ())
    return tuple(name for name in (f"int{bits['bits']}", *floats) if name in FORMATS) or None
