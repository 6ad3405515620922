"""A comparison as numbers, as Markdown and as a page."""

from collections.abc import Sequence
from typing import Any

from capscale.analysis.comparison.compare import Comparison, NumberDifference
from capscale.analysis.report import as_json, environment
from capscale.analysis.sentences import compared
from capscale.analysis.sentences.rule import texts
from capscale.analysis.table import Table


def comparison_numbers(of: Comparison, command: str) -> dict[str, Any]:
    """Every number of a comparison, for JSON; differences are the second's less the first's."""
    return {
        "command": command,
        "first": _table(of.first, of.only[0]),
        "second": _table(of.second, of.only[1]),
        "comparable": of.comparable,
        "same_rows": of.same_rows,
        "shared_runs": len(of.pairs),
        "same_runs": sum(pair.same for pair in of.pairs),
        "losses": [line._asdict() | {"told": line.told} for line in of.losses],
        "capacities": _lines(of.capacities),
        "law": of.law,
        "law_numbers": _lines(of.numbers),
        "settings": [setting._asdict() for setting in of.settings],
        "reading": texts(compared.VERDICT, of),
        "notes": {
            "shared": texts(compared.SHARED, of),
            "losses": texts(compared.LOSSES, of),
            "capacities": texts(compared.CAPACITIES, of),
        },
    }


def _table(table: Table, only: Sequence[str]) -> dict[str, Any]:
    return {
        "source": table.source,
        "sha256": table.sha256,
        "runs": len(table),
        "formats_here_alone": list(only),
        "remarks": [r._asdict() for r in table.remarks],
    }


def _lines(found: Sequence[NumberDifference]) -> list[dict[str, Any]]:
    return [
        {"name": d.name, "told": d.told}
        | {side: getattr(d, side)._asdict() for side in ("first", "second", "difference")}
        for d in found
    ]


def markdown(numbers: dict[str, Any]) -> str:
    """The comparison as Markdown, in which a bar in a name is no column."""
    env = environment(escape=False)
    env.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return env.get_template("compare.md").render(c=numbers)


def html(numbers: dict[str, Any]) -> str:
    """The comparison as one page that holds its data and asks nothing of a network."""
    return environment().get_template("compare.html").render(c=numbers, data={"compare.json": as_json(numbers)})
