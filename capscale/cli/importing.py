"""The command that shows how a table is read, and writes it in canonical columns."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from capscale.cli.reading import Reading
from capscale.errors import UserError

if TYPE_CHECKING:
    from capscale.analysis.rows import Reading as Read


@dataclass(frozen=True)
class Import:
    """Read a table of runs and show what was understood: columns, units, formats, and rows set aside.

    Reads .csv, .tsv, .txt, .json, .jsonl, .parquet, .xlsx, .gz of them, exports and run directories of W&B, event
    directories of TensorBoard, and sweeps. Every other command reads the same files in the same way.

    Examples:
      capscale import wandb_export.csv
      capscale import wandb_export.csv --map loss=final_loss --where state=finished --out runs.csv
      capscale import runs.xlsx --map N=params*1e6 --fill activations=dense --replace 4bit=int4 --out runs.csv
    """

    table: tyro.conf.Positional[str]
    """File or directory."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """File to write the table to, in canonical columns. None: only show it."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Reads, writes and prints."""
        from etils import epath

        from capscale.analysis.canonical import canonical_csv
        from capscale.analysis.report import json_ready
        from capscale.files import write_text, writing
        from capscale.storage import make_directory

        if self.out is not None and not self.out.endswith(".csv"):
            raise UserError(f"--out {self.out}: the table is written as .csv; name such a file")
        found = self.reading.read(self.table)
        if self.out is not None:
            path = epath.Path(self.out)
            with writing(path):
                make_directory(path.parent)
            write_text(path, canonical_csv(found.table).decode())
        if self.json:
            print(json.dumps(json_ready(_content(found, self.out)), indent=1))
        else:
            _show(found, self.out)
        return 0


def _content(found: "Read", out: str | None) -> dict[str, Any]:
    """JSON of a table as it was understood."""
    table = found.table
    return {
        "input": table.source,
        "sha256": table.sha256,
        "rows": len(table),
        "columns": [c._asdict() for c in found.columns],
        "formats": dict(Counter(row.curve for row in table.rows)),
        "extra": list(found.extra),
        "ignored": list(found.ignored),
        "remarks": [r._asdict() for r in table.remarks],
        "written": out,
    }


def _show(found: "Read", out: str | None) -> None:
    from capscale.cli.analysis_tables import grid, sentences

    table = found.table
    lines = [(c.name, c.source, c.note) for c in found.columns]
    grid(f"{table.source}: {len(table)} rows", ("column", "read from", "how"), lines)
    ends = {name: (table.column(name).min(), table.column(name).max()) for name in ("N", "D", "loss")}
    units = {"N": "parameters", "D": "tokens", "loss": "nats per token"}
    grid("Ranges", ("", "least", "most", "unit"), [(n, f"{a:.4g}", f"{b:.4g}", units[n]) for n, (a, b) in ends.items()])
    counts = Counter(row.curve for row in table.rows)
    first = table.first_of_curve
    formats = [(c, first[c].weights, first[c].activations, str(counts[c])) for c in table.curves]
    grid("Formats", ("format", "weights", "activations", "rows"), formats)
    sentences("Rows", [f"{r.row}: {r.what}" for r in table.remarks])
    columns = [f"{name}: numbers that come with the rows" for name in found.extra]
    sentences("Other columns", [*columns, *(f"{name}: not read" for name in found.ignored)])
    if out is not None:
        print(out)
