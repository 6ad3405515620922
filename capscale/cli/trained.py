"""Options of commands that measure trained decoders, and how they read them and their text."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

if TYPE_CHECKING:
    from capscale.checkpoints.source import Source
    from capscale.data.source import Source as Text

Found = TypeVar("Found")


@dataclass(frozen=True)
class OfTrained:
    """Options of commands that take directories of runs, or of checkpoints, one row or table each."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Directories of runs, or of checkpoints."""
    text: str | None = None
    """Text file or token shards that the runs were trained on; the prose of Python's standard library if not given."""
    csv: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the rows there too."""

    def measured(
        self,
        measure: "Callable[[Source, Text], Found]",
        step: int | None = None,
        check: "Callable[[Source], object]" = bool,
    ) -> "list[tuple[Source, Found]]":
        """Every decoder with what `measure` makes of it and the text; `check` refuses ahead of all of that.

        Raises:
          UserError: no directories, another text than a run's, and what `check` and reading refuse.
        """
        from capscale.checkpoints.evaluation import check_text
        from capscale.checkpoints.safetensors_file import local_path
        from capscale.checkpoints.source import read_source
        from capscale.cli.selecting import read_text
        from capscale.cli.waiting import each, waiting
        from capscale.errors import UserError

        if not self.runs:
            raise UserError("name the directories of runs, such as runs/demo/runs/*")
        sources = [read_source(local_path(run), step) for run in self.runs]
        text = read_text(self.text)
        for source in sources:  # of all, ahead of the first that takes its time
            check_text(source, text)
            check(source)
        found: list[tuple[Source, Found]] = []
        for source in each(sources, "runs"):
            with waiting(f"evaluating {source.path}"):
                found.append((source, measure(source, text)))
        return found

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the rows where --csv says, if it does."""
        from etils import epath

        from capscale.checkpoints.safetensors_file import local_path
        from capscale.files import write_text

        if self.csv is None:
            return
        written = io.StringIO()
        table = csv.DictWriter(written, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(epath.Path(local_path(self.csv)), written.getvalue())


def coordinates(source: "Source") -> dict[str, Any]:
    """Columns of a table that say which decoder, its N and its D."""
    return {"run": str(source.path), "N": source.model.non_embedding_parameters, "D": source.tokens}
