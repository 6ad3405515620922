"""The command that holds two tables of runs against each other."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from capscale.cli.fitting import FormName
from capscale.cli.reading import Reading

__all__ = ["Compare"]


@dataclass(frozen=True)
class Compare:
    """Two sweeps or tables compared: runs they share, capacities, law, settings; differences are second less first.

    Losses of one format, size, number of tokens and seed are paired. What is not comparable is said to be so, and no
    difference of it is stated.

    Examples:
      capscale compare runs/before runs/after
      capscale compare published.csv runs/mine --form logistic --html compared.html
      capscale compare runs/before runs/after --json > compared.json
    """

    first: tyro.conf.Positional[str]
    """Sweep directory or table of runs."""
    second: tyro.conf.Positional[str]
    """Another, whose differences from the first are told."""
    form: FormName = "tanh"
    """Form of rho in the law that is fitted to both."""
    bootstrap: int = 1000
    """Resamples."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    html: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write one HTML page, which holds its data, as well."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Compares them and prints Markdown."""
        from capscale.analysis.comparison.compare import compare
        from capscale.analysis.comparison.page import comparison_numbers, html, markdown
        from capscale.analysis.laws import law_named
        from capscale.analysis.numbers import json_ready
        from capscale.analysis.report import write_files
        from capscale.cli.analysis import command_line
        from capscale.cli.waiting import waiting

        first, second = (self.reading.table(path) for path in (self.first, self.second))
        with waiting(f"fitting {len(first) + len(second)} rows and {self.bootstrap} resamples of each table"):
            found = compare(first, second, law_named(self.form), self.bootstrap, (self.first, self.second))
        numbers = comparison_numbers(found, command_line())
        if self.html is not None:
            path = Path(self.html)
            write_files(path.parent, {path.name: html(numbers).encode()})
        print(json.dumps(json_ready(numbers), indent=1) if self.json else markdown(numbers))
        return 0
