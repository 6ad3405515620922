"""The command that evaluates checkpoints as they are."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capscale.cli.trained import OfTrained, coordinates

if TYPE_CHECKING:
    from capscale.checkpoints.evaluation import Evaluated
    from capscale.checkpoints.source import Source


@dataclass(frozen=True)
class Evaluate(OfTrained):
    """Loss of trained runs on all of the text that was held out, by their checkpoints, beside what result.json says.

    Weights and activations are held in the run's own formats, as at the end of training; nested weights at each width.
    Sweeps keep the last two checkpoints of every run. Also takes a checkpoint of Hugging Face, with --text a directory
    of token shards of its tokenizer (`capscale data`).

    Examples:
      capscale evaluate runs/demo/runs/*
      capscale evaluate runs/demo/runs/0123456789abcdef --step 3000 --json
      capscale evaluate runs/nested/runs/* --width 2
    """

    step: int | None = None
    """Step of the checkpoint; of each run its last one if not given."""
    width: int | None = None
    """Bits of one slice of nested weights; every width of them if not given."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Evaluates run by run and prints the table."""
        from capscale.analysis.numbers import json_ready
        from capscale.checkpoints.evaluation import widths

        by_run = self.measured(lambda source, text: widths(source, text, self.width), self.step)
        found = [(source, one) for source, every in by_run for one in every]
        rows = [coordinates(source) | one._asdict() | {"difference": one.difference} for source, one in found]
        self.write_rows(rows)
        if self.json:
            print(json.dumps(json_ready(rows), indent=1))
        else:
            _show(found)
        return 0


def _show(found: "list[tuple[Source, Evaluated]]") -> None:
    from capscale.checkpoints.evaluation import ROUNDING
    from capscale.cli.analysis_tables import grid, sentences, wide
    from capscale.files import printable

    lines, rows = [], []
    for source, one in found:
        name = printable(source.path.name)
        formats = one.weights if one.activations == "dense" or source.policy else f"{one.weights} x {one.activations}"
        formats += f" cache {one.cache}" if one.cache != "dense" and not source.policy else ""
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
