"""The picture of `capscale plot-formats`: what formats lose for the bits they store, and how far that is from best."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capscale.errors import UserError
from capscale.files import writing
from capscale.gaussian_mse import bound

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (
    ("rounded by chance, or unbiased", "8", lambda name: name.endswith(("-stochastic", "-unbiased"))),
    ("sparse, then quantized", "h", lambda name: "+" in name),
    ("sparsity", "o", lambda name: ":" in name or name.startswith(("top", "gmp", "rigl"))),
    ("Lloyd-Max", "v", lambda name: name.startswith("lloyd")),
    ("codebooks", "P", lambda name: name.startswith(("higgs", "e8p", "vq"))),
    ("nearest of low rank, or beside it", "d", lambda name: name.startswith("nearest") or "~" in name),
    ("noise", "x", lambda name: name.startswith("noise")),
    ("micro-scaled", "D", lambda name: name.startswith(("mx", "nvfp", "hif"))),
    ("floats", "s", lambda name: name[0] == "e" and name[1].isdigit()),
    ("with offsets: affine, GGML", "p", lambda name: name.startswith(("affine", "q4", "q5"))),
    ("normal floats", "X", lambda name: name.startswith(("nf4", "af4"))),
    ("absmax scales", "<", lambda name: name.startswith("absmax")),
    ("outliers apart", "*", lambda name: "outliers" in name),
    ("integers", "^", lambda name: True),
)
DEPLOYED = (
    "int1 int2 int4 int8 top50 2:4 nvfp4 mxfp4 mxint8 hif4 nf4 nf4-double-quantized "
    "q4_0 q4_k affine-int4-g128 absmax-e4m3-g128"
)
"""Named besides those that no other beats: what checkpoints and chips have."""
NEAR, FAR = (1.4, 5.6), 2.0
"""Bits, and bits beyond the bound, of the part in which most formats lie: it has a picture and names of its own."""
DPI = 150
MARK = 20  # area of a mark, in square points

Row = dict[str, Any]


def check_picture(path: Path) -> Path:
    """The path, if a picture can be written there."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--out {path}: a picture is .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no directory {path.parent}; create it first")
    return path


def plot(rows: list[Row], path: Path) -> None:
    """GMSE against bits above the rate-distortion bound, one mark a format, and the bits spent beyond that bound.

    Named are formats that no other beats at fewer bits, those of `DEPLOYED`, and all where they are few; each in one of
    the two pictures. Noise stands for ideal formats: it lies on the bound, and beats nobody.
    """
    check_picture(path)
    figure = picture(rows)
    with writing(path):
        figure.savefig(path, dpi=DPI)


def picture(rows: list[Row]) -> "Figure":
    """The figure of `plot`."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["gmse"] > 0]
    figure = Figure(figsize=(17, 8), dpi=DPI, layout="constrained")
    whole, near = figure.subplots(1, 2)
    bits = np.linspace(0, max([row["bits"] for row in rows], default=8.0), 200)
    whole.plot(bits, [bound(b) for b in bits], color="black", label="rate-distortion bound, $4^{-b}$")
    whole.set_yscale("log", base=4)
    whole.set_ylim(min([row["gmse"] for row in rows], default=1e-5) / 4, 2)
    whole.set_ylabel("GMSE, mean squared error on N(0, 1)")
    whole.set_title("Error of a format against what it stores")
    near.axhline(0, color="black")
    near.set_ylabel("bits per value beyond an ideal format of the same error")
    near.set_title(f"Distance from the bound, of {NEAR[0]} to {NEAR[1]} bits")
    inside = [row for row in rows if NEAR[0] <= row["bits"] <= NEAR[1] and (row["gap"] or 0) <= FAR]
    chosen = rows if len(rows) <= len(DEPLOYED.split()) else named(rows)
    near.set_xlim(*NEAR)
    _draw(near, inside, "gap", [row for row in chosen if row in inside])
    _draw(whole, rows, "gmse", [row for row in chosen if row not in inside])
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=9)
    return figure


def frontier(rows: Iterable[Row]) -> list[Row]:
    """Formats that no other beats in both bits and error, by bits; noise, which is no format, left out."""
    best, found = np.inf, []
    for row in sorted(rows, key=lambda row: (row["bits"], row["gmse"])):
        if row["gmse"] < best and not row["name"].startswith("noise"):
            found.append(row)
            best = row["gmse"]
    return found


def named(rows: list[Row]) -> list[Row]:
    """Rows that the picture names: the frontier, and what is deployed."""
    chosen = {row["name"] for row in frontier(rows)} | set(DEPLOYED.split())
    return [row for row in rows if row["name"] in chosen]


def _draw(axes: Any, rows: list[Row], column: str, labelled: list[Row]) -> None:
    """Marks by kind, the frontier as a line, and names that hide nothing."""
    from capscale.analysis.labels import Named, place_labels

    left = {id(row) for row in rows}
    for number, (kind, marker, belongs) in enumerate(KINDS):
        chosen = [row for row in rows if id(row) in left and belongs(row["name"])]
        left -= {id(row) for row in chosen}
        color = f"C{number % 10}"
        if chosen:
            places = [row["bits"] for row in chosen], [row[column] for row in chosen]
            axes.scatter(*places, s=MARK, marker=marker, color=color, label=kind, zorder=3, alpha=0.85)
    line = np.array([(row["bits"], row[column]) for row in frontier(rows)]).reshape(-1, 2)
    axes.plot(*line.T, color="#888888", linewidth=0.8, zorder=1, label="beaten by no other")
    axes.set_xlabel("bits per value, scales, indices and masks as they are stored")
    axes.grid(alpha=0.3)
    marks = np.array([(row["bits"], row[column]) for row in rows]).reshape(-1, 2)
    first = {row["name"] for row in frontier(rows)}
    for chosen in (True, False):  # those of the frontier have all the room, the others what is left
        of = [row for row in labelled if (row["name"] in first) is chosen]
        points = [Named(r["bits"], r[column], r["name"], r[column], r[column], MARK**0.5 / 2) for r in of]
        place_labels(axes, points, [marks])
    _drop_overlapping(axes, first)


def _drop_overlapping(axes: Any, first: set[str]) -> None:
    """Removes names that no free place was left for; those of `first` stay before others."""
    kept = []
    for text in sorted(axes.texts, key=lambda text: text.get_text() not in first):
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in kept):
            text.remove()
        else:
            kept.append(box)
