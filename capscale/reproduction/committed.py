"""Rows of the reproduction that come with the package, and the text that they were trained on."""

import json
from pathlib import Path
from typing import Any

from etils import epath

import capscale.experiments
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import Ladder

FOLDER = Path(capscale.experiments.__path__[0]) / "results"


def rows_of(ladder: Ladder) -> tuple[epath.Path, DataId]:
    """The table of a ladder's committed rows, and its text; UserError where none was committed."""
    table, about = FOLDER / f"reproduction-{ladder.name}.csv", FOLDER / f"reproduction-{ladder.name}.json"
    if not table.is_file() or not about.is_file():
        raise UserError(f"no rows of the {ladder.name} ladder come with capscale; train them: drop --from-rows")
    data = json.loads(about.read_text())["data"]
    return epath.Path(table), DataId(data["name"], data["sha256"], data["vocabulary"])


def about_rows(ladder: Ladder) -> dict[str, Any]:
    """How a ladder's committed rows were made: text, versions, devices, and the minutes of their runs added up."""
    told = json.loads((FOLDER / f"reproduction-{ladder.name}.json").read_text())
    return {
        "text": f"{told['data']['name']} {told['data']['sha256'][:16]}",
        "rows": f"{told['rows']} of {told['expected']} runs",
        "jax": ", ".join(told["jax"]),
        "device": ", ".join(told["device"]),
        "minutes of all runs, one after the other, as the machine was shared": told["run_minutes"],
    }
