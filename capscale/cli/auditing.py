"""The command that looks into a checkpoint: what formats would make of its tensors, and how it is packed."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from capscale.checkpoints.audit import Audited, FormatError


@dataclass(frozen=True)
class Audit:
    """Errors that formats make on the tensors of a checkpoint, beside those on Gaussian data (GMSE).

    Reads .safetensors, .gguf and directories of shards, tensor by tensor. Of a tensor that is packed already it tells
    the format and the bits. An error near GMSE says that the values look Gaussian to the format; the capacity rho is
    shown only there. It is that of models trained in the format, of the paper's curve (arXiv 2506.01863, Figure 6),
    and no promise about rounding after training.

    Examples:
      capscale audit model.safetensors
      capscale audit Llama-3.2-1B --formats int4 nvfp4 2:4 --hadamard 128 --signs 0 --json
      capscale audit model-Q4_0.gguf
    """

    path: tyro.conf.Positional[str]
    """A file, or a directory of shards with their index."""
    formats: tuple[str, ...] = ("int4", "nvfp4", "mxfp4", "q4_0")
    """Names as `capscale gmse --help` explains them."""
    hadamard: int | None = None
    """Largest block in which the inputs are rotated first, a power of two."""
    signs: int | None = None
    """Seed of random signs ahead of the rotation."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Reads the tensors and prints the table."""
        from capscale.checkpoints.audit import audited, overall
        from capscale.checkpoints.packed_files import stored_tensors
        from capscale.checkpoints.safetensors_file import local_path
        from capscale.cli.waiting import each
        from capscale.formats.catalog import find
        from capscale.representation import Representation

        formats = {name: find(name) for name in self.formats}
        Representation(hadamard=self.hadamard, signs=self.signs)  # which blocks are refused, and signs without one
        stored = list(stored_tensors(local_path(self.path)))
        tensors = [audited(one, formats, self.hadamard, self.signs) for one in each(stored, "tensors")]
        totals = {name: found for name in formats if (found := overall(tensors, name)) is not None}
        if self.json:
            print(json.dumps(_content(self, tensors, totals), indent=1))
        else:
            _show(self, tensors, totals)
        return 0


def _content(asked: Audit, tensors: list["Audited"], totals: dict[str, "FormatError"]) -> dict[str, Any]:
    from capscale.analysis.report import json_ready
    from capscale.checkpoints.audit import paper_curve

    return json_ready(
        {
            "input": asked.path,
            "hadamard": asked.hadamard,
            "signs": asked.signs,
            "curve": {"form": paper_curve().form.name, **dict(paper_curve().values)},
            "tensors": [
                {**one._asdict(), "errors": {name: _numbers(error) for name, error in one.errors.items()}}
                for one in tensors
            ],
            "overall": {name: _numbers(error) for name, error in totals.items()},
        }
    )


def _numbers(error: "FormatError") -> dict[str, Any]:
    return {**error._asdict(), "ratio": error.ratio}


def _show(asked: Audit, tensors: list["Audited"], totals: dict[str, "FormatError"]) -> None:
    from rich.console import Console
    from rich.table import Table

    from capscale.checkpoints.audit import paper_curve
    from capscale.files import printable
    from capscale.realised import ERROR_FACTOR

    table = Table(title=f"{printable(asked.path)}: relative error of formats, in multiples of GMSE, and capacity")
    table.add_column("tensor")
    table.add_column("shape")
    table.add_column("stored as")
    table.add_column("bits", justify="right")
    table.add_column("kurtosis", justify="right")
    for name, of in totals.items():
        table.add_column(f"{name}\n{of.bits:.4g} bits, GMSE {of.gmse:.3g}", justify="right")
    for one in tensors:
        kurtosis = "" if one.kurtosis is None else f"{one.kurtosis:.3g}"
        shape, name = " x ".join(map(str, one.shape)), printable(one.name)
        table.add_row(name, shape, one.stored, f"{one.bits:.4g}", kurtosis, *(_cell(one, n) for n in totals))
    if totals:
        table.add_section()
        table.add_row("all of them, by energy", "", "", "", "", *(_words(error) for error in totals.values()))
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, needed)  # a narrow terminal wraps lines; numbers are never cut
    console.print(table)
    if totals:
        numbers = ", ".join(f"{key} = {value:.3g}" for key, value in paper_curve().values)
        rotated = "." if asked.hadamard else "; --hadamard 128 shows them rotated."
        console.print(
            f"rho: tanh(F log_1/4 GMSE)^C, {numbers}, through the paper's integer weights (arXiv 2506.01863, Fig. 6).\n"
            "It is of models trained in the format, and left out where the error is further than a factor of "
            f"{ERROR_FACTOR} from GMSE,\nwhich then says nothing about these values{rotated}",
            highlight=False,
        )
    if reasons := sorted(
        {error.reason for one in tensors for error in one.errors.values() if error.error != error.error}
    ):
        console.print("without an error: " + "; ".join(reasons), highlight=False)


def _cell(one: "Audited", name: str) -> str:
    error = one.errors.get(name)
    return "" if error is None or error.error != error.error else _words(error)


def _words(error: "FormatError") -> str:
    rho = "rho    -" if error.rho is None else f"rho {error.rho:.2f}"
    return f"{error.error:.3g} ({error.ratio:.2f}) {rho}"
