"""Options of commands that measure trained decoders, and how they read them and their text."""

import csv
import io
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

if TYPE_CHECKING:
    from capscale.checkpoints.source import Source
    from capscale.data.source import Source as Text

Found = TypeVar("Found")

AT_ONCE = 2
"""Small decoders that are measured side by side on a CPU: their operations are too small for the cores to share."""
SMALL = 2**22
"""Parameters up to which a decoder is small; a larger one keeps the cores busy by itself, and takes memory."""


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
        with closing(_side_by_side(lambda source: measure(source, text), sources)) as results:
            for source in each(sources, "runs"):
                with waiting(f"evaluating {source.path}"):
                    found.append((source, next(results)))
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


def _side_by_side(measure: "Callable[[Source], Found]", sources: "Sequence[Source]") -> "Generator[Found, None, None]":
    """Measures of every decoder, in order; once one fails or the reader stops, none is begun any more."""
    pool = ThreadPoolExecutor(_at_once(sources), "measure")
    try:
        for future in [pool.submit(measure, source) for source in sources]:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _at_once(sources: "Sequence[Source]") -> int:
    """How many of these decoders are measured side by side; one on accelerators, whose memory they would share."""
    import jax

    sizes = (sum(leaf.size for leaf in jax.tree.leaves(source.params)) for source in sources)
    cores = os.cpu_count() or 1
    return min(AT_ONCE, cores) if jax.default_backend() == "cpu" and all(size <= SMALL for size in sizes) else 1


def coordinates(source: "Source") -> dict[str, Any]:
    """Columns of a table that say which decoder, its N and its D."""
    return {"run": str(source.path), "N": source.model.non_embedding_parameters, "D": source.tokens}
