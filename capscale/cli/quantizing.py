"""The command that rounds trained weights, or attention's cache, and tells what it costs."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from capscale.cli.selecting import PolicyOption, rule_texts
from capscale.cli.trained import OfTrained, coordinates

if TYPE_CHECKING:
    from capscale.checkpoints.post_training import Refused, Rounded
    from capscale.checkpoints.rounding import Asked
    from capscale.checkpoints.source import Source

MEASURED = ("weights", "bits", "gmse", "error", "loss", "loss_se", "rise", "rise_se", "activations", "cache", "policy")
"""Columns of a row, in the table that --csv writes; before them stand the run, its N and its D."""
WEIGHTS = ("int8", "int4", "nvfp4", "mxfp4", "int3", "int2", "2:4", "top50")
"""Formats that weights are rounded to where nothing else is asked."""


@dataclass(frozen=True)
class Quantize(OfTrained):
    """Round trained runs to formats, without training on, and measure what the loss becomes.

    Reads each run's last checkpoint, rounds its weights to one format or by the rules of a policy, or attention's keys
    and values, or both, and evaluates it on all of the text that was held out. The rise of the loss has the standard
    error of paired differences. Also takes a checkpoint of Hugging Face, with --text a directory of token shards of
    its tokenizer (`capscale data`). This is rounding after training: capacities, and the law of the runs' own losses,
    are of training in the format.

    Examples:
      capscale quantize runs/demo/runs/0123456789abcdef
      capscale quantize runs/demo/runs/* --weights int8 int4 nvfp4 2:4 --csv post.csv
      capscale quantize runs/micro/runs/0123456789abcdef --weights int4 --hadamard 128 --json
      capscale quantize runs/demo/runs/0123456789abcdef --policy rules.txt --weights int4
      capscale quantize runs/demo/runs/0123456789abcdef --policy 'layers/0/.*=dense' 'head=int8' '.*=int4'
      capscale quantize runs/demo/runs/0123456789abcdef --keys int8 --values int4
    """

    weights: tuple[str, ...] | None = None
    """Formats of all weights, one after the other; names as `capscale gmse --help` explains them. None: int8 int4
    nvfp4 mxfp4 int3 int2 2:4 top50 where neither --policy, --keys nor --values is given."""
    policy: PolicyOption = ()
    """Rules, or files of rules such as `capscale allocate --policy` writes: a format for each weight. What they leave
    dense of inputs and of keys and values stays as the run has it."""
    keys: str | None = None
    """Format of attention's keys, each head and token by itself; in every row below the first."""
    values: str | None = None
    """Format of attention's values, likewise."""
    hadamard: int | None = None
    """Largest block in which the inputs, keys and values are rotated first, a power of two. Rules say their own."""
    json: bool = False
    """Print JSON, with every matrix by itself, and nothing else."""

    def __call__(self) -> int:
        """Evaluates run by run and prints the tables."""
        from capscale.analysis.numbers import json_ready
        from capscale.checkpoints.post_training import rounded

        asked = self._asked()
        found = self.measured(lambda one, text: list(rounded(one, asked, text)), check=lambda one: list(asked.of(one)))
        self.write_rows([coordinates(source) | _numbers(row) for source, rows in found for row in _rounded(rows)])
        if self.json:
            print(json.dumps(json_ready([_content(source, rows) for source, rows in found]), indent=1))
            return 0
        for source, rows in found:
            _show(source, rows)
        return 0

    def _asked(self) -> "Asked":
        """Ways to round, of what the options name."""
        from capscale.checkpoints.rounding import Asked
        from capscale.formats.catalog import find
        from capscale.policy_names import find_policy
        from capscale.representation import Representation, operand

        Representation(hadamard=self.hadamard)  # which blocks are refused
        alone = not self.policy and self.keys is None and self.values is None
        formats = [find(name) for name in ((WEIGHTS if alone else ()) if self.weights is None else self.weights)]
        policy = find_policy(rule_texts(self.policy)) if self.policy else None
        keys, values = (None if name is None else operand(name, per_token=True) for name in (self.keys, self.values))
        return Asked(formats, policy, keys, values, self.hadamard)


def _numbers(row: "Rounded") -> dict[str, Any]:
    return {name: getattr(row, name) for name in MEASURED}


def _content(source: "Source", rows: "list[Rounded | Refused]") -> dict[str, Any]:
    from capscale.checkpoints.post_training import proportion

    one = proportion(_rounded(rows))
    trained, *others = (
        _numbers(row) | {"tensors": [tensor._asdict() for tensor in row.tensors]} for row in _rounded(rows)
    )
    refused = {row.weights: row.reason for row in _refused(rows)}
    return {**coordinates(source), "trained": trained, "rounded": others, "refused": refused} | {
        "proportion": None if one is None else one._asdict()
    }


def _rounded(rows: "list[Rounded | Refused]") -> "list[Rounded]":
    from capscale.checkpoints.post_training import Rounded

    return [row for row in rows if isinstance(row, Rounded)]


def _refused(rows: "list[Rounded | Refused]") -> "list[Refused]":
    from capscale.checkpoints.post_training import Refused

    return [row for row in rows if isinstance(row, Refused)]


def _show(source: "Source", rows: "list[Rounded | Refused]") -> None:
    from rich.markup import escape
    from rich.table import Table

    from capscale.checkpoints.post_training import CLEAR, proportion
    from capscale.cli.analysis_tables import wide
    from capscale.files import printable

    trained, *others = _rounded(rows)
    told = [
        name for name in ("activations", "cache") if any(getattr(row, name) != "dense" for row in [trained, *others])
    ]
    beside = "".join(f", {name} {getattr(trained, name)}" for name in told if getattr(trained, name) != "dense")
    table = Table(
        title=f"{escape(printable(source.path.name))}: trained in {escape(_trained_in(source))}{escape(beside)}, loss "
        f"{trained.loss:.4f} ± {trained.loss_se:.4f} nats a token, and rounded"
    )
    for column in ("weights", *told):
        table.add_column(column, overflow="fold")
    for column in ("bits", "GMSE", "error", "error / GMSE", "loss", "rise", "± s.e.", "rise / GMSE"):
        table.add_column(column, justify="right")
    for row in others:
        ratio, slope = (f"{part / row.gmse:.3g}" if row.gmse > 0 else "" for part in (row.error, row.rise))
        numbers = (f"{row.bits:.4g}", f"{row.gmse:.3g}", f"{row.error:.3g}", ratio)
        names = ("policy" if row.policy else row.weights, *(getattr(row, name) for name in told))
        losses = (f"{row.loss:.4f}", f"{row.rise:+.4f}", f"{row.rise_se:.4f}", slope)
        table.add_row(*map(escape, names), *numbers, *losses)
    console = wide()
    console.print(table)
    for text in dict.fromkeys(row.policy for row in others if row.policy):
        console.print(f"policy: {text}", highlight=False, markup=False)
    if (one := proportion(_rounded(rows))) is not None:
        console.print(
            f"rise = {one.slope:.3g} x GMSE, within a factor of {one.factor:.2f} ({one.farthest}), over {one.formats} "
            f"formats: those whose rise is beyond {CLEAR:g} standard errors",
            highlight=False,
        )
    for row in _refused(rows):
        console.print(f"not rounded to {row.weights}: {printable(row.reason)}", highlight=False, markup=False)


def _trained_in(source: "Source") -> str:
    """Name of the weights' format, and of a rotation that all of them share; or the policy."""
    from capscale.representation import Representation

    if not isinstance(source.weights, Representation) or source.policy:
        return source.weights_name
    rotation = source.weights.rotation
    return source.weights_name if rotation is None else f"{source.weights_name} (Hadamard {rotation})"
