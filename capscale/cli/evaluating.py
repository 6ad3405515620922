"""The command that evaluates checkpoints as they are."""

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from capscale.checkpoints.evaluation import Evaluated
    from capscale.checkpoints.source import Source


@dataclass(frozen=True)
class Evaluate:
    """Loss of trained runs on all of the text that was held out, by their checkpoints, beside what result.json says.

    Weights and activations are held in the run's own formats, as at the end of training; nested weights at each width.
    Sweeps keep the last two checkpoints of every run. Also takes a checkpoint of Hugging Face, with --text a directory
    of token shards of its tokenizer (`capscale data`).

    Examples:
      capscale evaluate runs/demo/runs/*
      capscale evaluate runs/demo/runs/0123456789abcdef --step 3000 --json
      capscale evaluate runs/nested/runs/* --width 2
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Directories of runs, or of checkpoints."""
    step: int | None = None
    """Step of the checkpoint; of each run its last one if not given."""
    width: int | None = None
    """Bits of one slice of nested weights; every width of them if not given."""
    text: str | None = None
    """Text file or token shards that the runs were trained on; the prose of Python's standard library if not given."""
    csv: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the rows there too."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Evaluates run by run and prints the table."""
        from etils import epath

        from capscale.analysis.numbers import json_ready
        from capscale.checkpoints.evaluation import check_text, widths
        from capscale.checkpoints.safetensors_file import local_path
        from capscale.checkpoints.source import read_source
        from capscale.cli.selecting import read_text
        from capscale.cli.waiting import each, waiting
        from capscale.errors import UserError
        from capscale.files import write_text

        if not self.runs:
            raise UserError("name the directories of runs, such as runs/demo/runs/*")
        sources = [read_source(local_path(run), self.step) for run in self.runs]
        text = read_text(self.text)
        for source in sources:
            check_text(source, text)  # of all, ahead of the first that takes its time
        found: list[tuple[Source, Evaluated]] = []
        for source in each(sources, "runs"):
            with waiting(f"evaluating {source.path}"):
                found += [(source, one) for one in widths(source, text, self.width)]
        rows = [_row(*pair) for pair in found]
        if self.csv is not None:
            write_text(epath.Path(local_path(self.csv)), _csv(rows))
        if self.json:
            print(json.dumps(json_ready(rows), indent=1))
        else:
            _show(found)
        return 0


def _row(source: "Source", one: "Evaluated") -> dict[str, Any]:
    coordinates = {"run": str(source.path), "N": source.model.non_embedding_parameters, "D": source.tokens}
    return coordinates | one._asdict() | {"difference": one.difference}


def _csv(rows: list[dict[str, Any]]) -> str:
    written = io.StringIO()
    table = csv.DictWriter(written, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return written.getvalue()


def _show(found: "list[tuple[Source, Evaluated]]") -> None:
    from capscale.checkpoints.evaluation import ROUNDING
    from capscale.cli.analysis_tables import grid, sentences, wide
    from capscale.files import printable

    lines, rows = [], []
    for source, one in found:
        name = printable(source.path.name)
        formats = one.weights if one.activations == "dense" else f"{one.weights} x {one.activations}"
        said = ("", "") if one.said is None else (f"{one.said:.4f}", f"{one.difference:+.1e}")
        loss = (f"{one.loss:.4f}", f"{one.loss_se:.4f}", f"{one.bits_per_byte:.4f}")
        rows.append((name, formats, "" if one.step is None else str(one.step), *loss, *said))
        if not one.agrees:
            lines.append(
                f"{name}: its loss is not the one in result.json, beyond the {ROUNDING:g} nats that rounding makes: "
                "another version or device has evaluated it, or these are other weights"
            )
    windows = " or ".join(map(str, sorted({one.windows for _, one in found})))
    columns = ("run", "formats", "step", "loss", "± s.e.", "bits/byte", "result.json", "difference")
    grid(f"Loss in nats per token, over {windows} held-out windows", columns, rows, wide())
    sentences("To be known", lines)
