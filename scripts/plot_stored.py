"""The plane of stored bits against capacity, from a table of parametrized and pruned runs, as a picture.

    python scripts/plot_stored.py experiments/results/parametrizations.csv docs/stored-numbers.png

Bits are a weight's of the linear layers: 16 a stored number, of sparse formats with their masks. Capacities are
measured off the table's dense curve, with 95 % intervals by `capscale.analysis.evidence`; the line is a smaller dense
model, which has as much capacity as it stores.
"""

import argparse
from pathlib import Path

import numpy as np
from judge_experiment import evidence_of
from matplotlib.figure import Figure

from capscale.analysis.evidence import interval
from capscale.analysis.images import image_files
from capscale.analysis.labels import Named, place_labels
from capscale.formats.catalog import find
from capscale.models.ladder import find_size
from capscale.models.parametrized import counted
from capscale.parametrizations import find_parametrization
from capscale.representation import Representation

DENSE_BITS = 16


def stored_bits(name: str, sizes: list[str]) -> float:
    """Bits a weight of the linear layers, mean over sizes."""
    held = find_parametrization(name)
    if held is None:
        return float(find(name).bits)
    found = [counted(find_size(size), Representation(parametrization=held)) for size in sizes]
    return DENSE_BITS * float(np.mean([each.stored / each.entries for each in found]))


def points(table: Path) -> list[Named]:
    """Every format of a table with its bits, capacity and interval."""
    evidence, found = evidence_of(table), []
    for curve in evidence.capacities.curves:
        row = evidence.table.first_of_curve[curve]
        sizes = sorted({str(record["model"]) for record in evidence.records if record["weights"] == row.weights})
        rho = interval(np.exp(evidence.log_rho(curve)))
        found.append(Named(stored_bits(row.weights, sizes), rho.value, curve, rho.low, rho.high))
    return found


def drawn(found: list[Named]) -> Figure:
    """The plane with both axes logarithmic."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    ends = np.array([1.5, 17.0])
    axes.plot(ends, ends / DENSE_BITS, color="#999999", linewidth=1)
    for parametrized, color in ((True, "#0b6e99"), (False, "#b3541e")):
        own = [p for p in found if (find_parametrization(p.name) is not None) == parametrized]
        low, high = ([abs(p.y - end) for p, end in zip(own, ends_, strict=True)] for ends_ in _ends(own))
        label = "numbers of a parametrization" if parametrized else "entries that are kept, and their mask"
        axes.errorbar([p.x for p in own], [p.y for p in own], [low, high], fmt="o", color=color, capsize=3, label=label)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=(0.08, 1.15))
    axes.set_xticks([2, 4, 8, 16], ["2", "4", "8", "16"])
    axes.set_yticks([0.1, 0.2, 0.4, 0.7, 1.0], ["0.1", "0.2", "0.4", "0.7", "1"])
    axes.minorticks_off()
    axes.set(xlabel="stored bits a weight", ylabel="capacity rho, of a dense model of the same loss")
    axes.set_title("What a stored number buys; the line: a smaller dense model", fontsize=10, loc="left")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    place_labels(axes, found, [np.stack([ends, ends / DENSE_BITS], axis=1)])
    return figure


def _ends(own: list[Named]) -> tuple[list[float], list[float]]:
    return [p.low for p in own], [p.high for p in own]


def main() -> None:
    """Writes the picture of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV of rows, by scripts/collect_rows.py")
    parser.add_argument("picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    found = points(arguments.table)
    arguments.picture.write_bytes(image_files("picture", drawn(found))["picture.png"])
    print("\n".join(f"{p.name}: {p.x:.3g} bits, rho {p.y:.3f} ({p.low:.3f} to {p.high:.3f})" for p in found))


if __name__ == "__main__":
    main()
