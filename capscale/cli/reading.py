"""How commands are told to read a table: which columns, which rows, what its words mean."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from capscale.analysis.reading.choices import Choices
    from capscale.analysis.rows import Reading as Read
    from capscale.analysis.table import Table


@dataclass(frozen=True)
class Reading:
    """How the table is read; `--map`, `--where`, `--fill` and `--replace` are given once for each of their values."""

    map: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=COLUMN")] = ()
    """Column that holds N, D, loss, weights, ...; N=params*1e6 also says its unit."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="COLUMN=VALUE")] = ()
    """Rows to read, such as family=llama; several values stand between commas."""
    fill: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Value of empty cells, or of a column that is not there, such as activations=dense."""
    replace: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="WORD=MEANING")] = ()
    """Format or status that a word of the table means, such as 4bit=int4 or preempted=diverged; gradients:FP8=fp8-e5m2
    is of gradients alone."""
    keep_suspect: bool = False
    """Keep rows that look like unit mistakes."""

    @property
    def choices(self) -> "Choices":
        """The flags as values; `UserError` names one that cannot be read."""
        from capscale.analysis.reading.choices import Choices

        return Choices.parse(self.map, self.where, self.fill, self.replace)

    def read(self, path: str) -> "Read":
        """The table at `path`, read as the flags say, and what was understood of it."""
        from capscale.analysis.rows import read_all

        return read_all(path, strict=not self.keep_suspect, choices=self.choices)

    def table(self, path: str) -> "Table":
        """Table that was read, without what was said of it."""
        return self.read(path).table
