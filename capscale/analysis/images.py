"""Figures as files: PNG for screens, SVG and PDF for print, the same bytes for the same figure."""

import io
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

Kind = Literal["png", "svg", "pdf"]
DPI = 160
"""Of PNG files; the others have no pixels."""
# No date and no program in the files, and names of parts that are a hash of what they are: the same rows make the same
# bytes.
STAMPS = {
    "png": {},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None},
}
SALT = "capscale"


def encoded(figure: Figure, kind: Kind) -> bytes:
    """The figure as a file of this kind.

    Example: `encoded(Figure(), "png")[1:4]` is `b"PNG"`.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": SALT}):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=STAMPS[kind])
    return buffer.getvalue()


def image_files(name: str, figure: Figure) -> dict[str, bytes]:
    """The files of a figure that is called `name`: NAME.png, and NAME.svg, which print does not blur."""
    kinds: tuple[Kind, ...] = ("png", "svg")
    return {f"{name}.{kind}": encoded(figure, kind) for kind in kinds}
