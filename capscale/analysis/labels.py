"""Words of a table as they stand in a picture: as they are, whatever matplotlib makes of some characters."""

from functools import cache

from matplotlib.font_manager import FontProperties, findfont, get_font

LONGEST = 60
"""Characters of the longest label; more would leave a picture no room."""


def as_label(text: str) -> str:
    r"""`text` for matplotlib, where `$` begins a formula and a name that begins with `_` is left out of legends.

    Characters that the font has not, and those that are not printed, are written as their code: `\u4e2d`. Nothing is
    lost: the page beside the picture has the text itself.
    """
    known = _characters()
    shown = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    shown = "".join(c if c.isprintable() and ord(c) in known else c.encode("unicode_escape").decode() for c in shown)
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


@cache
def _characters() -> frozenset[int]:
    """Code points of the font that labels are set in."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())
