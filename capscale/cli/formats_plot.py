"""The picture of `capscale plot-formats`."""

from pathlib import Path
from typing import Any

import numpy as np

from capscale.cli.formats import check_picture
from capscale.files import writing
from capscale.gaussian_mse import bound

KINDS = (
    ("sparse, then quantized", "h", lambda name: "+" in name),
    ("sparsity", "o", lambda name: ":" in name or name.startswith(("top", "gmp", "rigl"))),
    ("Lloyd-Max", "v", lambda name: name.startswith("lloyd")),
    ("codebooks", "P", lambda name: name.startswith("higgs")),
    ("noise", "x", lambda name: name.startswith("noise")),
    ("micro-scaled floats", "D", lambda name: name.startswith(("mxfp", "nvfp"))),
    ("floats", "s", lambda name: name[0] == "e" and name[1].isdigit()),
    ("integers, absmax scale", "<", lambda name: name.startswith("absmax")),
    ("outliers apart", "*", lambda name: "outliers" in name),
    ("integers", "^", lambda name: True),
)
LABELLED = ("int1", "int2", "int8", "top50", "top90", "2:4", "2:4+int4", "nvfp4", "e3m0", "e5m2", "lloyd8")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """GMSE against bits, one mark a format, by kind, above the rate-distortion bound."""
    check_picture(path)
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["gmse"] > 0]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    left = {id(row) for row in rows}
    for kind, marker, belongs in KINDS:
        chosen = [row for row in rows if id(row) in left and belongs(row["name"])]
        left -= {id(row) for row in chosen}
        if chosen:
            axes.scatter([r["bits"] for r in chosen], [r["gmse"] for r in chosen], marker=marker, label=kind, zorder=3)
    for row in rows:
        if row["name"] in LABELLED or len(rows) <= len(LABELLED):
            axes.annotate(
                row["name"], (row["bits"], row["gmse"]), xytext=(5, 4), textcoords="offset points", fontsize=8
            )
    bits = np.linspace(0, max([row["bits"] for row in rows], default=8.0), 200)
    axes.plot(bits, [bound(b) for b in bits], color="black", label="rate-distortion bound, $4^{-b}$")
    axes.set_yscale("log", base=4)
    axes.set_ylim(bottom=min([row["gmse"] for row in rows], default=1e-5) / 4)
    axes.set_xlabel("bits per value, scales, indices and masks included")
    axes.set_ylabel("GMSE, mean squared error on N(0, 1)")
    axes.set_title("Error of a format against what it stores")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with writing(path):
        figure.savefig(path, dpi=150)
