"""Options that say which runs of an experiment: the ladder, sizes and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from capscale.errors import UserError
from capscale.models.ladder import LADDERS
from capscale.train.memory import Reduce

if TYPE_CHECKING:
    from capscale.data.source import Source
    from capscale.sweep.plan import Sweep
    from capscale.sweep.selection import Selection

LadderName = Annotated[
    str,
    tyro.conf.arg(
        aliases=["--ladder-file"],
        help=f"Which model sizes: {', '.join(LADDERS)}, or a .json or .py file of your own (docs/own_ladder.md).",
    ),
]


PolicyOption = Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE|PATTERN=REPRESENTATION")]


def rule_texts(given: Sequence[str]) -> tuple[str, ...]:
    """Rules as texts, of arguments that are rules, or files of rules as `capscale allocate --policy` writes them.

    Empty lines of a file, and those that begin with #, say nothing.

    Raises:
      UserError: a file that is no text, or that holds no rule.
    """
    return tuple(rule for text in given for rule in (_of_file(Path(text)) if _is_file(text) else [text]))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a name may be, or with a zero byte
        return False


def _of_file(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--policy {path}: not a text of rules ({error}); give a file of one rule a line") from error
    if not (rules := [line for line in lines if line and not line.startswith("#")]):
        raise UserError(f"--policy {path}: holds no rule; write one a line, such as .*=int4")
    return rules


@dataclass(kw_only=True)
class Selecting:
    """Options of commands that take some runs of an experiment."""

    sizes: tuple[str, ...] = ()
    """Only runs of these model sizes; all if not given. Started again with others, their runs are added."""
    seeds: tuple[int, ...] = ()
    """Seeds of every run, such as 0 1 2, in place of the experiment's own."""
    policy: PolicyOption = ()
    """Rules of every run, in place of its own representation, such as 'layers/(0|3)/.*=dense' '.*=int4', or files of
    rules; see `capscale describe --help`. Runs that differ in nothing else become one."""
    reduce: Reduce | None = None
    """Dtype in which devices send each other gradients, in place of the runs' own, float32. By bfloat16 half as many
    bytes are sent, and the runs are others, with ids of their own, as each device's part is rounded. Means --mode mesh;
    with --fsdp it needs --gather step or codes."""

    @property
    def selection(self) -> "Selection":
        """Runs that these options ask for."""
        from capscale.sweep.selection import Selection

        return Selection(self.seeds, self.sizes, rule_texts(self.policy), self.reduce)

    @property
    def selecting(self) -> list[str]:
        """Arguments that select the same runs in another process."""
        sizes = ["--sizes", *self.sizes] if self.sizes else []
        seeds = ["--seeds", *map(str, self.seeds)] if self.seeds else []
        reduce = [] if self.reduce is None else ["--reduce", self.reduce]
        return [*sizes, *seeds, *reduce, *(["--policy", *rule_texts(self.policy)] if self.policy else [])]


def planned(experiment: str, ladder: str, selection: "Selection", text: str | None) -> "tuple[Sweep, Source]":
    """The runs that a command is about, and its text; what is cheap to refuse is refused before the text is read."""
    from capscale.data.load import unread_id
    from capscale.sweep.plan import find_experiment

    found = find_experiment(experiment, ladder)
    found.plan(unread_id(text), selection)
    source = read_text(text)
    return found.plan(source.id, selection), source


def read_text(text: str | None) -> "Source":
    """The text that training reads, with a word on a terminal where that takes long."""
    from capscale.cli.waiting import waiting
    from capscale.data.load import load_source

    with waiting(f"reading and hashing {text or 'the text'}"):
        return load_source(text)
