"""Options that say which runs of an experiment: the ladder, sizes and seeds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from capscale.models.ladder import LADDERS

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


PolicyOption = Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN=REPRESENTATION")]


@dataclass(kw_only=True)
class Selecting:
    """Options of commands that take some runs of an experiment."""

    sizes: tuple[str, ...] = ()
    """Only runs of these model sizes; all if not given. Started again with others, their runs are added."""
    seeds: tuple[int, ...] = ()
    """Seeds of every run, such as 0 1 2, in place of the experiment's own."""
    policy: PolicyOption = ()
    """Rules of every run, in place of its own representation, such as 'layers/(0|3)/.*=dense' '.*=int4'; see
    `capscale describe --help`. Runs that differ in nothing else become one."""

    @property
    def selection(self) -> "Selection":
        """Runs that these options ask for."""
        from capscale.sweep.selection import Selection

        return Selection(self.seeds, self.sizes, self.policy)

    @property
    def selecting(self) -> list[str]:
        """Arguments that select the same runs in another process."""
        sizes = ["--sizes", *self.sizes] if self.sizes else []
        seeds = ["--seeds", *map(str, self.seeds)] if self.seeds else []
        return [*sizes, *seeds, *(["--policy", *self.policy] if self.policy else [])]


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
