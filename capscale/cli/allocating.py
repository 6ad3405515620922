"""The command that chooses a format for every matrix of a trained decoder."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

APART = 2.0
"""Standard errors of paired differences from which one mixture is said to be better than another."""

if TYPE_CHECKING:
    from capscale.checkpoints.allocation import Allocation, Mixture
    from capscale.checkpoints.sensitivity import Sensitivity


@dataclass(frozen=True)
class Allocate:
    """Choose a format for each weight matrix of a trained decoder, within a budget of bits per value.

    Rounds one matrix at a time, in each format, and sees how the loss rises on text that was trained on. Takes the
    formats whose rises add up to the least that the bits allow, by dynamic programming, and compares, on held-out text,
    with an evolutionary search of as many evaluations (EvoPress) and with one format for all. Without training on.

    Examples:
      capscale allocate runs/demo/runs/0123456789abcdef --bits 3.5 --policy rules.txt
      capscale allocate runs/micro/runs/0123456789abcdef --bits 4.25 --weights int3 int4 nvfp4 int8 --hadamard 128
      capscale allocate llama/ --text shards/ --bits 4 --weights int3-g128 int4-g128 int8 --json
    """

    checkpoint: tyro.conf.Positional[str]
    """Directory of a run with dense weights, or of a checkpoint."""
    bits: float
    """Per value of the matrices that are compressed, on average, scales included."""
    weights: tuple[str, ...] = ("int2", "int3", "int4", "int5", "int6", "int8")
    """Formats to choose from; names as `capscale gmse --help` explains them."""
    hadamard: int | None = None
    """Largest block in which the inputs are rotated first, a power of two."""
    windows: int = 256
    """Windows of text, each of the model's context, on which rises are measured."""
    text: str | None = None
    """Text file or token shards that the run was trained on; the prose of Python's standard library if not given."""
    seed: int = 0
    """Of the evolutionary search."""
    policy: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the allocated formats as rules, one a line, for --policy "$(cat FILE)" of other commands."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Allocates, and prints what was chosen and what it costs."""
        from etils import epath

        from capscale.analysis.numbers import json_ready
        from capscale.checkpoints.allocation import allocate, rules_of_mixture
        from capscale.checkpoints.safetensors_file import local_path
        from capscale.checkpoints.source import read_source
        from capscale.cli.selecting import read_text
        from capscale.cli.waiting import waiting
        from capscale.files import write_text
        from capscale.formats.catalog import find
        from capscale.policy_names import rule_name

        formats = [find(name) for name in self.weights]
        source = read_source(local_path(self.checkpoint))
        text = read_text(self.text)
        with waiting(f"rounding the matrices of {self.checkpoint} one at a time"):
            found = allocate(
                source, formats, text, self.bits, windows=self.windows, hadamard=self.hadamard, seed=self.seed
            )
        if self.policy is not None:
            rules = rules_of_mixture(source, found, self.hadamard)
            write_text(epath.Path(local_path(self.policy)), "".join(f"{rule_name(rule)}\n" for rule in rules))
        if self.json:
            print(json.dumps(json_ready(_content(found)), indent=1))
        else:
            _show(found)
        return 0


def _content(found: "Allocation") -> dict[str, Any]:
    def matrix(one: "Sensitivity", weights: str) -> dict[str, Any]:
        told = one._asdict() | one.matrix._asdict() | {"rises": [rise._asdict() for rise in one.rises]}
        return {key: value for key, value in told.items() if key != "matrix"} | {"allocated": weights}

    return {
        "budget": found.budget,
        "expected": found.expected,
        "exact": found.exact,
        "evaluations": found.evaluations,
        "matrices": [
            matrix(one, weights) for one, weights in zip(found.sensitivities, found.allocated.weights, strict=True)
        ],
        "mixtures": [mixture._asdict() for mixture in (found.allocated, found.evolved, *found.uniform)],
    }


def _show(found: "Allocation") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if console.width < 100 and not console.is_terminal:
        console = Console(width=120)
    matrices = Table(title=f"Formats within {found.budget:g} bits per value")
    for column in ("matrix", "layer"):
        matrices.add_column(column)
    for column in ("values", "rise / error", "allocated", "evolved"):
        matrices.add_column(column, justify="right")
    every = zip(found.sensitivities, found.allocated.weights, found.evolved.weights, strict=True)
    for one, allocated, evolved in every:
        relative = f"{one.slope * one.energy:.3g}{'' if one.clear else ' ?'}"
        matrices.add_row(one.matrix.path, str(one.matrix.layer), str(one.values), relative, allocated, evolved)
    console.print(matrices)
    mixtures = Table(title="Loss of the mixtures, in nats per token above the trained weights'")
    mixtures.add_column("mixture")
    for column in ("bits", "held out", "± s.e.", "calibration", "allocated less this", "± s.e. "):
        mixtures.add_column(column, justify="right")
    for mixture in (found.allocated, found.evolved, *found.uniform):
        mixtures.add_row(*_line(mixture, mixture is found.allocated))
    console.print(mixtures)
    for line in sentences(found):
        console.print(line, highlight=False)


def _line(mixture: "Mixture", allocated: bool) -> tuple[str, ...]:
    apart = ("", "") if allocated else (f"{mixture.less:+.4f}", f"{mixture.less_se:.4f}")
    return (
        mixture.name,
        f"{mixture.bits:.4g}",
        f"{mixture.rise:+.4f}",
        f"{mixture.rise_se:.4f}",
        f"{mixture.calibrated:+.4f}",
        *apart,
    )


def _verdict(other: "Mixture") -> str:
    """How the allocated mixture compares with another on held-out text."""
    if abs(other.less) <= APART * other.less_se:
        return f"held-out text does not tell the allocated mixture from {other.name} ({other.less:+.4f})"
    word = "lower" if other.less < 0 else "higher"
    return f"the allocated mixture's held-out loss is {word} than that of {other.name}, by {abs(other.less):.4f}"


def sentences(found: "Allocation") -> list[str]:
    """Sentences that the tables leave out: whether rises add up, what was unclear, and what was not tried."""
    from capscale.checkpoints.post_training import CLEAR

    told = [
        "rise / error: rise of the loss over the relative squared error of that matrix alone, of the finest format "
        f"whose rise is beyond {CLEAR:g} standard errors; ? where none is",
        f"the rises of single matrices add up to {found.expected:+.4f} where the allocated ones together make "
        f"{found.allocated.calibrated:+.4f}, on the calibration text",
    ]
    within = [mixture for mixture in found.uniform if mixture.bits <= found.budget]
    told += [_verdict(mixture) for mixture in (found.evolved, *within[-1:])]
    if not found.exact:
        told.append("sums were thinned out: a mixture of a lower sum may exist")
    unclear = sum(not one.clear for one in found.sensitivities)
    if unclear:
        told.append(
            f"{unclear} of {len(found.sensitivities)} matrices have no clear rise in any format; --windows tells more"
        )
    return told
