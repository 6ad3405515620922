"""The factorize command: is capacity the product of what compresses a model?"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from capscale.cli.reading import Reading

if TYPE_CHECKING:
    from capscale.analysis.factorization import CapacityGrid, Factorization


@dataclass(frozen=True)
class Factorize:
    """Is capacity multiplicative? Capacities measured, against the product of each factor alone.

    Factors are the operands, or the stages of the weights, or the stages and the activations: what the runs of a table
    can test is found in its formats.

    Examples:
      capscale factorize
      capscale factorize runs/fig7
      capscale factorize runs.csv --factors sparsity,bits,activations --out factorization
    """

    table: tyro.conf.Positional[str | None] = None
    """Sweep directory or table with runs of each factor alone and together. None: the paper's printed figures."""
    factors: Literal["weights,activations", "sparsity,bits", "sparsity,bits,activations"] | None = None
    """Factors of the product. None: all that the formats of the table are made for."""
    bootstrap: int = 1000
    """Resamples, for tables of runs."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory for heat maps, as PNG and SVG, and factorization.json."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Factorizes the capacities and prints them."""
        from capscale.analysis.factorization import closest_product, product
        from capscale.analysis.factors import missing
        from capscale.analysis.images import image_files
        from capscale.analysis.numbers import json_ready
        from capscale.analysis.report import write_files
        from capscale.cli.analysis_tables import sentences

        grids, remarks = self._grids()
        found = [f for grid in grids for f in (product(grid), closest_product(grid))]
        source = {"table": self.table} if self.table else {}
        text = json.dumps(json_ready([source | entry(f) for f in found]), indent=1)
        if self.out is not None:
            from capscale.analysis.heat_maps import factorization_maps

            before = f"{Path(self.table).name} " if self.table else ""
            images = {k: v for f in found for k, v in image_files(_file_name(f, before), factorization_maps(f)).items()}
            write_files(self.out, {"factorization.json": text.encode(), **images})
        if self.json:
            print(text)
            return 0
        _print_summary(found)
        for f in found:
            if f.method == "product" and f.grid.draws is not None and f.tested.any():
                _print_cells(f)
        sentences("To be known", [f"{g.name}: {note}" for g in grids for note in g.notes])
        sentences("Missing", [f"{g.name}: {line}" if len(grids) > 1 else line for g in grids for line in missing(g)])
        sentences("Rows", remarks)
        return 0

    def _grids(self) -> "tuple[list[CapacityGrid], list[str]]":
        if self.table is None:
            from capscale.analysis.printed import printed
            from capscale.errors import UserError

            if self.factors is not None:
                raise UserError(f"--factors {self.factors}: printed figures have theirs; give a table of runs with it")
            return [figure.grid for figure in printed().values()], []
        from capscale.analysis.evidence import capacities_of
        from capscale.analysis.factors import grids
        from capscale.cli.waiting import waiting

        table = self.reading.table(self.table)
        with waiting(f"fitting {len(table)} rows and {self.bootstrap} resamples of them"):
            found = grids(table, capacities_of(table, self.bootstrap), self.factors)
        return found, [f"{r.row}: {r.what}" for r in table.remarks]


def entry(found: "Factorization") -> dict[str, Any]:
    """A factorization as JSON: measured, predicted and errors with intervals, nested as its axes are."""
    from capscale.analysis.factorization import entry_intervals
    from capscale.analysis.factors import missing

    grid = found.grid
    content = {"grid": grid.name, "method": found.method, **found.summary()}
    content["axes"] = [{"name": a.name, "levels": a.levels, "dense": a.dense} for a in grid.axes]
    content |= {"measured": grid.capacity.tolist(), "predicted": found.predicted.tolist()}
    content |= {"errors": found.errors.tolist(), "missing": missing(grid), "notes": grid.notes}
    for name, draws in (("measured", grid.draws), ("predicted", found.draws), ("errors", found.error_draws)):
        ends = entry_intervals(draws)
        if ends is not None:
            content |= {f"{name}_low": ends[0].tolist(), f"{name}_high": ends[1].tolist()}
    return content


def _file_name(found: "Factorization", before: str) -> str:
    """A name of letters, digits, dots and underscores."""
    return re.sub(r"[^\w.]+", "_", f"{before}{found.grid.name} {found.method}").strip("_").lower()


def _print_summary(found: "list[Factorization]") -> None:
    from capscale.cli.analysis_tables import grid, number

    rows = []
    for f in found:
        s = f.summary()
        numbers = [number(s[name], style) for name, style in (("mean_abs", ".3f"), ("median_abs", ".3f"))]
        numbers += [number(s["max_abs"], ".3f"), number(s["mean"], "+z.3f"), number(s["share_positive"], ".0%")]
        rows.append((f.grid.name, f.method, str(s["entries"]), *numbers))
    columns = ("capacities", "predicted by", "of", "mean", "median", "largest", "signed", "too low")
    grid("|measured - predicted| capacity; too low: predictions below what is measured", columns, rows)


def _print_cells(found: "Factorization") -> None:
    from capscale.analysis.factorization import entry_intervals
    from capscale.cli.analysis_tables import grid

    values = (
        (found.grid.capacity, entry_intervals(found.grid.draws), ".3f"),
        (found.predicted, entry_intervals(found.draws), ".3f"),
        (found.errors, entry_intervals(found.error_draws), "+z.3f"),
    )
    rows = []
    for at, levels in found.grid.cells():
        if found.tested[at]:
            shown = [(v[at], e[1][at] - e[0][at], style) for v, e, style in values if e is not None]
            rows.append((" x ".join(levels), *(f"{v:{style}} ± {width / 2:.3f}" for v, width, style in shown)))
    columns = (" x ".join(a.name for a in found.grid.axes), "measured", "product", "error")
    grid(f"{found.grid.name} (± half a 95 % interval)", columns, rows)
