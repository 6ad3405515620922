"""The command that rounds trained weights and tells what it costs."""

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from capscale.checkpoints.post_training import Refused, Rounded
    from capscale.checkpoints.source import Source

MEASURED = ("weights", "bits", "gmse", "error", "loss", "loss_se", "rise", "rise_se")
"""Columns of a format, in the table that --csv writes; before them stand the run, its N and its D."""


@dataclass(frozen=True)
class Quantize:
    """Round the weights of trained runs to formats, without training on, and measure what the loss becomes.

    Reads each run's last checkpoint and evaluates it on all of the text that was held out. The rise of the loss has
    the standard error of paired differences. Also takes a checkpoint of Hugging Face, with --text a directory of token
    shards of its tokenizer (`capscale data`). This is rounding after training: capacities, and the law of the runs'
    own losses, are of training in the format.

    Examples:
      capscale quantize runs/demo/runs/0123456789abcdef
      capscale quantize runs/demo/runs/* --weights int8 int4 nvfp4 2:4 --csv post.csv
      capscale quantize runs/micro/runs/0123456789abcdef --weights int4 --hadamard 128 --json
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Directories of runs, or of checkpoints."""
    weights: tuple[str, ...] = ("int8", "int4", "nvfp4", "mxfp4", "int3", "int2", "2:4", "top50")
    """Names as `capscale gmse --help` explains them."""
    hadamard: int | None = None
    """Largest block in which the inputs are rotated first, a power of two."""
    text: str | None = None
    """Text file or token shards that the runs were trained on; the prose of Python's standard library if not given."""
    csv: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the rows there too."""
    json: bool = False
    """Print JSON, with every matrix by itself, and nothing else."""

    def __call__(self) -> int:
        """Evaluates run by run and prints the tables."""
        from etils import epath

        from capscale.analysis.numbers import json_ready
        from capscale.checkpoints.evaluation import check_text
        from capscale.checkpoints.post_training import rounded
        from capscale.checkpoints.safetensors_file import local_path
        from capscale.checkpoints.source import read_source
        from capscale.cli.selecting import read_text
        from capscale.cli.waiting import each, waiting
        from capscale.errors import UserError
        from capscale.files import write_text
        from capscale.formats.catalog import find
        from capscale.representation import Representation

        if not self.runs:
            raise UserError("name the directories of runs, such as runs/demo/runs/*")
        formats = [find(name) for name in self.weights]
        Representation(hadamard=self.hadamard)  # which blocks are refused
        sources = [read_source(local_path(run)) for run in self.runs]
        text = read_text(self.text)
        for source in sources:
            check_text(source, text)  # of all, ahead of the first that takes its time
        found: list[tuple[Source, list[Rounded | Refused]]] = []
        for source in each(sources, "runs"):
            with waiting(f"evaluating {source.path}"):
                found.append((source, list(rounded(source, formats, text, self.hadamard))))
        if self.csv is not None:
            write_text(epath.Path(local_path(self.csv)), _csv(found))
        if self.json:
            print(json.dumps(json_ready([_content(source, rows) for source, rows in found]), indent=1))
            return 0
        for source, rows in found:
            _show(source, rows)
        return 0


def _coordinates(source: "Source") -> dict[str, Any]:
    return {"run": str(source.path), "N": source.model.non_embedding_parameters, "D": source.tokens}


def _csv(found: "list[tuple[Source, list[Rounded | Refused]]]") -> str:
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(["run", "N", "D", *MEASURED])
    for source, rows in found:
        for row in _rounded(rows):
            table.writerow([*_coordinates(source).values(), *(getattr(row, name) for name in MEASURED)])
    return written.getvalue()


def _content(source: "Source", rows: "list[Rounded | Refused]") -> dict[str, Any]:
    from capscale.checkpoints.post_training import proportion

    one = proportion(_rounded(rows)[1:])
    trained, *others = (
        {name: getattr(row, name) for name in MEASURED} | {"tensors": [t._asdict() for t in row.tensors]}
        for row in _rounded(rows)
    )
    refused = {row.weights: row.reason for row in _refused(rows)}
    return {**_coordinates(source), "trained": trained, "rounded": others, "refused": refused} | {
        "proportion": None if one is None else one._asdict()
    }


def _rounded(rows: "list[Rounded | Refused]") -> "list[Rounded]":
    from capscale.checkpoints.post_training import Rounded

    return [row for row in rows if isinstance(row, Rounded)]


def _refused(rows: "list[Rounded | Refused]") -> "list[Refused]":
    from capscale.checkpoints.post_training import Refused

    return [row for row in rows if isinstance(row, Refused)]


def _show(source: "Source", rows: "list[Rounded | Refused]") -> None:
    from rich.table import Table

    from capscale.checkpoints.post_training import CLEAR, proportion
    from capscale.cli.analysis_tables import wide
    from capscale.files import printable

    trained, *others = _rounded(rows)
    own = source.one_format("rounding").rotation
    rotation = "" if own is None else f" (Hadamard {own})"
    table = Table(
        title=f"{printable(source.path.name)}: trained in {trained.weights}{rotation}, loss {trained.loss:.4f} "
        f"± {trained.loss_se:.4f} nats a token, and with its weights rounded"
    )
    table.add_column("weights")
    for column in ("bits", "GMSE", "error", "error / GMSE", "loss", "rise", "± s.e.", "rise / GMSE"):
        table.add_column(column, justify="right")
    for row in others:
        ratio, slope = (f"{part / row.gmse:.3g}" if row.gmse > 0 else "" for part in (row.error, row.rise))
        numbers = (f"{row.bits:.4g}", f"{row.gmse:.3g}", f"{row.error:.3g}", ratio)
        table.add_row(row.weights, *numbers, f"{row.loss:.4f}", f"{row.rise:+.4f}", f"{row.rise_se:.4f}", slope)
    console = wide()
    console.print(table)
    if (one := proportion(others)) is not None:
        console.print(
            f"rise = {one.slope:.3g} x GMSE, within a factor of {one.factor:.2f} ({one.farthest}), over {one.formats} "
            f"formats: those whose rise is beyond {CLEAR:g} standard errors",
            highlight=False,
        )
    for row in _refused(rows):
        console.print(f"not rounded to {row.weights}: {printable(row.reason)}", highlight=False, markup=False)
